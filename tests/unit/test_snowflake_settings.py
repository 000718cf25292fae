"""How an account on Snowflake is configured: whose sign-in counts, where it comes from, what is said of a wrong one."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from config.settings import Settings, SettingsError, load_settings
from config.snowflake import CUSTOMARY, WAYS, SignInSettings, SnowflakeSettings

WriteFile = Callable[[str], Path]
PAGE = (Path(__file__).parents[2] / "docs" / "snowflake.md").read_text()
EXAMPLES = re.findall(r"```toml\n(.*?)```", PAGE, flags=re.DOTALL)
SECRETS = ("s3cret", "s3same", "s3file")


@pytest.fixture
def write_file(tmp_path: Path) -> WriteFile:
    def write(text: str) -> Path:
        path = tmp_path / "countermand.toml"
        path.write_text(text)
        return path

    return write


def revealed(found: SignInSettings) -> dict[str, Any]:
    """What is set, secrets too, paths as text."""
    return {
        name: value.get_secret_value() if isinstance(value, SecretStr) else str(value)
        for name, value in found.given().items()
    }


# --- the page ---


def test_the_settings_of_the_page_give_both_sides_a_sign_in(write_file: WriteFile) -> None:
    [whole] = [example for example in EXAMPLES if example.startswith("[")]

    account = load_settings(write_file(whole)).snowflake

    assert (account.sign_in("worker").user, account.sign_in("executor").user) == (
        "COUNTERMAND_CANCELLER",
        "COUNTERMAND_EXECUTOR",
    )


@pytest.mark.parametrize("example", [example for example in EXAMPLES if not example.startswith("[")])
def test_each_sign_in_of_the_page_is_one_way(write_file: WriteFile, example: str) -> None:
    account = load_settings(write_file(f"[snowflake.worker]\n{example}")).snowflake

    assert len(set(WAYS) & account.sign_in("worker").given().keys()) == 1


def test_the_page_names_every_setting_of_an_account_and_every_customary_variable() -> None:
    variables = {names[0] for names in CUSTOMARY.values()}

    assert [name for name in {*SnowflakeSettings.model_fields, *variables} if not re.search(rf"\b{name}\b", PAGE)] == []


# --- each side's sign-in ---


def test_without_sections_of_their_own_both_sides_sign_in_alike(write_file: WriteFile) -> None:
    account = load_settings(write_file('[snowflake]\nuser = "ada"\nrole = "r"\ntoken = "s3cret"')).snowflake

    expected = {"user": "ada", "role": "r", "token": "s3cret"}
    assert (revealed(account.sign_in("worker")), revealed(account.sign_in("executor"))) == (expected, expected)


def test_a_side_that_names_its_user_has_nothing_of_the_common_sign_in(write_file: WriteFile) -> None:
    common = '[snowflake]\nuser = "ada"\nrole = "r"\ntoken = "s3cret"\ntoken_kind = "oauth"'

    account = load_settings(write_file(f'{common}\n[snowflake.worker]\nuser = "eve"')).snowflake

    assert revealed(account.sign_in("worker")) == {"user": "eve"}


@pytest.mark.parametrize(
    ("own", "expected"),
    [
        ('role = "q"', {"user": "ada", "role": "q", "private_key_file": "/k", "private_key_password": "s3cret"}),
        ('token = "s3same"', {"user": "ada", "role": "r", "token": "s3same"}),
        ('workload_identity = "gcp"', {"user": "ada", "role": "r", "workload_identity": "GCP"}),
        (
            'private_key_password_file = "/p"',
            {"user": "ada", "role": "r", "private_key_file": "/k", "private_key_password_file": "/p"},
        ),
        ('private_key_file = "/own"', {"user": "ada", "role": "r", "private_key_file": "/own"}),
    ],
)
def test_a_side_that_names_no_user_adds_to_the_common_sign_in_and_replaces_its_way(
    write_file: WriteFile, own: str, expected: dict[str, str]
) -> None:
    common = '[snowflake]\nuser = "ada"\nrole = "r"\nprivate_key_file = "/k"\nprivate_key_password = "s3cret"'

    account = load_settings(write_file(f"{common}\n[snowflake.executor]\n{own}")).snowflake

    assert revealed(account.sign_in("executor")) == expected


def test_a_way_to_sign_in_of_our_environment_replaces_that_of_the_file(
    write_file: WriteFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_file('[snowflake.worker]\nuser = "ada"\nprivate_key_file = "/k"\nprivate_key_password = "s3file"')
    monkeypatch.setenv("COUNTERMAND_SNOWFLAKE__WORKER__TOKEN", "s3cret")

    account = load_settings(path).snowflake

    assert revealed(account.sign_in("worker")) == {"user": "ada", "token": "s3cret"}


def test_a_password_of_our_environment_goes_with_the_key_of_the_file(
    write_file: WriteFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_file('[snowflake]\nuser = "ada"\nprivate_key_file = "/k"\nprivate_key_password_file = "/p"')
    monkeypatch.setenv("COUNTERMAND_SNOWFLAKE__PRIVATE_KEY_PASSWORD", "s3cret")

    found = revealed(load_settings(path).snowflake.sign_in("worker"))

    assert found == {"user": "ada", "private_key_file": "/k", "private_key_password": "s3cret"}


# --- the variables of Snowflake's own tools ---


def test_the_customary_variables_alone_configure_an_account(monkeypatch: pytest.MonkeyPatch) -> None:
    told = {"account": "o-a", "host": "localhost", "port": "80", "protocol": "http", "warehouse": "w", "database": "d"}
    told |= {"user": "ada", "role": "r", "private_key_path": "/k", "private_key_passphrase": "s3cret"}
    for name, value in told.items():
        monkeypatch.setenv(f"SNOWFLAKE_{name.upper()}", value)

    account = load_settings().snowflake

    assert (account.account, account.host, account.port, account.protocol) == ("o-a", "localhost", 80, "http")
    assert (account.warehouse, account.database) == ("W", "D")
    expected = {"user": "ada", "role": "r", "private_key_file": "/k", "private_key_password": "s3cret"}
    assert revealed(account.sign_in("worker")) == expected


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"TOKEN": "s3cret"}, {"token": "s3cret"}),
        ({"TOKEN": "s3cret", "TOKEN_FILE_PATH": "/t"}, {"token": "s3cret"}),
        ({"TOKEN_FILE_PATH": "/t", "AUTHENTICATOR": "oauth"}, {"token_file": "/t", "token_kind": "oauth"}),
        ({"TOKEN": "s3cret", "AUTHENTICATOR": "programmatic_access_token"}, {"token": "s3cret"}),
        ({"TOKEN": "s3cret", "PRIVATE_KEY_FILE": "/k"}, {"private_key_file": "/k"}),
        (
            {"TOKEN": "s3cret", "PRIVATE_KEY_FILE": "/k", "AUTHENTICATOR": "OAUTH"},
            {"token": "s3cret", "token_kind": "oauth"},
        ),
        ({"TOKEN": "s3cret", "AUTHENTICATOR": "externalbrowser"}, {}),
        (
            {"TOKEN": "s3cret", "AUTHENTICATOR": "WORKLOAD_IDENTITY", "WORKLOAD_IDENTITY_PROVIDER": "oidc"},
            {"token": "s3cret", "workload_identity": "OIDC"},
        ),
    ],
)
def test_the_customary_variables_give_one_way_to_sign_in_whatever_else_is_set(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], expected: dict[str, str]
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(f"SNOWFLAKE_{name}", value)

    assert revealed(load_settings().snowflake) == expected


@pytest.mark.parametrize(
    ("own", "expected"),
    [
        ('user = "eve"', {"user": "eve"}),
        ('user = "ADA"', {"user": "ADA", "role": "r", "token": "s3cret"}),
        ('token_file = "/t"', {"user": "ada", "role": "r", "token_file": "/t"}),
    ],
)
def test_what_is_written_for_us_wins_and_another_users_secrets_are_left_out(
    write_file: WriteFile, monkeypatch: pytest.MonkeyPatch, own: str, expected: dict[str, str]
) -> None:
    for name, value in {"USER": "ada", "ROLE": "r", "TOKEN": "s3cret"}.items():
        monkeypatch.setenv(f"SNOWFLAKE_{name}", value)

    assert revealed(load_settings(write_file(f"[snowflake]\n{own}")).snowflake) == expected


def test_the_address_of_another_account_is_left_out(write_file: WriteFile, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"ACCOUNT": "o-theirs", "HOST": "theirs", "PORT": "1", "WAREHOUSE": "w"}.items():
        monkeypatch.setenv(f"SNOWFLAKE_{name}", value)

    account = load_settings(write_file('[snowflake]\naccount = "o-ours"')).snowflake

    assert (account.account, account.host, account.port, account.warehouse) == ("o-ours", None, None, "W")


def test_every_customary_variable_sets_a_setting() -> None:
    assert [name for name in CUSTOMARY if name not in SnowflakeSettings.model_fields] == []


# --- what is wrong ---


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ('account = "https://x.snowflakecomputing.com"', "snowflake.account should be an account identifier such as"),
        ('account = "x.snowflakecomputing.com"', "snowflake.account should be an account identifier such as"),
        ('account = ""', "snowflake.account should be an account identifier such as"),
        ('host = "https://h"', "snowflake.host should be a host alone, without https://"),
        ("port = 0", "snowflake.port should be greater than or equal to 1, not 0."),
        ('protocol = "http"', "snowflake.protocol should be 'https', unless host is a loopback address"),
        ('host = "10.0.0.1"\nprotocol = "http"', "snowflake.protocol should be 'https', unless host is a loopback"),
        ('protocol = "ftp"', "snowflake.protocol should be 'https' or 'http', not 'ftp'."),
        ('database = "my-db"', "snowflake.database should be a name that needs no quotes: letters"),
        ('warehouse = "a; b"', "snowflake.warehouse should be a name that needs no quotes: letters"),
        ("statement_timeout_seconds = 0", "snowflake.statement_timeout_seconds should be greater than or equal to 1"),
        ("queued_timeout_seconds = 604801", "snowflake.queued_timeout_seconds should be less than or equal to 604800"),
        ("call_timeout_seconds = 0", "snowflake.call_timeout_seconds should be greater than 0"),
        ('user = ""', "snowflake.user should have at least 1 character"),
        ('token = ""', "snowflake.token should have at least 1 item"),
        ('token_kind = "jwt"', "snowflake.token_kind should be 'pat' or 'oauth', not 'jwt'."),
        ('workload_identity = "ALIBABA"', "snowflake.workload_identity should be 'AWS', 'AZURE', 'GCP' or 'OIDC'"),
        ('password = "s3cret"', "snowflake.password is not a setting; "),
        ('token = ["s3cret"]', "snowflake.token should be a valid string."),
        ('private_key_password = ["s3cret"]', "snowflake.private_key_password should be a valid string."),
        (
            'token = "s3cret"\nprivate_key_file = "k"',
            "snowflake should be given one way to sign in, not private_key_file and token: keep one of them.",
        ),
        (
            'token = "s3cret"\ntoken_file = "t"',
            "snowflake should be given one way to sign in, not token_file and token",
        ),
        (
            'token = "s3cret"\nworkload_identity = "AWS"',
            "snowflake should be given one way to sign in, not token and workload_identity",
        ),
        (
            'private_key_password = "s3cret"\nprivate_key_password_file = "p"',
            "snowflake should be given one of private_key_password and private_key_password_file, not both.",
        ),
        (
            '[snowflake.worker]\ntoken = "s3cret"\nprivate_key_file = "k"',
            "snowflake.worker should be given one way to sign in, not private_key_file and token",
        ),
        (
            'workload_identity = "AWS"\n[snowflake.executor]\ntoken = "s3cret"',
            "snowflake should be such that executor, with what it inherits, is given one way to sign in, not token and",
        ),
        ('[snowflake.worker]\naccount = "o-a"', "snowflake.worker.account is not a setting; "),
    ],
)
def test_a_wrong_account_or_sign_in_is_refused_in_a_sentence_without_secrets(
    write_file: WriteFile, text: str, sentence: str
) -> None:
    path = write_file(f"[snowflake]\n{text}")

    with pytest.raises(SettingsError) as refused:
        load_settings(path)

    assert re.match(rf"{re.escape(str(path))}:\d+: {re.escape(sentence)}", str(refused.value))
    assert [secret for secret in SECRETS if secret in str(refused.value)] == []
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("variable", "value", "sentence"),
    [
        ("COUNTERMAND_SNOWFLAKE__PORT", "x", "Environment variable COUNTERMAND_SNOWFLAKE__PORT: snowflake.port should"),
        ("COUNTERMAND_SNOWFLAKE__TOCEN", "x", "did you mean COUNTERMAND_SNOWFLAKE__TOKEN?"),
        ("COUNTERMAND_SNOWFLAKE__WORKER__TOKEN_KIND", "x", "snowflake.worker.token_kind should be 'pat' or 'oauth'"),
        ("COUNTERMAND_SNOWFLAKE", "s3cret", " should be JSON."),
        ("COUNTERMAND_SNOWFLAKE", '["s3cret"]', "snowflake should be a section with settings of its own."),
        ("SNOWFLAKE_PORT", "x", "Environment variable SNOWFLAKE_PORT: snowflake.port should be a valid integer"),
        ("SNOWFLAKE_PROTOCOL", "http", "Environment variable SNOWFLAKE_PROTOCOL: snowflake.protocol should be 'https'"),
    ],
)
def test_a_wrong_variable_is_named(monkeypatch: pytest.MonkeyPatch, variable: str, value: str, sentence: str) -> None:
    monkeypatch.setenv(variable, value)

    with pytest.raises(SettingsError) as refused:
        load_settings()

    assert sentence in str(refused.value)
    assert "s3cret" not in str(refused.value)


def test_http_is_for_this_machine(write_file: WriteFile) -> None:
    for host in ("localhost", "127.0.0.1", "127.1.2.3", "::1"):
        account = load_settings(write_file(f'[snowflake]\nprotocol = "HTTP"\nhost = "{host}"')).snowflake

        assert account.protocol == "http"


def test_no_secret_is_shown_with_the_settings(write_file: WriteFile) -> None:
    text = '[snowflake]\nprivate_key_file = "/k"\nprivate_key_password = "s3cret"\n[snowflake.worker]\ntoken = "s3same"'

    settings: Settings = load_settings(write_file(text))

    sides = [settings.snowflake.sign_in("worker"), settings.snowflake.sign_in("executor")]
    assert [secret for secret in SECRETS if secret in f"{settings!r} {settings} {settings.model_dump()} {sides}"] == []
