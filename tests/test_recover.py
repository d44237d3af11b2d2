"""Whoever dies in the middle of a call, the record ends true: the dying is done before and after every event."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from conducting import UID
from invariants import invariants
from recovering import Succession

from driver.protocol import STDERR, STDOUT, HealthCheck, HealthStatus, OomKilled
from driver.scripted import Step, exits, happens, writes
from machine.states import TERMINAL, Kind, State
from machine.units import SECOND

CHECK = HealthCheck(interval=SECOND, timeout=SECOND, retries=2, start_period=0)
Case = tuple[tuple[Step, ...], dict[str, Any], dict[str, Any], tuple[str, str]]

CASES: dict[str, Case] = {
    "success": ((writes(b"out"), writes(b"err", STDERR), exits(0, after=5)), {}, {}, ("success", "exit")),
    "failure": ((exits(3, after=5),), {}, {}, ("error", "exit")),
    "timeout": ((exits(0, after=60),), {}, {"timeout": 4}, ("timeout", "deadline")),
    "stubborn": ((exits(0, after=600),), {"on_signal": {"TERM": None}}, {"timeout": 4}, ("timeout", "deadline")),
    "oom": ((happens(OomKilled, after=4), exits(137, after=5)), {}, {"memory": 2**24}, ("killed", "oom")),
    "healthy": (
        (happens(HealthStatus, "healthy", after=3), exits(0, after=9)),
        {"health": CHECK},
        {},
        ("success", "exit"),
    ),
    "unhealthy": ((happens(HealthStatus, "unhealthy", after=3),), {"health": CHECK}, {}, ("error", "unhealthy")),
}
MOMENTS = [(number, written) for number in range(1, 9) for written in (False, True)]
LATER = [0, 4.5, 100]
"""How long the call is without a runner: the container still runs, has just ended, has long ended."""


@pytest.mark.parametrize("later", LATER)
@pytest.mark.parametrize(("at", "written"), MOMENTS)
@pytest.mark.parametrize("case", CASES)
def test_the_record_ends_true(ledger: Path, case: str, at: int, later: float, *, written: bool) -> None:
    steps, script, options, clean = CASES[case]
    with Succession(ledger, *steps, **script) as stage:
        died = stage.die(at, written=written, **options)
        recovered = stage.recover(later)
        invariants(ledger)
        assert stage.starts() <= 1
        assert stage.left() == []
        if at == 1 and not written:
            assert (recovered, stage.rows("SELECT * FROM event")) == ([], [])
            return
        kinds, call = stage.kinds(), stage.call()
        assert State(call["state"]) in TERMINAL
        assert kinds[-1] is Kind.CLEANED
        if died and (not written or kinds[-2:] != [Kind.CLEANED]) and recovered:
            assert (Kind.ADOPTED in kinds, recovered[0].id) == (True, UID)
        if not stage.starts():
            assert (call["state"], call["reason"]) in {("error", "lost"), ("cancelled", "runner-lost")}
            assert call["never_ran"]
        elif case in {"success", "failure", "oom", "healthy"}:
            assert (call["state"], call["reason"]) == clean
