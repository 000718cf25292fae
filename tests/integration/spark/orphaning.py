"""An executor that begins one job on a Connect server, says so, and then does nothing but wait to be killed.

``python -m tests.integration.spark.orphaning URL UI_URL WAREHOUSE TAG JOB SQL``
"""

import asyncio
import sys
from pathlib import Path
from uuid import UUID

from msgspec import structs

from adapters.narrative.spark_connect_names import Server
from adapters.narrative.spark_outputs import Outputs
from tests.contract.spark_connect import USER
from tests.narrative import view_of
from workers.engines.spark_connect import SparkConnectEngine


async def main(url: str, ui_url: str, warehouse: str, tag: str, job: str, sql: str) -> None:
    engine = await SparkConnectEngine.open(Server.at(url), Outputs(Path(warehouse)), user=USER, ui_url=ui_url)
    await engine.start(structs.replace(view_of(sql, job_id=UUID(job)), tag=tag), lambda: 60.0)
    print("started", flush=True)  # noqa: T201  whoever kills it waits for this
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
