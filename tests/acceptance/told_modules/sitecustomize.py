"""Put on the path of a process under test, it has the process tell at its end which modules it has imported."""
# ruff: noqa: INP001  (Python imports it by its own name)

import atexit
import os
import sys
from pathlib import Path


def _tell() -> None:
    Path(os.environ["TOLD_MODULES"]).write_text(
        "\n".join(sorted(name for name in sys.modules if sys.modules[name] is not None))
    )


atexit.register(_tell)
