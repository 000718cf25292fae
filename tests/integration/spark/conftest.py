"""A plane of a test's own on the Connect server that the run shares."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.contract.spark_connect import SparkConnectPlane, connected
from tests.spark import ConnectServer


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
async def shared_cluster(spark_connect: ConnectServer, tmp_path: Path) -> AsyncIterator[SparkConnectPlane]:
    """Others run on the server as well; nothing of theirs is seen or stopped."""
    async with connected(spark_connect, tmp_path) as plane:
        yield plane
