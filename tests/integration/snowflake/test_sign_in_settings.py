"""Every way to sign in that the settings offer, from the text of the settings to a session on the account."""

import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, NoEncryption

from adapters.snowflake.account import SIGN_IN_SECONDS
from adapters.snowflake.line import Identity, Line, LineError
from config.settings import Settings, load_settings
from control_plane.errors import BadInput
from control_plane.jobs import Waiting
from tests.integration.snowflake.test_signing_in import new_key
from tests.snowflake import SnowflakeDouble
from workers.cli.snowflake import account_of, adapter_options, sign_in_of

pytestmark = pytest.mark.anyio
Configure = Callable[[str], Settings]


@pytest.fixture
def configure(snowflake_double: SnowflakeDouble, tmp_path: Path) -> Configure:
    """Settings for the account, from a file whose sign-in is this text."""
    place = snowflake_double.account()
    path = tmp_path / "countermand.toml"

    def write(text: str) -> Settings:
        address = f'account = "{place.account}"\nhost = "{place.host}"\nport = {place.port}\nprotocol = "http"'
        path.write_text(f'[snowflake]\n{address}\ndatabase = "ANALYTICS"\nwarehouse = "COMPUTE_WH"\n{text}')
        return load_settings(path)

    return write


def line_of(settings: Settings) -> Line:
    return Line(account_of(settings), sign_in_of(settings, "worker"), timeout_seconds=5.0, tag="tests")


async def signed_in(settings: Settings) -> str:
    """Whom the account takes the worker for."""
    line = line_of(settings)
    try:
        return (await line.identity()).user
    finally:
        await line.aclose()


@pytest.mark.parametrize("password", [None, "pa55", "in a file"])
async def test_a_key_pair_signs_in_with_or_without_a_password(
    configure: Configure, snowflake_double: SnowflakeDouble, own_user: str, tmp_path: Path, password: str | None
) -> None:
    key = tmp_path / "key.p8"
    public_key = new_key(key, BestAvailableEncryption(password.encode()) if password else NoEncryption())
    snowflake_double.administer(f"ALTER USER {own_user} SET RSA_PUBLIC_KEY = '{public_key}'")
    (tmp_path / "password").write_text(f"{password}\n")
    how = {
        None: "",
        "pa55": 'private_key_password = "pa55"',
        "in a file": f'private_key_password_file = "{tmp_path / "password"}"',
    }

    settings = configure(f'user = "{own_user}"\nprivate_key_file = "{key}"\n{how[password]}')

    assert await signed_in(settings) == own_user


async def test_a_programmatic_access_token_signs_in(
    configure: Configure, snowflake_double: SnowflakeDouble, own_user: str
) -> None:
    (token,) = snowflake_double.administer(f"ALTER USER {own_user} ADD PROGRAMMATIC ACCESS TOKEN t")

    assert await signed_in(configure(f'user = "{own_user}"\ntoken = "{token}"')) == own_user


async def test_an_oauth_token_signs_in(configure: Configure, snowflake_double: SnowflakeDouble) -> None:
    token = secrets.token_hex(16)
    snowflake_double.issue_oauth_token("CANCELLER", token)

    settings = configure(f'user = "CANCELLER"\ntoken = "{token}"\ntoken_kind = "oauth"')

    assert await signed_in(settings) == "CANCELLER"


async def test_a_token_file_is_read_anew_at_each_sign_in(
    configure: Configure, snowflake_double: SnowflakeDouble, tmp_path: Path
) -> None:
    file = tmp_path / "token"
    first, second = secrets.token_hex(16), secrets.token_hex(16)
    snowflake_double.issue_oauth_token("CANCELLER", first)
    file.write_text(f"{first}\n")
    line = line_of(configure(f'user = "CANCELLER"\ntoken_file = "{file}"\ntoken_kind = "oauth"'))
    await line.identity()

    file.write_text("no longer good")
    snowflake_double.lose_sessions("CANCELLER", "gone")
    refusals = [await refusal(line), await refusal(line)]
    snowflake_double.issue_oauth_token("CANCELLER", second)
    file.write_text(f"{second}\n")
    answer = await line.ask("SELECT CURRENT_USER()")

    assert refusals[-1].trouble.waiting is Waiting.NOT_PERMITTED
    assert answer == [("CANCELLER",)]
    await line.aclose()


