"""The executor, ``countermand executor``."""

import re
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, Field, ValidationInfo

from config.addresses import HostAndPort
from config.section import Count, DrainSeconds, Section, allowed


def check_memory_limit(limit: str) -> str:
    """Accept a size as DuckDB writes it."""
    if not re.fullmatch(r"\d+(\.\d+)? ?[KMGT]i?B", limit):
        raise allowed("a size such as 512MB or 4GiB")
    return limit


def check_listeners_token_file(file: Path | None, info: ValidationInfo) -> Path | None:
    """Accept none where nobody elsewhere can reach us."""
    if file is None and info.data.get("listen") is not None:
        raise allowed("given beside listen: whoever holds the token may stop its jobs", beside="listen")
    return file


class ExecutorSettings(Section):
    """The executor, ``countermand executor``."""

    slots: Annotated[int, Field(ge=1, le=1000)] = 4  #: as many as one call to the control plane may speak of
    drain_seconds: DrainSeconds = 20.0
    memory_limit: Annotated[str, AfterValidator(check_memory_limit)] = "1GB"
    threads: Count | None = None
    listen: HostAndPort | None = None
    listen_token_file: Annotated[
        Path | None, AfterValidator(check_listeners_token_file), Field(validate_default=True)
    ] = None
    metrics_listen: HostAndPort | None = None
    microcents_per_second: Annotated[int, Field(ge=0)] = 0
