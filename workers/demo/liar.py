"""An executor whose engine lies: while a file ``ignore_stop`` is in its folder, it accepts stops and runs on.

``python -m workers.demo.liar PLANE FOLDER``; everything else comes from the settings, as for ``countermand executor``.
"""

import asyncio
import sys
from functools import partial
from pathlib import Path
from typing import Any

from duckdb import DuckDBPyConnection

from workers.engines.embedded import EmbeddedEngine
from workers.engines.folder import Folder
from workers.engines.warehouse import Warehouse

IGNORE_STOP = "ignore_stop"


def lying_engine(folder: Folder, warehouse: Warehouse, **options: Any) -> EmbeddedEngine:
    """The engine of every executor, but for how it interrupts."""
    return EmbeddedEngine(folder, warehouse, interrupt=partial(interrupt_unless, folder.path / IGNORE_STOP), **options)


def interrupt_unless(told_not_to: Path, session: DuckDBPyConnection) -> None:
    """Interrupt what the session executes, unless the file is there."""
    if not told_not_to.exists():
        session.interrupt()


def main(plane: str, folder: Path) -> None:
    """Run the executor until it is stopped."""
    from workers.cli.desk import Desk
    from workers.cli.executor import run_executor

    asyncio.run(run_executor(Desk().settings(), plane, folder, make_engine=lying_engine))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
