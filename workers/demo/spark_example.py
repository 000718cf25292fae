"""The reference page's own example on Spark: the data that it reads, and the catalogue by which Spark finds them.

As on the embedded engine the data exist only while they are read: ``ds_6402`` keeps each core that Spark gives
it (``spark.sql.leafNodeDefaultParallelism``) busy for an hour, ``ds_6403`` for a moment.
"""

import subprocess
from importlib.resources import as_file, files
from pathlib import Path

from adapters.narrative.spark_warehouse import Kind, Warehouse
from control_plane.errors import EngineUnavailable
from workers.demo.java import QUICK

CATALOG = "countermand.NarrativeCatalog"
SOURCE = "spark_catalog.scala"
#: About rows / rarity of them pass the filter and are kept; all have to be generated.
_DATASET = """
SELECT named_struct('value', concat('maid-', pmod(h, 8))) AS mobile_id_unique_identifier,
       named_struct('day', CAST(1 + pmod(h DIV 7, 28) AS INT),
                    'hour', CAST(pmod(h DIV 11, 24) AS INT)) AS timestamp_object,
       named_struct('latitude', CAST(40 + pmod(h DIV 13, 2) AS DOUBLE),
                    'longitude', CAST(-74 - pmod(h DIV 17, 2) AS DOUBLE)) AS geographic_location,
       timestampadd(MINUTE, pmod(h DIV 19, 500000), TIMESTAMP '2024-01-01 00:00:00') AS event_timestamp
FROM (SELECT xxhash64(id) DIV {rarity} AS h FROM range(0, {rows}) WHERE xxhash64(id) % {rarity} = 0)
"""


def load(warehouse: Path) -> None:
    """Show readers of the plane both datasets."""
    shown = Warehouse(warehouse)
    shown.define(Kind.VIEW, 6402, _DATASET.format(rows=1_000_000_000_000, rarity=100_000_000))
    shown.define(Kind.VIEW, 6403, _DATASET.format(rows=20_000_000, rarity=2_000))


def compile_catalog(spark_home: Path, java_home: Path, target: Path) -> Path:
    """Make *target*, a jar, by the Scala compiler that every Spark brings along; some ten seconds.

    It belongs on the class path of drivers: of the Connect server, and of applications. Raises EngineUnavailable.
    """
    with as_file(files("adapters.narrative") / SOURCE) as source:
        compiled = subprocess.run(  # noqa: S603  the user's own Java and Spark
            [
                *(java_home / "bin" / "java", *QUICK, "-cp", f"{spark_home}/jars/*", "scala.tools.nsc.Main"),
                *("-usejavacp", "-nowarn", "-d", target, source),
            ],
            check=False,
            capture_output=True,
            text=True,
        )
    if compiled.returncode:
        raise EngineUnavailable(f"Spark's Scala compiler did not compile the catalogue: {compiled.stderr[-3000:]}")
    return target
