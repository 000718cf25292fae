"""What a standalone master is given for a job: Spark's own command line for SQL, and where the job's script is."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from workers.engines.spark_plans import APPLICATION_SETTINGS, catalog_settings

MAIN_CLASS = "org.apache.spark.sql.hive.thriftserver.SparkSQLCLIDriver"
CLIENT_VERSION = "4.3.0"  #: of the protocol, as its client gives it
#: What no job's application may be set to in another way. Its event log is where a driver is found by its tag.
FIXED = {
    "spark.submit.deployMode": "cluster",
    "spark.driver.supervise": "false",  # started again by itself, it would outlive its end
    "spark.eventLog.enabled": "true",
    "spark.eventLog.compress": "false",
    "spark.eventLog.rolling.enabled": "false",
    **APPLICATION_SETTINGS,
}
#: What *properties* may change.
DEFAULTS = {"spark.ui.port": "0"}  # any free port: of one, and the sixteen after it, a host soon has none left


def properties_of(warehouse: Path, properties: Mapping[str, str]) -> dict[str, str]:
    """Spark's, of every application of this plane."""
    return {**DEFAULTS, **catalog_settings(warehouse), **properties, **FIXED}


def submission(tag: str, script: Path, events: Path, properties: Mapping[str, str]) -> dict[str, Any]:
    """The request for one driver. Its script is also what the worker fetches first: it refuses one that is closed."""
    return {
        "clientSparkVersion": CLIENT_VERSION,
        "appResource": f"file://{script}",
        "mainClass": MAIN_CLASS,
        "appArgs": ["-f", str(script)],
        "environmentVariables": {},
        "sparkProperties": {**properties, "spark.app.name": tag, "spark.eventLog.dir": f"file://{events}"},
    }
