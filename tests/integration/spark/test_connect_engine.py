"""Running jobs on a Connect server: what is lost on the way there is no end, and nobody else may speak for a job."""

import asyncio
import secrets
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from adapters.base import RunStatus
from adapters.narrative.spark_connect import SparkConnectAdapter
from adapters.narrative.spark_connect_line import Line
from adapters.narrative.spark_connect_names import Server
from adapters.narrative.spark_outputs import Outputs
from control_plane.errors import Conflict
from control_plane.jobs import JobType
from tests.contract.spark_connect import TIMEOUT_SECONDS, USER, SparkConnectPlane
from tests.doubles.tcp_proxy import Fault, proxied
from tests.narrative import PLANE, claim_of
from tests.spark import ConnectServer
from workers.engines.spark_connect import SparkConnectEngine

pytestmark = [pytest.mark.anyio, pytest.mark.spark]

COUNTED = "SELECT id FROM range(0, 2000000000, 1, 1) WHERE id % 99999989 = 7"


async def test_a_run_whose_stream_is_lost_goes_on_and_its_answer_is_fetched_afterwards(
    spark_connect: ConnectServer, tmp_path: Path
) -> None:
    where = urlsplit(spark_connect.url)
    with proxied((str(where.hostname), int(where.port or 0))) as proxy:
        engine = await SparkConnectEngine.open(
            Server.at(proxy.url.replace("http", "sc")),
            Outputs(tmp_path),
            user=USER,
            ui_url=spark_connect.ui_url,
            timeout_seconds=TIMEOUT_SECONDS,
        )
        claim = claim_of(JobType.NQL_FORECAST, {"compiled_sql": COUNTED, "nql": "SELECT 1"})
        handle = await engine.start(claim, lambda: TIMEOUT_SECONDS)
        with proxy.doing(Fault.RESET):
            pass

        ending = await engine.follow(handle)

        assert ending.status is RunStatus.SUCCEEDED, ending
        assert ending.result is not None
        assert ending.result["rows"] == 21
        await engine.aclose()


async def test_whoever_asks_as_another_user_sees_no_run_and_cannot_vouch_for_it(
    shared_cluster: SparkConnectPlane,
) -> None:
    plane, work = shared_cluster, shared_cluster.work()
    stranger = SparkConnectAdapter(
        Server.at(plane.server.url),
        installation=secrets.token_hex(4),
        data_plane_id=PLANE,
        user="somebody",
        ui_url=plane.server.ui_url,
    )
    await plane.start(work)
    [run] = (await plane.adapter.find([work]))[work.job_id].runs

    listing = (await stranger.find([work]))[work.job_id]

    assert listing.runs == ()
    assert listing.incarnation != work.incarnation
    assert await stranger.observe([run]) == {}
    await stranger.aclose()


async def test_a_job_whose_session_is_ended_while_it_is_submitted_is_closed_for_certain(
    shared_cluster: SparkConnectPlane,
) -> None:
    """Its executor says so at once; it kept the job open for good, as one of which something may yet begin."""
    plane, work = shared_cluster, shared_cluster.work()

    async def end_session() -> None:
        line = Line(Server.at(plane.server.url), user=USER, timeout_seconds=TIMEOUT_SECONDS)
        await line.release_session(plane.session(work))
        await line.aclose()

    def permit_left() -> float:
        with ThreadPoolExecutor(1) as elsewhere:
            elsewhere.submit(asyncio.run, end_session()).result()
        return TIMEOUT_SECONDS

    with pytest.raises(Conflict):
        await plane.submit(work, "SELECT 1", permit_left=permit_left)

    assert await plane.engine.close(work.tag)
