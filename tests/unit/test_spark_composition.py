"""From the settings to a plane's clusters: which adapter and engine a plane gets, and what they are told."""

from collections.abc import Callable
from pathlib import Path
from uuid import UUID

import pytest
from msgspec import structs

from adapters.narrative import spark_connect
from adapters.narrative.spark import for_plane
from adapters.narrative.spark_connect_names import Server
from adapters.registry import Surroundings, engine_on
from config.settings import Settings, load_settings
from control_plane.errors import BadInput
from control_plane.jobs import ExecutionCluster
from control_plane.planes import DataPlane, Platform
from tests.integration.given import Clock
from workers.cli.remote_worker import check_remote_worker
from workers.cli.spark import adapter_options, engine_options, options_of

SHARED, DEDICATED = ExecutionCluster.SHARED, ExecutionCluster.DEDICATED
BOTH = """connect_url = "sc://s:15002"
ui_url = "http://s:4040"
master_url = "http://m:6066"
master_ui_url = "http://m:8080"
warehouse = "/mnt/w"
"""
PLANE = DataPlane(
    data_plane_id=UUID(int=1),
    company_id=1,
    display_name="big",
    platform=Platform.NARRATIVE,
    status="active",
    external_id=None,
    description=None,
    tags=[],
    permit_seconds=30.0,
    listing_lag_seconds=0.0,
    stuck_after_seconds=900.0,
    created_at=Clock().now,
    last_heartbeat_at=None,
    silent=False,
    execution_clusters=[SHARED, DEDICATED],
)

Configure = Callable[[str], Settings]


@pytest.fixture
def configure(tmp_path: Path) -> Configure:
    def write(text: str) -> Settings:
        path = tmp_path / "countermand.toml"
        path.write_text(text)
        return load_settings(path)

    return write


def test_a_plane_gets_the_engine_of_its_platform_and_a_narrative_one_with_clusters_spark() -> None:
    assert engine_on(PLANE) == "spark"
    assert engine_on(structs.replace(PLANE, execution_clusters=[])) == "duckdb"
    assert engine_on(structs.replace(PLANE, execution_clusters=[], platform=Platform.SNOWFLAKE)) == "snowflake"


def test_a_worker_is_told_of_each_of_the_planes_clusters_the_first_one_first(configure: Configure) -> None:
    settings = configure(f'[spark]\n{BOTH}connect_user = "ada"\n')

    parts = adapter_options(settings, PLANE)["parts"]

    assert list(parts) == [SHARED, DEDICATED]
    assert parts[SHARED] == (
        "spark-connect",
        {"server": Server("s:15002"), "user": "ada", "ui_url": "http://s:4040", "warehouse": Path("/mnt/w")},
    )
    assert parts[DEDICATED] == (
        "spark-standalone",
        {"master_url": "http://m:6066", "ui_url": "http://m:8080", "token": None, "warehouse": Path("/mnt/w")},
    )


@pytest.mark.parametrize("missing", ["server", "ui_url"])
def test_the_adapter_of_a_connect_server_names_the_option_that_it_was_not_given(missing: str) -> None:
    options = {"server": Server("s:15002"), "ui_url": "http://s:4040"}
    del options[missing]

    with pytest.raises(BadInput, match=f"{missing} is needed") as caught:
        spark_connect.for_plane(Surroundings("tests", PLANE.data_plane_id, 5.0, options))

    assert caught.value.field == missing


def test_a_cluster_may_be_cancelled_on_by_the_adapter_of_a_package(configure: Configure) -> None:
    own = '[spark.adapters.dedicated]\nname = "spark-yarn"\noptions = {url = "http://yarn:8088"}\n'
    settings = configure(
        f'[spark]\nconnect_url = "sc://s:15002"\nui_url = "http://s:4040"\nwarehouse = "/mnt/w"\n{own}'
    )

    parts = adapter_options(settings, PLANE)["parts"]

    assert parts[SHARED][0] == "spark-connect"
    assert parts[DEDICATED] == ("spark-yarn", {"url": "http://yarn:8088"})
    assert list(engine_options(settings, PLANE)) == [SHARED]
    with pytest.raises(BadInput, match="engine: no adapter for 'spark-yarn'"):
        for_plane(Surroundings("tests", PLANE.data_plane_id, 5.0, {"parts": {DEDICATED: parts[DEDICATED]}}))


