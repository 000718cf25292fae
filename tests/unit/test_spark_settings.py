"""What the clusters of Spark are set up by, and what is said of wrong settings."""

from collections.abc import Callable
from pathlib import Path

import pytest

from config.settings import SettingsError, load_settings

WriteFile = Callable[[str], Path]
REACH = 'control_plane = "https://control.example"\n'
SHARED = 'connect_url = "sc://spark.example:15002"\nui_url = "http://spark.example:4040"\nwarehouse = "/mnt/w"\n'


@pytest.fixture
def write_file(tmp_path: Path) -> WriteFile:
    def write(text: str) -> Path:
        path = tmp_path / "countermand.toml"
        path.write_text(text)
        return path

    return write


def refusal(path: Path | None) -> list[str]:
    """What is said, line by line, without the file's name."""
    with pytest.raises(SettingsError) as refused:
        load_settings(path)
    return [line.removeprefix(str(path)) for line in str(refused.value).splitlines()]


def test_one_kind_of_cluster_and_the_warehouse_are_enough(write_file: WriteFile) -> None:
    shared = load_settings(write_file(f"[spark]\n{SHARED}")).spark
    dedicated = load_settings(
        write_file('[spark]\nmaster_url = "http://m:6066/"\nmaster_ui_url = "http://m:8080"\nwarehouse = "/mnt/w"')
    ).spark

    assert (shared.connect_url, shared.connect_user, shared.master_url) == (
        "sc://spark.example:15002",
        "countermand",
        None,
    )
    assert (dedicated.connect_url, dedicated.master_url, dedicated.warehouse) == (None, "http://m:6066", Path("/mnt/w"))


def test_it_can_be_set_up_by_variables_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COUNTERMAND_SPARK__CONNECT_URL", "sc://[::1]:15002")
    monkeypatch.setenv("COUNTERMAND_SPARK__UI_URL", "http://[::1]:4040")
    monkeypatch.setenv("COUNTERMAND_SPARK__WAREHOUSE", "/mnt/w")

    assert load_settings().spark.connect_url == "sc://[::1]:15002"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            '[spark]\nwarehouse = "/mnt/w"',
            ":2: spark.connect_url should be given, or else master_url: nothing says where a cluster is.",
        ),
        (
            '[spark]\nmaster_ui_url = "http://m:8080"\nmaster_url = "http://m:6066"',
            ":3: spark.warehouse should be given: the folder that Spark, executors and workers share.",
        ),
        (
            f"[spark]\n{SHARED.replace('/mnt/w', 'mnt/w')}",
            (
                ":4: spark.warehouse should be an absolute path: Spark, executors and workers reach the folder by it, "
                "not 'mnt/w'."
            ),
        ),
        (
            '[spark]\nconnect_url = "sc://s:15002"\nwarehouse = "/w"',
            (":2: spark.ui_url should be given: the server's web UI; without it nothing proves that a run has ended."),
        ),
        (
            '[spark]\nmaster_url = "http://m:6066"\nwarehouse = "/w"',
            (
                ":2: spark.master_ui_url should be given: the server's web UI; without it nothing proves that a run "
                "has ended."
            ),
        ),
        (
            '[spark]\nmaster_url = "http://m:6066"\nwarehouse = "/w"\nui_url = "http://s:4040"\nmaster_ui_url = "http://m:8080"',
            ":4: spark.ui_url should be absent without connect_url, to which it belongs.",
        ),
        (
            f"[spark]\n{SHARED}call_timeout_seconds = 0",
            ":5: spark.call_timeout_seconds should be greater than 0, not 0.",
        ),
        (
            f"[spark]\n{SHARED}conect_user = 'x'",
            ":5: spark.conect_user is not a setting; did you mean spark.connect_user?",
        ),
        ("spark = 3", ":1: spark should be a section with settings of its own."),
    ],
)
def test_what_is_wrong_is_told_with_its_line_and_what_is_allowed(write_file: WriteFile, text: str, said: str) -> None:
    assert refusal(write_file(text)) == [said]


@pytest.mark.parametrize(
    "wrong",
    [
        "spark.example:15002",
        "sc://spark.example",
        "sc://spark.example:x",
        "sc://spark.example:15002/;token=s3cret",
        "sc://ada:s3cret@spark.example:15002",
        "http://spark.example:15002",
        "",
    ],
)
def test_an_address_of_a_connect_server_that_cannot_be_right_is_told_and_no_secret_in_it(
    write_file: WriteFile, wrong: str
) -> None:
    [said] = refusal(write_file(f'[spark]\nconnect_url = "{wrong}"\nui_url = "http://s:4040"\nwarehouse = "/w"'))

    assert said == (
        ":2: spark.connect_url should be sc://host:port, or sc://host:port/;use_ssl=true; a token and a user have "
        "settings of their own."
    )


