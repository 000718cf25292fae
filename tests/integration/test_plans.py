"""How SQLite finds rows: by an index, however many there are. It has no statistics here that could mislead it."""

from contextlib import closing

import pytest
from sqlalchemy import Select

from control_plane import statements
from control_plane.statements import ORDERS, Filters
from control_plane.store import Store


def plan(url: str, statement: Select[tuple[object, ...]]) -> str:
    with closing(Store(url)) as store, store.engine.connect() as connection:
        compiled = statement.compile(connection)
        given = tuple(compiled.params.get(name) for name in compiled.positiontup or ())
        return "\n".join(str(row[3]) for row in connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {compiled}", given))


def test_jobs_are_looked_up_by_their_ids_without_looking_at_others(sqlite_url: str) -> None:
    found = plan(sqlite_url, statements.select_jobs_in())

    assert "SEARCH jobs USING INDEX" in found
    assert "SCAN jobs" not in found


@pytest.mark.parametrize("order_by", ORDERS)
@pytest.mark.parametrize("filters", [Filters(1), Filters(1, type="costs"), Filters(1, state="running")], ids=str)
def test_a_page_is_chosen_and_counted_by_an_index_alone(sqlite_url: str, filters: Filters, order_by: str) -> None:
    counted = plan(sqlite_url, statements.count_jobs(filters))
    found = plan(sqlite_url, statements.select_jobs(filters, order_by))

    assert "SEARCH jobs USING COVERING INDEX jobs_by_company" in counted
    assert "SEARCH jobs USING COVERING INDEX jobs_by_company" in found
    assert "SCAN jobs" not in found


def test_the_jobs_of_a_dataset_are_found_by_their_index(sqlite_url: str) -> None:
    assert "USING INDEX jobs_by_dataset" in plan(sqlite_url, statements.count_jobs(Filters(1, dataset_id=6402)))


@pytest.mark.parametrize(
    ("statement", "index"),
    [
        (statements.select_open(), "cancellations_due"),
        (statements.count_reasons(), "cancellations_due"),
        (statements.count_waiting(), "cancellations_due"),
        (statements.select_pending(), "jobs_pending"),
        (statements.reclaim().first, "cancellations_leased"),
    ],
    ids=["the look for cancellations", "metrics", "what waits", "the look for jobs", "a repeated claim"],
)
def test_what_is_asked_again_and_again_looks_at_nothing_that_has_ended(
    sqlite_url: str, statement: Select[tuple[object, ...]], index: str
) -> None:
    found = plan(sqlite_url, statement)

    assert f"INDEX {index} " in found
    assert "SCAN cancellations" not in found
    assert "SCAN jobs" not in found
