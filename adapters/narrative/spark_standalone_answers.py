"""What a standalone master, its web UI and those of its workers answer, as far as it is read here (Spark 4.3.0)."""

from msgspec import Struct


class Told(Struct, rename="camel"):
    """Any answer of the protocol, as far as it is read here."""

    success: bool | None = None
    message: str | None = None
    submission_id: str | None = None
    driver_state: str | None = None
    worker_host_port: str | None = None
    server_spark_version: str | None = None


class Application(Struct):
    """An application that the master has not seen to end."""

    id: str
    name: str


class Applications(Struct):
    """The master's web UI, ``/json/activeapps``."""

    activeapps: list[Application]


class Leading(Struct):
    """The master's web UI, ``/json/status``."""

    status: str


class Worker(Struct):
    """A worker that the master knows, and where its own web UI is."""

    webuiaddress: str
    state: str


class Workers(Struct):
    """The master's web UI, ``/json/workers``."""

    workers: list[Worker]


class Described(Struct):
    """What an executor runs for."""

    name: str


class Executor(Struct):
    """A process that runs tasks."""

    appdesc: Described


class Executors(Struct):
    """A worker's web UI, ``/json``."""

    executors: list[Executor]
