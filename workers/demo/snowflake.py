"""The jobs of the demo that run in Snowflake: what happens to each, and how it has to end."""

from functools import partial
from typing import TYPE_CHECKING, Any

from control_plane.jobs import JobType, Rung, Waiting
from workers.demo.parts import OTHERS, MissedError, Part, cancel_while_running, has_ended, waits
from workers.demo.venue import VenueKind

if TYPE_CHECKING:
    from workers.demo.stage import Stage

PLANE = "snowflake"
#: A forecast leaves nothing behind in anybody's account. It generates rows for minutes, and keeps none.
LONG_FORECAST: dict[str, Any] = {
    "nql": "SELECT numbers.n FROM numbers WHERE numbers.digest = 'never'",
    "compiled_sql": "SELECT SEQ8() AS N FROM TABLE(GENERATOR(ROWCOUNT => 100000000000)) "
    "WHERE MD5(REPEAT(SEQ8()::VARCHAR, 50)) = 'never'",
}


async def lie_in_snowflake(stage: "Stage", part: Part, *, after: Part) -> None:
    """The account says that the query is terminated, and it runs on until an abort request comes: the next rung."""
    await stage.see(after, has_ended, f"the end of {after.name}")
    stage.begin_to_lie()
    stage.request(part, "the account will lie")
    await stage.see(part, waits(Waiting.STILL_RUNNING), "still_running")
    part.note = f"SYSTEM$CANCEL_QUERY said terminated, and the query runs on; {OTHERS}"
    await stage.measure_lie(part)
    await stage.see(part, has_ended, "its receipt")
    if part.now.receipt is None or part.now.receipt.rung is not Rung.INSIST:
        raise MissedError("its receipt does not tell that it took an abort request")
    part.note = "an abort request, the next rung, stopped it"


def snowflake_parts(kind: VenueKind | None) -> list[Part]:
    """Those for which there is a place: an account is not asked to lie."""
    make = partial(Part, plane=PLANE, type=JobType.NQL_FORECAST, input=LONG_FORECAST)
    running = make("snowflake_running", "cancelled while its query runs in Snowflake", cancel_while_running)
    lies = make(
        "snowflake_lies", "its account says terminated, and the query runs on", partial(lie_in_snowflake, after=running)
    )
    return {None: [], VenueKind.ACCOUNT: [running], VenueKind.DOUBLE: [running, lies]}[kind]
