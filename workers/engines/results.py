"""The documented results of jobs, whichever engine ran them."""

import secrets
from typing import Any
from uuid import uuid4

import msgspec

from control_plane.inputs import ForecastResult, MaterializeViewResult, SampleResult


def view_result(dataset_id: int) -> dict[str, Any]:
    """Of ``materialize-view``; each has a snapshot and a recalculation of its own."""
    snapshot_id = 1 + secrets.randbelow(2**63 - 1)
    return _document(MaterializeViewResult(dataset_id, snapshot_id, recalculation_id=uuid4()))


def forecast_result(rows: int, seconds: float, microcents_per_second: float) -> dict[str, Any]:
    """Of ``nql-forecast``: what it cost to count the rows."""
    return _document(ForecastResult(rows, cost=round(seconds * microcents_per_second)))


def sample_result(dataset_id: int, rows: int) -> dict[str, Any]:
    """Of ``datasets_sample``: the rows that were written."""
    return _document(SampleResult(dataset_id, rows))


def _document(result: Any) -> dict[str, Any]:
    document: dict[str, Any] = msgspec.to_builtins(result)
    return document