def test_a_worker_that_lacks_one_of_the_planes_clusters_is_told_which_and_the_remedy(configure: Configure) -> None:
    settings = configure('[spark]\nconnect_url = "sc://s:15002"\nui_url = "http://s:4040"\nwarehouse = "/mnt/w"\n')

    with pytest.raises(BadInput) as caught:
        adapter_options(settings, PLANE)

    assert caught.value.field == "spark.master_url"
    assert "where the dedicated cluster is; set master_url in [spark]" in caught.value.message
    assert "COUNTERMAND_SPARK__MASTER_URL" in caught.value.message


def test_a_planes_own_section_is_named_without_a_variable_which_would_not_count(configure: Configure) -> None:
    with pytest.raises(BadInput) as caught:
        adapter_options(configure(""), PLANE, "worker.planes.big.spark")

    assert caught.value.field == "worker.planes.big.spark.connect_url"
    assert "set connect_url in [worker.planes.big.spark]" in caught.value.message
    assert "COUNTERMAND" not in caught.value.message


def test_an_executor_serves_those_of_the_planes_clusters_that_the_settings_reach(configure: Configure) -> None:
    dedicated_alone = configure(
        '[spark]\nmaster_url = "http://m:6066"\nmaster_ui_url = "http://m:8080"\nwarehouse = "/mnt/w"\n'
    )

    assert list(engine_options(dedicated_alone, PLANE)) == [DEDICATED]
    with pytest.raises(BadInput, match=r"^spark\.connect_url: big has clusters of Spark \(shared\)") as caught:
        engine_options(dedicated_alone, structs.replace(PLANE, execution_clusters=[SHARED]))
    assert caught.value.field == "spark.connect_url"


def test_a_call_to_a_cluster_has_to_fit_into_a_lease(configure: Configure) -> None:
    with pytest.raises(BadInput) as caught:
        adapter_options(configure(f"[worker]\nlease_seconds = 6\n[spark]\n{BOTH}"), PLANE)

    assert caught.value.message == "spark.call_timeout_seconds: 10 should be less than worker.lease_seconds, 6"


def test_tokens_and_certificates_are_read_from_their_files(configure: Configure, tmp_path: Path) -> None:
    (tmp_path / "token").write_text("s3cret\n")
    (tmp_path / "ca.pem").write_text("-----BEGIN CERTIFICATE-----\n")
    files = f'connect_token_file = "{tmp_path}/token"\nconnect_ca_file = "{tmp_path}/ca.pem"\nmaster_token = "other"\n'
    settings = configure(f"[spark]\n{BOTH}{files}")

    shared, dedicated = options_of(settings, SHARED), options_of(settings, DEDICATED)

    assert shared["server"] == Server("s:15002", True, "s3cret", b"-----BEGIN CERTIFICATE-----")
    assert dedicated["token"] == "other"


def test_a_file_that_cannot_be_read_is_told_by_its_setting(configure: Configure, tmp_path: Path) -> None:
    settings = configure(f'[spark]\n{BOTH}connect_token_file = "{tmp_path}/nothing"\n')

    with pytest.raises(BadInput, match=r"^spark\.connect_token_file: .* cannot be read"):
        options_of(settings, SHARED)


def test_check_config_tells_every_file_of_the_clusters_that_cannot_be_used(
    configure: Configure, tmp_path: Path
) -> None:
    (tmp_path / "token").write_text("ctm_token")
    settings = configure(
        f"""
        control_plane = "https://control-plane.example"
        [spark]
        connect_url = "sc://s:15002"
        ui_url = "http://s:4040"
        connect_token_file = "{tmp_path}/nothing"
        connect_ca_file = "{tmp_path}/nothing"
        warehouse = "{tmp_path}"
        [worker.planes.big]
        token_file = "{tmp_path}/token"
        [worker.planes.big.spark]
        master_url = "http://m:6066"
        master_ui_url = "http://m:8080"
        master_token_file = "{tmp_path}/nothing"
        warehouse = "{tmp_path}/nowhere"
        """
    )

    with pytest.raises(BadInput) as caught:
        check_remote_worker(settings, [])

    assert [line.partition(": ")[0] for line in caught.value.message.splitlines()] == [
        "spark.connect_token_file",
        "spark.connect_ca_file",
        "worker.planes.big.spark.master_token_file",
        "worker.planes.big.spark.warehouse",
    ]
