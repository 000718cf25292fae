"""How the planes of one worker are configured: their tokens, limits and accounts, and what is said of wrong ones."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from config.settings import SettingsError, load_settings

WriteFile = Callable[[str], Path]
REACH = 'control_plane = "https://control.example"\n'


@pytest.fixture
def write_file(tmp_path: Path) -> WriteFile:
    def write(text: str) -> Path:
        path = tmp_path / "countermand.toml"
        path.write_text(text)
        return path

    return write


def refusal(path: Path) -> list[str]:
    """What is said of a file, line by line, without its name."""
    with pytest.raises(SettingsError) as refused:
        load_settings(path)
    return [line.removeprefix(str(path)) for line in str(refused.value).splitlines()]


def test_planes_have_tokens_and_limits_of_their_own(write_file: WriteFile) -> None:
    north = 'token_file = "/north"\ndata_plane = "north"\nmax_in_flight = 2\nstops_per_second = 0.5\n'
    text = (
        f'{REACH}[worker]\nmax_in_flight = 9\n[worker.planes.north]\n{north}[worker.planes."south pole"]\ntoken = "s"'
    )

    worker = load_settings(write_file(text)).worker

    first, second = worker.planes.values()
    assert list(worker.planes) == ["north", "south pole"]
    assert (first.token_file, first.data_plane, first.max_in_flight) == (Path("/north"), "north", 2)
    assert (first.stops_per_second, second.max_in_flight, worker.max_in_flight) == (0.5, None, 9)
    assert second.token is not None
    assert second.token.get_secret_value() == "s"


def test_a_plane_can_be_made_of_variables_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COUNTERMAND_CONTROL_PLANE", "https://control.example")
    monkeypatch.setenv("COUNTERMAND_WORKER__PLANES__NORTH__TOKEN", "s3cret")
    monkeypatch.setenv("COUNTERMAND_WORKER__PLANES__NORTH__SNOWFLAKE__ACCOUNT", "o-a")

    [(name, plane)] = load_settings().worker.planes.items()

    assert (name, plane.snowflake and plane.snowflake.account) == ("north", "o-a")
    assert plane.token is not None


def test_a_token_of_the_environment_replaces_the_planes_token_file(
    write_file: WriteFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_file(f'{REACH}[worker.planes.north]\ntoken_file = "/north"\nmax_in_flight = 2')
    monkeypatch.setenv("COUNTERMAND_WORKER__PLANES__NORTH__TOKEN", "s3cret")

    plane = load_settings(path).worker.planes["north"]

    assert (plane.token and plane.token.get_secret_value(), plane.token_file, plane.max_in_flight) == (
        "s3cret",
        None,
        2,
    )


# --- a plane's own account ---

ACCOUNTS = """
[snowflake]
account = "o-top"
warehouse = "W"
user = "top"
token = "s3cret"
[worker.planes.north]
token_file = "/north"
[worker.planes.south]
token_file = "/south"
[worker.planes.south.snowflake]
account = "o-south"
user = "south"
private_key_file = "/south.p8"
"""


def test_the_account_of_a_plane_has_nothing_of_the_common_one_nor_of_the_customary_variables(
    write_file: WriteFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SNOWFLAKE_ROLE", "R")
    monkeypatch.setenv("COUNTERMAND_SNOWFLAKE__DATABASE", "D")

    settings = load_settings(write_file(REACH + ACCOUNTS))

    south = settings.worker.planes["south"].snowflake
    assert south is not None
    assert (south.account, south.warehouse, south.database) == ("o-south", None, None)
    assert south.sign_in("worker").given() == {"user": "south", "private_key_file": Path("/south.p8")}
    assert settings.worker.planes["north"].snowflake is None
    assert (settings.snowflake.account, settings.snowflake.database) == ("o-top", "D")


def test_a_way_to_sign_in_of_the_environment_replaces_that_of_the_planes_account(
    write_file: WriteFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COUNTERMAND_WORKER__PLANES__SOUTH__SNOWFLAKE__TOKEN_FILE", "/south.token")

    south = load_settings(write_file(REACH + ACCOUNTS)).worker.planes["south"].snowflake

    assert south is not None
    assert south.sign_in("worker").given() == {"user": "south", "token_file": Path("/south.token")}


def test_a_side_of_a_planes_account_replaces_what_it_inherits(
    write_file: WriteFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    side = '[worker.planes.south.snowflake.worker]\nprivate_key_file = "/w.p8"\nprivate_key_password = "s3cret"'
    monkeypatch.setenv("COUNTERMAND_WORKER__PLANES__SOUTH__SNOWFLAKE__WORKER__WORKLOAD_IDENTITY", "aws")

    south = load_settings(write_file(REACH + ACCOUNTS + side)).worker.planes["south"].snowflake

    assert south is not None
    assert south.sign_in("worker").given() == {"user": "south", "workload_identity": "AWS"}


# --- what is wrong ---

NORTH = '[worker.planes.north]\ntoken_file = "/t"\n'


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (NORTH, "worker.planes should be absent without control_plane: set control_plane ="),
        (f"{REACH}[worker.planes.north]", "worker.planes.north.token_file should be given, or else token"),
        (f'{REACH}{NORTH}token = "s3cret"', "worker.planes.north.token_file should be absent beside a token"),
        (
            f'{REACH}{NORTH}[worker.planes.south]\ntoken_file = "//t"',
            "worker.planes.south.token_file should be another",
        ),
        (
            f'{REACH}worker.planes = {{a = {{token = "s3cret"}}, b = {{token = "s3cret"}}}}',
            "worker.planes.b.token should be another than that of a: a token is bound to one plane.",
        ),
        (f'{REACH}worker.planes.north = "s3cret"', "worker.planes.north should be a section with settings of its own."),
        (f"{REACH}{NORTH}max_in_flight = 0", "worker.planes.north.max_in_flight should be greater than or equal to 1"),
        (f"{REACH}{NORTH}stops_per_second = 0", "worker.planes.north.stops_per_second should be greater than 0"),
        (f"{REACH}{NORTH}stops_per_second = inf", "worker.planes.north.stops_per_second should be a finite number"),
        (f'{REACH}[worker.planes.""]\ntoken = "s3cret"', 'worker.planes."" should have at least 1 character'),
        (
            f"{REACH}{NORTH}snowflake.call_timeout_seconds = 40",
            "worker.planes.north.snowflake.call_timeout_seconds should be less than worker.lease_seconds, which is 30",
        ),
        (
            f'{REACH}{NORTH}snowflake = {{token = "s3cret", token_file = "/x"}}',
            "worker.planes.north.snowflake should be given one way to sign in, not token_file and token",
        ),
        (f"{REACH}{NORTH}max_in_flihgt = 3", "worker.planes.north.max_in_flihgt is not a setting; did you mean"),
        ('control_plane = "control.example"', "control_plane should be http://host:port or https://host."),
        ('control_plane = "https://ada:s3cret@host"', "control_plane should be without a name and a password"),
        ('tls.client_key_file = "/k"', "tls.client_key_file should be absent without client_certificate_file"),
        ('worker.metrics_listen = "9470"', "worker.metrics_listen should be host:port"),
        ('executor.metrics_listen = "9470"', "executor.metrics_listen should be host:port"),
    ],
)
def test_a_wrong_plane_is_refused_in_a_sentence_without_secrets(
    write_file: WriteFile, text: str, sentence: str
) -> None:
    [line] = refusal(write_file(text))

    assert sentence in line
    assert "s3cret" not in line


def test_reading_the_settings_needs_neither_the_store_nor_the_web_framework() -> None:
    program = (
        "import sys; from config.settings import load_settings; load_settings();"
        "print([name for name in ('sqlalchemy', 'litestar', 'alembic', 'psycopg') if name in sys.modules])"
    )

    told = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)

    assert told.stdout == "[]\n"