async def refusal(line: Line) -> LineError:
    """Why the line does not answer."""
    with pytest.raises(LineError) as refused:
        await line.ask("SELECT CURRENT_USER()")
    return refused.value


@pytest.mark.parametrize("way", ['token = "s3cret"', 'token = "s3cret"\ntoken_kind = "oauth"', "key"])
async def test_a_refusal_names_the_user_and_no_secret(
    configure: Configure, tmp_path: Path, way: str, caplog: pytest.LogCaptureFixture
) -> None:
    new_key(tmp_path / "key.p8", BestAvailableEncryption(b"s3cret"))
    key = f'private_key_file = "{tmp_path / "key.p8"}"\nprivate_key_password = "s3cret"'
    line = line_of(configure(f'user = "CANCELLER"\n{key if way == "key" else way}'))

    with caplog.at_level("DEBUG"):
        error = await refusal(line)

    assert error.trouble.waiting is Waiting.NOT_PERMITTED
    assert error.message.startswith("COUNTERMAND refused CANCELLER: ")
    assert "s3cret" not in f"{error!r} {error.__cause__!r} {caplog.text}"
    await line.aclose()


async def test_each_side_signs_in_as_itself_and_the_adapter_is_told_of_both(
    configure: Configure, snowflake_double: SnowflakeDouble
) -> None:
    tokens = {user: secrets.token_hex(16) for user in ("CANCELLER", "EXECUTOR")}
    for user, token in tokens.items():
        snowflake_double.issue_oauth_token(user, token)
    settings = configure(
        f'token_kind = "oauth"\n[snowflake.worker]\nuser = "CANCELLER"\ntoken = "{tokens["CANCELLER"]}"\n'
        f'token_kind = "oauth"\n[snowflake.executor]\nuser = "executor"\ntoken = "{tokens["EXECUTOR"]}"\n'
        'token_kind = "oauth"'
    )

    told = adapter_options(settings)

    assert told["executor_user"] == "EXECUTOR"
    for name, user in (("sign_in", "CANCELLER"), ("canary", "EXECUTOR")):
        line = Line(told["account"], told[name], timeout_seconds=5.0, tag="tests")
        assert await line.identity() == Identity(snowflake_double.incarnation, user)
        await line.aclose()
    assert [token for token in tokens.values() if token in repr(told)] == []


def test_an_executors_key_that_the_worker_may_not_read_leaves_the_canary_out(configure: Configure) -> None:
    text = (
        '[snowflake.worker]\nuser = "w"\ntoken = "t"\n[snowflake.executor]\nuser = "e"\nprivate_key_file = "/nowhere"'
    )

    told = adapter_options(configure(text))

    assert (told["executor_user"], told["canary"]) == ("E", None)
    with pytest.raises(BadInput, match="private_key_file: /nowhere cannot be read"):
        sign_in_of(configure(text), "executor")


# --- what cannot be tried here: the connector is given what its documentation asks for ---


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('workload_identity = "AWS"', {"workload_identity_provider": "AWS"}),
        ('workload_identity = "azure"', {"workload_identity_provider": "AZURE"}),
        ('workload_identity = "GCP"', {"workload_identity_provider": "GCP"}),
        ('workload_identity = "OIDC"\ntoken = "t"', {"workload_identity_provider": "OIDC", "token": "t"}),
    ],
)
def test_a_workloads_identity_is_handed_to_the_connector(
    configure: Configure, text: str, expected: dict[str, Any]
) -> None:
    settings = configure(f'user = "svc"\nrole = "r"\n{text}')

    given = account_of(settings).options(sign_in_of(settings, "worker"), timeout_seconds=5)

    signing = {"user": "svc", "role": "r", "authenticator": "WORKLOAD_IDENTITY", **expected}
    names = {
        "user",
        "role",
        "authenticator",
        "token",
        "token_file_path",
        "workload_identity_provider",
        "private_key_file",
    }
    assert {name: value for name, value in given.items() if name in names} == signing
    assert given["login_timeout"] == SIGN_IN_SECONDS
