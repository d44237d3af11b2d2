"""Ledgers with a call of every kind, pruned ones and one that lives among them: small, and the same every time."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

from ledgers import BY, MIB, START, Call

from ledger.ledger import Ledger
from ledger.retention import EVERYTHING, prune
from ledger.sqlite import connect_writer
from machine import facts
from machine.samples import Sample
from machine.states import Reason, State
from machine.units import SECOND

TWICE, EMPTIED, THINNED, PLAIN, LIVE, LOST, LAST = range(1, 8)
"""The calls of `varied` by number: pruned of its samples and then of everything, of everything at once, of its
samples; untouched, live, never ran, the last."""
SAMPLES = frozenset(("samples",))


def varied(path: Path) -> None:
    """Two samples and one piece of output of the live call are covered by no event yet."""
    with Ledger(path) as ledger:
        for number in (TWICE, EMPTIED, THINNED):
            _plain(ledger, number)
    for number, parts in ((TWICE, SAMPLES), (TWICE, EVERYTHING), (EMPTIED, EVERYTHING), (THINNED, SAMPLES)):
        _prune(path, number, parts)
    with Ledger(path) as ledger:
        _plain(ledger, PLAIN)
        live = (
            Call(ledger, LIVE, "live", label={"a": "é\u2028"}).start().later(1).sample(0.5, 5 * MIB).write(1, 0, b"a")
        )
        live.note(facts.Paused()).note(facts.Resumed()).later(1).sample(1.25, MIB).sample(1.5, MIB).write(2, 0, b"b")
        lost = Call(ledger, LOST).later(0.125).note(facts.CancelRequested(by=BY, comment="not needed"))
        lost.end(State.CANCELLED, Reason.USER, removed=False, never_ran=True)
        Call(ledger, LAST, "last").start().later(1).end(State.SUCCESS, Reason.EXIT, exit_code=0)


def long(path: Path) -> None:
    """Two calls with histograms; the samples of the first are pruned."""
    with Ledger(path) as ledger:
        _long(ledger, 1)
    _prune(path, 1, SAMPLES)
    with Ledger(path) as ledger:
        _long(ledger, 2)


def _prune(path: Path, number: int, parts: frozenset[str]) -> None:
    """Prune the calls up to `number`: those before it have nothing left of that."""
    until = START + number * 60 * SECOND + 59 * SECOND
    with closing(connect_writer(path)) as connection:
        assert [step.removed.calls for step in prune(connection, until, parts, BY)] == [1]


def _plain(ledger: Ledger, number: int) -> None:
    call = Call(ledger, number, "plain", command=["sh", "-c", "echo out; echo err >&2"]).start()
    call.later(0.5).write(1, 0, b"out\n").write(2, 0, b"err\n").sample(0.25, 3 * MIB, 4 * MIB).sample(0.5, 2 * MIB)
    call.note(facts.Gap(of="samples", since=call.at, until=call.at, why="late")).write(1, 4, b"\xffmore").sample(
        0.75, MIB
    )
    call.verdict(State.KILLED, Reason.OOM, exit_code=137, oom="certain", cpu_ns=7, evidence={"exits": {"die": 137}})
    call.write(1, 9, b"last").later(0.01).note(facts.Cleaned(removed=True))


def _long(ledger: Ledger, number: int) -> None:
    call = Call(ledger, number).start()
    for count in range(245):
        assert ledger.sample(call.id, call.later(0.03).at, Sample(cpu_total_pct=count / 7))
    call.end(State.ERROR, Reason.EXIT, exit_code=3)
