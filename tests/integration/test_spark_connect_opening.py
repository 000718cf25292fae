"""When an executor begins to serve a shared cluster."""

from pathlib import Path

import pytest

from adapters.narrative.spark_connect_names import Server
from adapters.narrative.spark_outputs import Outputs
from control_plane.errors import EngineUnavailable
from tests.doubles.connect_server import TellingServer
from workers.engines.spark_connect import SparkConnectEngine

pytestmark = pytest.mark.anyio


async def test_a_shared_cluster_is_away_for_an_executor_that_does_not_reach_its_warehouse(tmp_path: Path) -> None:
    """It would claim jobs, and fail them for what is wrong with its own machine."""
    async with TellingServer().listening() as (address, url):
        opening = (Server(address), Outputs(tmp_path / "mnt"))

        with pytest.raises(EngineUnavailable, match="mnt is no folder here; is it mounted"):
            await SparkConnectEngine.open(*opening, user="u", ui_url=url)

        (tmp_path / "mnt").mkdir()
        engine = await SparkConnectEngine.open(Server(address), Outputs(tmp_path / "mnt"), user="u", ui_url=url)
        await engine.aclose()
