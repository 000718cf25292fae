"""Where settings come from, which of them wins, and what is said of a wrong one."""

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from config.executor import ExecutorSettings
from config.settings import (
    JOB_TYPES,
    PLATFORMS,
    PolicySettings,
    ServerSettings,
    Settings,
    SettingsError,
    load_settings,
)
from config.snowflake import SnowflakeSettings
from config.spark import AdapterSettings, SparkSettings
from config.tls import TlsSettings
from config.worker import PlaneSettings, WorkerSettings
from control_plane.jobs import JobType
from control_plane.planes import Platform
from control_plane.store import DEFAULT_URL

EXAMPLE = Path(__file__).parents[2] / "config" / "countermand.example.toml"

WriteFile = Callable[[str], Path]


@pytest.fixture
def write_file(tmp_path: Path) -> WriteFile:
    def write(text: str) -> Path:
        path = tmp_path / "countermand.toml"
        path.write_text(text)
        return path

    return write


def test_everything_has_a_default() -> None:
    settings = load_settings()

    assert settings.database_url == "sqlite:///countermand.db"
    assert (settings.worker.batch_size, settings.worker.batches_in_flight) == (400, 3)
    assert str(os.getpid()) in settings.worker.name


def test_the_example_is_loaded_and_states_the_defaults() -> None:
    from_example, by_default = load_settings(EXAMPLE, worker={"name": "w"}), load_settings(worker={"name": "w"})

    assert from_example.model_dump() == by_default.model_dump()


def test_what_the_example_comments_out_can_be_set(write_file: WriteFile) -> None:
    path = write_file(re.sub(r"^# (\w+ = |\[)", r"\1", EXAMPLE.read_text(), flags=re.MULTILINE))

    settings = load_settings(path)

    assert settings.worker.name == "canceller-1"
    assert settings.executor.listen == "0.0.0.0:8470"
    assert settings.executor.listen_token_file == Path("/etc/countermand/executor.token")
    assert (settings.profile, settings.url) == ("staging", "https://countermand.staging.example")
    assert settings.policy.overrides == {"platform_aws": ["materialize-view", "datasets_sample"]}
    assert settings.snowflake.sign_in("worker").token_file == Path("/etc/countermand/canceller.token")
    assert settings.snowflake.sign_in("executor").workload_identity == "AWS"
    assert settings.control_plane == "https://countermand.example"
    assert settings.tls.client_key_file == Path("/etc/countermand/worker.key")
    assert settings.worker.planes["north"].token_file == Path("/etc/countermand/north.token")
    account = settings.worker.planes["snow"].snowflake
    assert account is not None
    assert account.sign_in("worker").private_key_file == Path("/etc/countermand/north.p8")


def test_the_example_names_every_setting() -> None:
    text = EXAMPLE.read_text()

    for section in (
        Settings,
        TlsSettings,
        WorkerSettings,
        PlaneSettings,
        ExecutorSettings,
        ServerSettings,
        SnowflakeSettings,
        SparkSettings,
        AdapterSettings,
        PolicySettings,
    ):
        for name in section.model_fields:
            assert re.search(rf"^(# +)?(\[([\w.]+\.)?{name}[\].]|{name} = )", text, re.MULTILINE), name


