"""The demo as a command: set up, play, tell, clear away."""

import asyncio
import json
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
from rich.console import Console

from workers.demo.loads import Load
from workers.demo.parts import Part
from workers.demo.programme import Programme
from workers.demo.screen import closure_lines, cpu_lines, open_screen, receipt_line, request_to_ended_ms, verdict
from workers.demo.stage import LOGS, Stage, TokenMaker

EXIT_MISSED = 1
EXIT_INTERRUPTED = 130
ENDING = (signal.SIGTERM, signal.SIGHUP)  #: everything is cleared away then, as after an interrupt

#: Makes the database of a URL, migrated, and answers what makes tokens for it.
Prepare = Callable[[str], TokenMaker]


def show(prepare: Prepare, programme: Programme, *, as_json: bool) -> int:
    """Play all fates that are on the programme; answers the exit code."""
    for number in ENDING:
        signal.signal(number, signal.default_int_handler)
    folder = Path(tempfile.mkdtemp(prefix="countermand-demo-"))
    try:
        missed = _perform(folder, prepare, programme, as_json=as_json)
    except (KeyboardInterrupt, asyncio.CancelledError):
        _clear_away(folder)
        sys.stderr.write("countermand demo: interrupted; its processes were ended and its folder removed\n")
        return EXIT_INTERRUPTED
    except BaseException:
        _clear_away(folder, but_logs=True)
        raise
    _clear_away(folder, but_logs=bool(missed))
    for part in missed:
        sys.stderr.write(f"countermand demo: {part.name}: {part.missed or 'it ended otherwise than it must'}\n")
    return EXIT_MISSED if missed else 0


def _clear_away(folder: Path, *, but_logs: bool = False) -> None:
    """Remove the folder; what the processes said is kept, and named, where somebody has to read it."""
    if not but_logs:
        shutil.rmtree(folder, ignore_errors=True)
        return
    for path in folder.iterdir():
        if path.is_dir() and path.name != LOGS:
            shutil.rmtree(path, ignore_errors=True)
        elif path.is_file():
            path.unlink()
    sys.stderr.write(f"countermand demo: the logs of its processes are in {folder / LOGS}\n")


def _perform(folder: Path, prepare: Prepare, programme: Programme, *, as_json: bool) -> list[Part]:
    console, database_url = Console(markup=False), f"sqlite:///{folder / 'countermand.db'}"
    make_token = prepare(database_url)
    if not as_json:
        console.print(programme.told, soft_wrap=True, highlight=False)
    screen = open_screen(console, silent=as_json)
    stage = Stage(folder, database_url, make_token, programme, screen)
    try:
        stage.set_up()
        asyncio.run(_play(stage))
    finally:
        screen.close()
        stage.close()
    _tell_json(stage) if as_json else _tell(console, stage)
    return [part for part in stage.parts if not part.has_met_its_fate]


async def _play(stage: Stage) -> None:
    playing, seconds = asyncio.ensure_future(stage.play()), stage.programme.patience.play_seconds
    for number in ENDING:
        asyncio.get_running_loop().add_signal_handler(number, playing.cancel)
    try:
        async with asyncio.timeout(seconds):
            await playing
    except TimeoutError:
        for part in stage.parts:
            if not part.has_met_its_fate:
                part.tell_missed(f"the demo was not over within {seconds:g} s")


# --- telling -------------------------------------------------------------------------------------------------------


def _tell(console: Console, stage: Stage) -> None:
    console.print()
    for part in stage.parts:
        console.print(receipt_line(part, stage), soft_wrap=True, highlight=False)
    for line in (*closure_lines(stage), *cpu_lines(stage), verdict(stage)):
        console.print(line, soft_wrap=True, highlight=False)


def _tell_json(stage: Stage) -> None:
    document = {
        **stage.programme.place,
        "jobs": [_told(part) for part in stage.parts],
        "cpu": [_told_load(load) for load in stage.loads.values()],
        "ok": all(part.has_met_its_fate for part in stage.parts),
    }
    sys.stdout.write(json.dumps(document, indent=2) + "\n")


def _told(part: Part) -> dict[str, Any]:
    job = part.now
    return {
        "name": part.name,
        "type": job.type.value,
        "expected_state": part.expected_state.value,
        "state": job.state.value,
        "outcome": job.receipt and job.receipt.outcome.value,
        "request_to_ended_ms": request_to_ended_ms(job),
        "receipt": msgspec.to_builtins(job.receipt),
    }


def _told_load(load: Load) -> dict[str, Any]:
    """In percent of a core; null where it was not measured."""
    moments = {"running": load.running, "told_to_stop": load.told_to_stop, "after": load.after}
    return {"of": load.of} | {moment: percent and round(percent, 1) for moment, percent in moments.items()}
