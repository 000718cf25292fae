"""``countermand worker --check-config`` tells everything that is wrong with the files of the settings, at once."""

from pathlib import Path

import pytest

from config.settings import load_settings
from control_plane.errors import BadInput
from workers.cli.remote_worker import check_remote_worker


@pytest.fixture
def checked(tmp_path: Path) -> Path:
    """A settings file beside which nothing lies that it names, but one token."""
    (tmp_path / "token").write_text("ctm_token")
    file = tmp_path / "worker.toml"
    file.write_text(
        f"""
        control_plane = "https://control-plane.example"
        [tls]
        ca_file = "{tmp_path}/ca.pem"
        client_certificate_file = "{tmp_path}/own.pem"
        [worker.planes.north]
        token_file = "{tmp_path}/token"
        executor_token_file = "{tmp_path}/north-executor.token"
        [worker.planes.south]
        token_file = "{tmp_path}/south.token"
        [worker.planes.snow]
        token_file = "{tmp_path}/snow.token"
        [worker.planes.snow.snowflake]
        account = "MYORG-MYACCOUNT"
        user = "COUNTERMAND_CANCELLER"
        private_key_file = "{tmp_path}/snow.p8"
        """
    )
    return file


def test_every_file_that_cannot_be_read_is_told_at_once(checked: Path) -> None:
    with pytest.raises(BadInput) as caught:
        check_remote_worker(load_settings(checked), [])

    told = [line.partition(": ")[0] for line in caught.value.message.splitlines()]
    assert told == [
        "tls.ca_file",
        "tls.client_certificate_file",
        "worker.planes.north.executor_token_file",
        "worker.planes.south.token_file",
        "worker.planes.snow.token_file",
        "worker.planes.snow.snowflake.database",
        "worker.planes.snow.snowflake.worker.private_key_file",
    ]


def test_a_planes_own_account_is_not_told_of_settings_that_it_takes_nothing_from(checked: Path) -> None:
    with pytest.raises(BadInput) as caught:
        check_remote_worker(load_settings(checked), ["snow"])

    assert "set database in [worker.planes.snow.snowflake]" in caught.value.message
    assert "SNOWFLAKE_DATABASE" not in caught.value.message
