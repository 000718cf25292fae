"""What is asked about dedicated applications, and the setting that leads there: errors name the one that is wrong."""

from typing import NamedTuple


class Place(NamedTuple):
    """A server of the cluster, and what to set right where something else, or nothing, answers in its place.

    *admission*: the same where it lets nobody in, for what is shown a token.
    """

    name: str
    url: str
    remedy: str
    admission: str = ""

    def __str__(self) -> str:
        return f"{self.name} at {self.url}"


def rest_server(url: str) -> Place:
    """Where the master takes submissions and kills."""
    remedy = (
        "master_url in [spark] has to be where the master's log says that its REST server was started: port 6066 by "
        "default, and there is none without spark.master.rest.enabled=true"
    )
    admission = "master_token in [spark] has to be one that its filters take (spark.master.rest.filters)"
    return Place("the Spark master", url.rstrip("/"), remedy, admission)


def master_ui(url: str) -> Place:
    """Where the master tells of applications and workers."""
    remedy = (
        "master_ui_url in [spark] has to be where the master's log says that its MasterUI was started: port 8080 by "
        "default, or the next that was free"
    )
    return Place("the Spark master's web UI", url.rstrip("/"), remedy)


def worker_ui(url: str) -> Place:
    """Where a worker tells of its executors: the address is the one that the master was told by the worker."""
    remedy = "this machine has to reach each worker where the master's web UI says that the worker's own is"
    return Place("the web UI of a Spark worker", url.rstrip("/"), remedy)
