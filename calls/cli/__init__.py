"""The command line: `calls`. Docker's words for running, sqlite-utils' words for reading."""

from __future__ import annotations

import gc
import os
import signal
import sys
from typing import NoReturn


def main() -> NoReturn:
    """The entry point. Imports nothing that costs time: see `launch` for why."""
    gc.disable()  # a short life: collecting costs a tenth of the start-up and frees nothing
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # whoever began us may ignore it: then no child's end is known
    _stand_in()
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


def _stand_in() -> None:
    # Else the first pipe or socket that is opened gets the number of the missing stream, and its output.
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.open(os.devnull, os.O_RDWR), "w" if number else "r"))  # noqa: SIM115
