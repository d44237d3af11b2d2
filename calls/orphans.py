"""Calls whose runner is gone: finding them, and calling somebody to look after them."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from calls.identity import alive
from ledger.lease import Unsettled


def orphans(calls: Sequence[Unsettled], now: int) -> list[Unsettled]:
    """Those of `calls` whose runner is gone. Each runner is looked at once."""
    lives: dict[str, bool] = {}
    for call in calls:
        if call.runner not in lives:
            lives[call.runner] = call.lease is not None and alive(call.lease, now)
    return [call for call in calls if not lives[call.runner]]


def summon(ledger: Path) -> None:
    """Begin `calls recover` in a process of its own, which lives as long as what it has adopted."""
    words = [sys.executable, "-m", "calls.cli", "--ledger", str(ledger.absolute()), "recover"]
    # Through a shell that ends at once: then it is nobody's child, and nobody has to wait for it. In a session of its
    # own from the first: the end of ours, which may come now, hangs up on whoever is in it.
    quiet = 'exec "$@" </dev/null >/dev/null 2>&1 &'
    subprocess.run(["/bin/sh", "-c", quiet, "sh", *words], check=False, start_new_session=True)
