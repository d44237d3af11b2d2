"""The command line: `calls`. Docker's words for running, sqlite-utils' words for reading."""

from __future__ import annotations

import gc
import os
import sys
from typing import NoReturn


def main() -> NoReturn:
    """The entry point. Imports nothing that costs time: see `launch` for why."""
    gc.disable()  # a short life: collecting costs a tenth of the start-up and frees nothing
    from calls.cli import launch

    if "run" in sys.argv[1:4]:  # after `--ledger FILE` at most; a wrong guess costs a fork
        launch.ahead()
    from calls.cli.group import run

    status = run(sys.argv[1:])
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):
            status = status or 1
    os._exit(status)  # without waiting for the interpreter to tidy up
