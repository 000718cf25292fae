"""Who works on the planes: heartbeats, and what each process says of itself with them."""

from collections.abc import Sequence
from uuid import UUID

from msgspec import Struct
from sqlalchemy import RowMapping

from control_plane import statements
from control_plane.planes import DataPlane
from control_plane.scope import Scope
from control_plane.store import Store
from control_plane.wire import WaitingCancellations, Worker, Workers
from control_plane.work import Presence


class Beat(Struct, frozen=True):
    """A process of the plane lives; it may say who it is."""

    data_plane_id: UUID
    presence: Presence | None = None


class Reason(Struct, frozen=True):
    """So many of a plane's cancellations wait for one reason, None before any was given; some of them are stuck."""

    data_plane_id: UUID
    waiting: str | None
    count: int
    stuck: int


class Presences:
    """The processes of a store's planes."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def note(self, beats: Sequence[Beat]) -> set[UUID]:
        """Note heartbeats, set-wise, and forget whom nobody heard of for a day; answers the planes that exist."""
        silent = {beat.data_plane_id for beat in beats if beat.presence is None}
        told = {(beat.data_plane_id, beat.presence.worker): beat for beat in beats if beat.presence is not None}
        found: set[UUID] = set()
        if silent:
            wanted = [{"data_plane_id": plane} for plane in sorted(silent)]
            found.update(row["data_plane_id"] for row in self._store.perform(statements.beat(), wanted))
        if told:
            found |= self._note([_row(told[key]) for key in sorted(told)])  # in one order, as everywhere
        return found

    def _note(self, rows: Sequence[dict[str, object]]) -> set[UUID]:
        noted = self._store.perform(statements.note_presences(), rows)
        grown = {row["data_plane_id"] for row in noted if row["is_new"]}
        if grown:  # only then can there be too many
            self._store.perform(statements.forget_workers(), [{"data_plane_id": plane} for plane in sorted(grown)])
        return {row["data_plane_id"] for row in noted}

    def reasons(self, data_plane_ids: Sequence[UUID]) -> list[Reason]:
        """Why how many cancellations wait on each of the planes."""
        wanted = [{"data_plane_id": plane} for plane in data_plane_ids]
        rows = self._store.perform(statements.count_reasons(), wanted) if wanted else ()
        return [Reason(row["data_plane_id"], row["waiting"], row["waiting_count"], row["stuck_count"]) for row in rows]

    def of_plane(self, plane: DataPlane, scope: Scope) -> Workers:
        """Who works on the plane, and what waits there. Another company than its owner sees what is its own."""
        owns = scope.company_id in (None, plane.company_id)
        company = None if owns else scope.company_id
        on_it = {"data_plane_id": plane.data_plane_id}
        waiting = WaitingCancellations(
            self._store.perform(statements.count_waiting(), **on_it, of_company=company)[0]["count"],
            [row["job_id"] for row in self._store.perform(statements.select_waiting(), **on_it, of_company=company)],
        )
        known = self._store.perform(statements.select_workers(), **on_it) if owns else ()
        return Workers(plane.silent, [_worker(row) for row in known], waiting)


def _row(beat: Beat) -> dict[str, object]:
    told = beat.presence
    assert told is not None  # noqa: S101
    return {
        "data_plane_id": beat.data_plane_id,
        "worker": told.worker,
        "kind": told.kind,
        "version": told.version,
        "engines": told.engines,
        "in_flight": told.in_flight,
    }


def _worker(row: RowMapping) -> Worker:
    fields = {name: row[name] for name in Worker.__struct_fields__}
    return Worker(**fields | {"silent": bool(row["silent"])})
