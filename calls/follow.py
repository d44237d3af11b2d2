"""Waiting for the end of a call that somebody else conducts."""

from __future__ import annotations

import time
from pathlib import Path

from calls.orphans import orphans, summon
from ledger.read import Reader
from machine.history import History
from machine.verdict import Verdict

LOOK = 0.1
"""Seconds between two looks whether somebody wrote; a look costs microseconds."""
AGAIN = 5.0
"""Seconds after which it is looked whether the runner still lives."""


def follow(ledger: Path, uid: str) -> Verdict:
    """The verdict on a call, when it has one. A call whose runner dies meanwhile is recovered."""
    with Reader(ledger) as reader:
        call_id, waited = reader.resolve(uid), AGAIN
        while (verdict := History(reader.log(call_id)).verdict) is None:
            if waited >= AGAIN:
                waited = 0.0
                if orphans(reader.unsettled(), time.time_ns()):
                    summon(ledger)
            time.sleep(LOOK)
            waited += LOOK
    return verdict