@pytest.mark.parametrize("wrong", ["spark://m:7077", "http://m", "m:6066", "http://m:6066/v1/submissions"])
def test_an_address_of_a_master_that_cannot_be_right_is_told(write_file: WriteFile, wrong: str) -> None:
    [said] = refusal(write_file(f'[spark]\nmaster_url = "{wrong}"\nwarehouse = "/w"\nmaster_ui_url = "http://m:8080"'))

    assert said.startswith(":2: spark.master_url should be http://host:6066")
    assert ("spark://" in said) == wrong.startswith("spark://")


def test_a_token_is_given_once_and_never_shown(write_file: WriteFile) -> None:
    both = 'connect_token = "s3cret"\nconnect_token_file = "/token"\n'

    assert refusal(write_file(f"[spark]\n{SHARED}{both}")) == [
        ":6: spark.connect_token_file should be absent beside connect_token: one of the two is enough, not '/token'."
    ]


def test_a_token_of_the_environment_replaces_the_files_token_file(
    write_file: WriteFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COUNTERMAND_SPARK__CONNECT_TOKEN", "s3cret")

    spark = load_settings(write_file(f'[spark]\n{SHARED}connect_token_file = "/token"')).spark

    assert spark.connect_token is not None
    assert (spark.connect_token.get_secret_value(), spark.connect_token_file) == ("s3cret", None)


def test_several_mistakes_are_told_at_once(write_file: WriteFile) -> None:
    said = refusal(write_file('[spark]\nconnect_url = "sc://x"\nwarehouse = "w"\ncall_timeout_seconds = "soon"'))

    assert [line.partition(" should")[0] for line in said] == [
        ":2: spark.ui_url",
        ":2: spark.connect_url",
        ":3: spark.warehouse",
        ":4: spark.call_timeout_seconds",
    ]


def test_the_properties_of_dedicated_applications_are_called_as_spark_calls_them(write_file: WriteFile) -> None:
    reached = 'master_url = "http://m:6066"\nmaster_ui_url = "http://m:8080"\n'
    text = f'[spark]\n{reached}warehouse = "/w"\n[spark.properties]\n'
    written = 'spark.executor.memory = "4g"\n"spark.cores.max" = "8"\nspark.sql.catalog.narrative = "N"\n'

    assert load_settings(write_file(text + written)).spark.properties == {
        "spark.executor.memory": "4g",
        "spark.cores.max": "8",
        "spark.sql.catalog.narrative": "N",
    }
    assert refusal(write_file(f"{text}spark.cores.max = 8")) == [
        ':5: spark.properties."spark.cores.max" should be a valid string, not 8.'
    ]


def test_the_adapter_of_a_package_is_enough_too_and_only_for_a_known_cluster(write_file: WriteFile) -> None:
    own = '[spark.adapters.dedicated]\nname = "spark-yarn"\noptions = {url = "http://y"}\n'

    [(cluster, adapter)] = load_settings(write_file(own)).spark.adapters.items()

    assert (cluster, adapter.name, adapter.options) == ("dedicated", "spark-yarn", {"url": "http://y"})
    assert refusal(write_file('[spark.adapters.vast]\nname = "x"')) == [
        ":1: spark.adapters.vast should be 'shared' or 'dedicated', not 'vast'."
    ]


# --- a plane's own clusters


def test_a_planes_own_clusters_are_complete_in_themselves(write_file: WriteFile) -> None:
    own = '[worker.planes.big]\ntoken_file = "/big"\n[worker.planes.big.spark]\nmaster_url = "http://m:6066"\n'
    own += 'master_ui_url = "http://m:8080"\n'
    settings = load_settings(write_file(f'{REACH}[spark]\n{SHARED}{own}warehouse = "/mnt/big"'))

    big = settings.worker.planes["big"].spark
    assert big is not None
    assert (big.connect_url, big.warehouse) == (None, Path("/mnt/big"))


def test_what_is_wrong_with_a_planes_own_clusters_is_told_by_their_section(write_file: WriteFile) -> None:
    own = '[worker.planes.big]\ntoken_file = "/big"\n[worker.planes.big.spark]\nmaster_url = "http://m:6066"\n'
    own += 'master_ui_url = "http://m:8080"\n'

    assert refusal(write_file(f"{REACH}{own}")) == [
        ":5: worker.planes.big.spark.warehouse should be given: the folder that Spark, executors and workers share."
    ]


def test_a_call_to_a_planes_clusters_has_to_fit_into_the_lease(write_file: WriteFile) -> None:
    own = f'[worker.planes.big]\ntoken_file = "/big"\n[worker.planes.big.spark]\n{SHARED}call_timeout_seconds = 30'

    [said] = refusal(write_file(f"{REACH}{own}"))

    assert said == (
        ":8: worker.planes.big.spark.call_timeout_seconds should be less than worker.lease_seconds, which is 30, "
        "not 30.0."
    )