def test_given_values_win_over_the_environment_and_that_over_the_file(
    write_file: WriteFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_file("[worker]\nbatch_size = 1\nbatches_in_flight = 1\npoll_seconds = 1.5")
    monkeypatch.setenv("COUNTERMAND_WORKER__BATCH_SIZE", "2")
    monkeypatch.setenv("COUNTERMAND_WORKER__BATCHES_IN_FLIGHT", "2")

    worker = load_settings(path, worker={"batch_size": 3}).worker

    assert (worker.batch_size, worker.batches_in_flight, worker.poll_seconds) == (3, 2, 1.5)


# --- where the control plane is, and who asks ---

TWO_PROFILES = """
url = "http://top"
token_file = "/top"
[profiles.prod]
url = "https://prod"
token = "prods"
[profiles.dev]
url = "http://dev"
"""


def told(settings: Settings) -> tuple[str, str | None, Path | None]:
    """The address, the token and its file."""
    return settings.url, settings.token.get_secret_value() if settings.token else None, settings.token_file


@pytest.mark.parametrize(
    ("given", "variables", "expected"),
    [
        ({}, {}, ("http://top", None, Path("/top"))),
        ({"profile": "prod"}, {}, ("https://prod", "prods", None)),
        ({}, {"PROFILE": "dev"}, ("http://dev", None, None)),
        ({"profile": "prod"}, {"PROFILE": "dev"}, ("https://prod", "prods", None)),
        ({"profile": "prod"}, {"URL": "http://env"}, ("https://prod", "prods", None)),
        ({"profile": "prod"}, {"TOKEN": "envs"}, ("https://prod", "prods", None)),
        ({"profile": "prod"}, {"TOKEN_FILE": "/env"}, ("https://prod", "prods", None)),
        ({}, {"PROFILE": "prod", "URL": "http://env"}, ("http://env", "prods", None)),
        ({}, {"PROFILE": "prod", "TOKEN_FILE": "/env"}, ("https://prod", None, Path("/env"))),
        ({"profile": "dev"}, {"TOKEN": "envs"}, ("http://dev", None, None)),
        ({}, {"PROFILE": "dev", "TOKEN": "envs"}, ("http://dev", "envs", None)),
        ({"profile": "prod", "url": "http://opt"}, {"URL": "http://env"}, ("http://opt", "prods", None)),
    ],
)
def test_an_option_and_the_profile_it_names_win_over_a_variable_and_that_over_a_profile_and_the_file(
    write_file: WriteFile,
    monkeypatch: pytest.MonkeyPatch,
    given: dict[str, str],
    variables: dict[str, str],
    expected: tuple[str, str | None, Path | None],
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(f"COUNTERMAND_{name}", value)

    assert told(load_settings(write_file(TWO_PROFILES), **given)) == expected


def test_the_file_chooses_a_profile_where_nobody_else_does(write_file: WriteFile) -> None:
    assert load_settings(write_file(f'profile = "prod"{TWO_PROFILES}')).url == "https://prod"


def test_the_users_own_file_is_read_where_none_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for folder in (tmp_path / "told", tmp_path / "home" / ".config"):
        (folder / "countermand").mkdir(parents=True)
        (folder / "countermand" / "config.toml").write_text(f'url = "http://{folder.name.strip(".")}"')
    monkeypatch.setenv("HOME", str(tmp_path / "home"))

    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "told"))
    assert load_settings().url == "http://told"
    monkeypatch.setenv("XDG_CONFIG_HOME", "told")  # relative: the specification has it ignored
    assert load_settings().url == "http://config"
    monkeypatch.setenv("HOME", "/proc/1/root")
    assert load_settings().url == "http://127.0.0.1:8080"


def test_no_secret_is_shown_with_the_settings(write_file: WriteFile) -> None:
    settings = load_settings(write_file(TWO_PROFILES), profile="prod", token="mine")

    assert [secret for secret in ("prods", "mine") if secret in f"{settings!r} {settings.model_dump()}"] == []


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ('url = "ftp://host"', "url should be http://host:port or https://host."),
        ('url = "http://"', "url should be http://host:port or https://host."),
        ('url = "http://host:0"', "url should be http://host:port or https://host."),
        ('url = "http://[::1"', "url should be http://host:port or https://host."),
        ('url = "https://ada:secret@host"', "url should be without a name and a password: a token is given as"),
        ('[profiles.p]\nurl = "secret"', "profiles.p.url should be http://host:port or https://host."),
        ('[profiles.p]\ntoken = "secret"\ntoken_file = "x"', "profiles.p.token_file should be absent beside a token"),
        ('[profiles.p]\ntoken = ["secret"]', "profiles.p.token should be a valid string."),
        ('[profiles.p]\ncolour = "secret"', "profiles.p.colour is not a setting"),
        ('profile = "q"\n[profiles.p]', "there is no profile 'q'; there are p"),
        ('profile = "q"', "there is no profile 'q'; there are none: a [profiles.NAME] section"),
    ],
)
def test_a_wrong_address_or_profile_is_refused_in_a_sentence_without_secrets(
    write_file: WriteFile, text: str, sentence: str
) -> None:
    path = write_file(text)

    with pytest.raises(SettingsError) as refused:
        load_settings(path)

    assert re.match(rf"{re.escape(str(path))}:\d+: {re.escape(sentence)}", str(refused.value))
    assert "secret" not in str(refused.value)


