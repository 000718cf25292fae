"""An executor's process that starts one job on a dedicated cluster and then only waits: what is killed here is real.

``python -m tests.integration.spark.submitting MASTER UI WAREHOUSE JOB SQL``.
"""

import asyncio
import sys
from pathlib import Path
from uuid import UUID

from tests.contract.spark_standalone import SMALL
from tests.narrative import view_of
from workers.engines.spark_standalone import SparkStandaloneEngine


async def main(master_url: str, ui_url: str, warehouse: str, job: str, sql: str) -> None:
    engine = await SparkStandaloneEngine.open(master_url, Path(warehouse), ui_url=ui_url, properties=SMALL)
    handle = await engine.start(view_of(sql, job_id=UUID(job)), lambda: 30.0)
    await engine.follow(handle)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
