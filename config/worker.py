"""The canceller, ``countermand worker``, and the planes that one of them serves by a control plane elsewhere."""

import math
import os
import socket
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, Field, SecretStr, ValidationInfo, ValidatorFunctionWrapHandler, WrapValidator

from config.addresses import HostAndPort
from config.section import (
    Count,
    DrainSeconds,
    PerSecond,
    Seconds,
    Section,
    Wrong,
    allowed,
    check_token_file,
    refuse,
    validated,
)
from config.snowflake import SnowflakeSettings
from config.spark import SparkSettings


def check_call_timeout(seconds: float, info: ValidationInfo) -> float:
    """Accept a call that fits into its lease."""
    lease = info.data.get("lease_seconds")
    if lease is not None and seconds >= lease:
        raise allowed(f"less than lease_seconds, which is {lease:g}", beside="lease_seconds")
    return seconds


def check_planes_token_file(file: Path | None, info: ValidationInfo) -> Path | None:
    """Accept one way to have a token; a plane needs one of its own."""
    if file is None and info.data.get("token", "wrong") is None:
        raise allowed("given, or else token: each plane has a token of its own")
    return check_token_file(file, info)


class PlaneSettings(Section):
    """One plane of a worker that serves several. What it leaves out is as ``[worker]`` says."""

    token: Annotated[SecretStr, Field(min_length=1)] | None = None
    token_file: Annotated[Path | None, AfterValidator(check_planes_token_file), Field(validate_default=True)] = None
    data_plane: Annotated[str, Field(min_length=1)] | None = None
    max_in_flight: Count | None = None
    stops_per_second: PerSecond | None = None
    executor_token_file: Path | None = None
    #: The whole account: nothing of ``[snowflake]``, nor of the variables of Snowflake's own tools, is added to it.
    snowflake: SnowflakeSettings | None = None
    spark: SparkSettings | None = None  #: all of it: nothing of ``[spark]`` is added


def check_planes(value: object, handler: ValidatorFunctionWrapHandler, info: ValidationInfo) -> Any:
    """Accept planes of which no two have the same token, and whose calls to their engine fit into their lease."""
    planes = validated(value, handler, list(_shared_tokens(value)))
    refuse(_long_calls(planes, info.data.get("lease_seconds", math.inf)))
    return planes


def _shared_tokens(planes: object) -> Iterator[Wrong]:
    first: dict[tuple[str, str], str] = {}
    for name, plane in planes.items() if isinstance(planes, Mapping) else ():
        for setting in ("token", "token_file"):
            given = plane.get(setting) if isinstance(plane, Mapping) else None
            if isinstance(given, str) and given:
                same = first.setdefault((setting, given if setting == "token" else _one_name(given)), name)
                if same != name:
                    other = f"another than that of {same}: a token is bound to one plane"
                    yield Wrong((name, setting), allowed(other), given)


def _one_name(file: str) -> str:
    """The file, whichever of its names is given."""
    try:
        return os.path.realpath(os.path.expanduser(file))  # noqa: PTH111 (raises less)
    except ValueError:  # no file can be called so
        return file


def _long_calls(planes: Mapping[str, PlaneSettings], lease_seconds: float) -> Iterator[Wrong]:
    for name, plane in planes.items():
        for engine, own in (("snowflake", plane.snowflake), ("spark", plane.spark)):
            if own is not None and own.call_timeout_seconds >= lease_seconds:
                error = allowed(f"less than worker.lease_seconds, which is {lease_seconds:g}")
                yield Wrong((name, engine, "call_timeout_seconds"), error, own.call_timeout_seconds)


PlaneName = Annotated[str, Field(min_length=1)]


class WorkerSettings(Section):
    """The canceller, ``countermand worker``."""

    name: Annotated[str, Field(min_length=1)] = Field(default_factory=lambda: f"{socket.gethostname()}-{os.getpid()}")
    batch_size: Annotated[int, Field(ge=1, le=1000)] = 400
    batches_in_flight: Annotated[int, Field(ge=1, le=16)] = 3
    max_in_flight: Count | None = None
    stops_per_second: PerSecond | None = None
    lease_seconds: Seconds = 30.0
    drain_seconds: DrainSeconds = 20.0
    poll_seconds: Seconds = 1.0
    call_timeout_seconds: Annotated[Seconds, AfterValidator(check_call_timeout), Field(validate_default=True)] = 5.0
    executor_token_file: Path | None = None
    metrics_listen: HostAndPort | None = None
    planes: Annotated[dict[PlaneName, PlaneSettings], WrapValidator(check_planes)] = Field(default_factory=dict)
