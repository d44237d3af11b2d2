"""Places where a test can make this process fail: before and after every commit, and every write of a spool.

`CALLS_FAILPOINT=NAME:ACTION[:N]` arms one: at the N-th time (first: 1) that NAME is passed, ACTION happens,
and for `raise` and `enospc` at every later time as well, as with a disk that stays full. Actions: `kill9`
(SIGKILL to this process), `raise` (an error that nobody expects), `enospc` (SQLite's "database or disk is
full"), `sleep` (for ever, as a stopped process). Several are separated by commas. `trace:FILE` appends every name
passed to FILE, a line each: so that a test can go through all of them, those of tomorrow included.
"""

from __future__ import annotations

import os
import signal
import time
from collections import Counter
from pathlib import Path
from typing import NoReturn

ACTIONS = ("kill9", "raise", "enospc", "sleep")
_ARMED = [arm.partition(":") for arm in os.environ.get("CALLS_FAILPOINT", "").split(",") if arm]
_passed: Counter[str] = Counter()


class FailpointError(Exception):
    """What `raise` raises: none of the errors that the program expects."""


def reach(name: str) -> None:
    """This place is passed. Costs nothing unless CALLS_FAILPOINT is set."""
    if _ARMED:
        _pass(name)


def _pass(name: str) -> None:
    _passed[name] += 1
    for armed, _, action in _ARMED:
        if armed == "trace":
            with Path(action).open("a", encoding="utf-8") as file:
                file.write(f"{name}\n")
        elif armed == name:
            _arrive(name, *action.partition(":"))


def _arrive(name: str, action: str, _: str, number: str) -> None:
    nth = int(number or 1)
    if _passed[name] == nth or (_passed[name] > nth and action in ("raise", "enospc")):
        _fail(name, action)


def _fail(name: str, action: str) -> NoReturn:
    if action == "kill9":
        os.kill(os.getpid(), signal.SIGKILL)
    if action == "enospc":
        from ledger.sqlite import sqlite3

        raise sqlite3.OperationalError("database or disk is full")
    while action in ("kill9", "sleep"):
        time.sleep(1)
    raise FailpointError(f"failpoint {name}")