def test_none_and_an_empty_variable_mean_not_given(write_file: WriteFile, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_file('log_level = "debug"\n[worker]\nbatch_size = 7')
    monkeypatch.setenv("COUNTERMAND_LOG_LEVEL", "")

    settings = load_settings(path, log_level=None, worker={"batch_size": None})

    assert (settings.log_level, settings.worker.batch_size) == ("debug", 7)


def test_the_environment_can_name_the_file(write_file: WriteFile, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COUNTERMAND_CONFIG", str(write_file('log_format = "json"')))

    assert load_settings().log_format == "json"


@pytest.mark.parametrize(
    ("given", "url"),
    [
        ("sqlite:///jobs.db", "sqlite:///jobs.db"),
        ("sqlite:////var/lib/jobs.db", "sqlite:////var/lib/jobs.db"),
        ("postgresql://u:p@db/jobs", "postgresql://u:p@db/jobs"),
        ("postgres://u@/jobs?host=/run", "postgresql://u@/jobs?host=/run"),
        ("postgresql+psycopg://u@db/jobs", "postgresql://u@db/jobs"),
    ],
)
def test_a_database_url_names_sqlite_or_postgres(given: str, url: str) -> None:
    assert load_settings(database_url=given).database_url == url


@pytest.mark.parametrize("url", ["mysql://db", "sqlite://", "sqlite:///", "sqlite:///:memory:", "jobs.db", ""])
def test_another_database_is_refused(url: str) -> None:
    with pytest.raises(SettingsError, match="database_url should be sqlite:///<file> or postgresql://"):
        load_settings(database_url=url)


def test_a_password_is_never_repeated() -> None:
    with pytest.raises(SettingsError) as refused:
        load_settings(database_url="mysql://u:secret@db/jobs")

    assert "secret" not in str(refused.value)
    assert refused.value.__cause__ is None


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("[worker]\nbatch_sise = 1", "worker.batch_sise is not a setting; did you mean worker.batch_size?"),
        ("[wroker]\nbatch_size = 1", "wroker is not a setting; did you mean worker?"),
        ("batch_size = 1", "batch_size is not a setting; did you mean worker.batch_size?"),
        ("[worker]\ncolour = 1", "worker.colour is not a setting; allowed are worker.name, worker.batch_size, "),
        ('log_level = "loud"', "log_level should be 'debug', 'info', 'warning' or 'error', not 'loud'."),
        ("[worker]\nbatch_size = 0", "worker.batch_size should be greater than or equal to 1, not 0."),
        ("[worker]\nlease_seconds = inf", "worker.lease_seconds should be a finite number, not inf."),
        ("worker = 3", "worker should be a section with settings of its own, not 3."),
        (
            "[worker]\nlease_seconds = 4\n",
            "worker.call_timeout_seconds should be less than lease_seconds, which is 4, not 5.0.",
        ),
        ('[executor]\nmemory_limit = "1 gig"', "executor.memory_limit should be a size such as 512MB or 4GiB, not"),
        ('[executor]\nlisten = "8470"', "executor.listen should be host:port, for example 0.0.0.0:8470, not '8470'."),
        ('[executor]\nlisten = "[::1]:8470"', "executor.listen_token_file should be given beside listen: whoever"),
        ('[policy.overrides]\nplatform_aws = "forecast"', "policy.overrides.platform_aws should be a valid list, not"),
        (
            '[policy.overrides]\nnarrative = ["forecast"]',
            "policy.overrides.narrative should be one of platform_aws, platform_snowflake, not 'narrative'.",
        ),
        ('[policy.overrides]\nplatform_aws = ["forecas"]', "policy.overrides.platform_aws.0 should be one of costs, "),
        ("log_level = loud", "is not TOML: "),
    ],
)
def test_a_wrong_file_is_refused_in_a_sentence_that_names_it(write_file: WriteFile, text: str, sentence: str) -> None:
    path = write_file(text)

    with pytest.raises(SettingsError) as refused:
        load_settings(path)

    assert str(refused.value).startswith(str(path))
    assert sentence in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("variable", "value", "sentence"),
    [
        ("COUNTERMAND_LOG_LEVEL", "loud", "Environment variable COUNTERMAND_LOG_LEVEL: log_level should be 'debug',"),
        ("COUNTERMAND_WORKER__BATCH_SIZE", "x", "COUNTERMAND_WORKER__BATCH_SIZE: worker.batch_size should be a valid"),
        ("COUNTERMAND_WORKER", '{"batch_size": 0}', "Environment variable COUNTERMAND_WORKER: worker.batch_size sho"),
        ("COUNTERMAND_WORKER", "{", " should be JSON."),
        (
            "COUNTERMAND_DATABSE_URL",
            "x",
            "COUNTERMAND_DATABSE_URL is not a setting; did you mean COUNTERMAND_DATABASE_",
        ),
        ("COUNTERMAND_WORKER_BATCH_SIZE", "5", "did you mean COUNTERMAND_WORKER__BATCH_SIZE?"),
        ("COUNTERMAND_WORKER__BATCH_SISE", "5", "did you mean COUNTERMAND_WORKER__BATCH_SIZE?"),
        ("COUNTERMAND_CONFIG", "/dev", "/dev (named by COUNTERMAND_CONFIG) is a folder or the like"),
        ("COUNTERMAND_CONFIG", "/nowhere.toml", "/nowhere.toml (named by COUNTERMAND_CONFIG) is not there"),
    ],
)
def test_a_wrong_variable_is_refused_in_a_sentence_that_names_it(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str, sentence: str
) -> None:
    monkeypatch.setenv(variable, value)

    with pytest.raises(SettingsError, match=re.escape(sentence)):
        load_settings()


def test_variables_that_kubernetes_sets_for_a_service_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("PORT", "PORT_8470_TCP", "WORKER_PORT", "SERVER_PORT"):
        monkeypatch.setenv(f"COUNTERMAND_{variable}", "tcp://10.0.0.1:8470")
    for variable in ("SERVICE_PORT", "SERVICE_PORT_HTTP", "SERVER_SERVICE_PORT", "PORT_8470_TCP_PORT"):
        monkeypatch.setenv(f"COUNTERMAND_{variable}", "8470")
    for variable in ("SERVICE_HOST", "SERVER_SERVICE_HOST", "PORT_8470_TCP_ADDR"):
        monkeypatch.setenv(f"COUNTERMAND_{variable}", "10.0.0.1")

    assert load_settings().log_level == "info"


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"log_level": "loud"}, "Option --log-level: log_level should be"),
        ({"executor": {"slots": 0}}, "Option --slots: executor.slots should be greater than or equal to 1, not 0."),
        ({"executor": {"drain_seconds": -1.0}}, "Option --drain-seconds: executor.drain_seconds should be"),
        (
            {"executor": {"slots": 1, "listen": "127.0.0.1:1", "listen_token_file": None}},
            "Option --listen: executor.listen_token_file should be given beside listen: whoever",
        ),
    ],
)
def test_a_wrong_option_is_named_as_it_was_given(given: dict[str, Any], sentence: str) -> None:
    with pytest.raises(SettingsError, match=f"^{re.escape(sentence)}"):
        load_settings(**given)


def test_a_section_of_which_no_option_was_given_is_the_files(write_file: WriteFile) -> None:
    path = write_file('[executor]\nlisten = "127.0.0.1:1"')

    with pytest.raises(SettingsError, match=f"^{re.escape(str(path))}:2: executor.listen_token_file should be given"):
        load_settings(path, executor={"slots": None})


def test_the_names_in_overrides_are_those_of_the_control_plane() -> None:
    assert list(PLATFORMS) == sorted(Platform)
    assert sorted(JOB_TYPES) == sorted(JobType)


def test_the_default_is_what_the_store_calls_the_default() -> None:
    assert load_settings().database_url == DEFAULT_URL


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="is not there"):
        load_settings(tmp_path / "none.toml")


def test_a_folder_is_not_called_absent(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=f"^{tmp_path} is a folder or the like: a TOML file is needed"):
        load_settings(tmp_path)


def test_a_file_that_is_not_text_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "countermand.toml"
    path.write_bytes(b"\xff\xfe")

    with pytest.raises(SettingsError, match="cannot be read"):
        load_settings(path)
