"""Recovery: calls whose runner is gone get another one, or their true end.

A runner is gone when its process is (`calls.identity.alive`); a pid alone is never believed. Whoever recovers a call
adopts it first, by an event that the ledger takes from one process only: a call has one owner at any time.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from typing import Any, Literal, NamedTuple

from calls.identity import alive
from calls.orphans import orphans
from calls.recorder import Recorder
from calls.runner import Runner
from calls.slots import CallFuture
from calls.takeover import GONE, Successor, gone, kept_output, unstarted
from driver.protocol import Leftover
from ledger.lease import Unsettled
from ledger.projection import UNREADABLE
from ledger.read import Fate, Reader
from machine import facts
from machine.errors import CallsError, TakenOverError
from machine.history import History, Past
from machine.secrets import Redactor
from machine.states import Kind
from machine.table import VERDICTS
from machine.units import SECOND
from machine.verdict import Verdict

GRACE = 60 * SECOND
"""How old a container without an open call must be before it is removed."""

Action = Literal["re-attached", "settled", "cleaned", "reaped", "left"]


class Recovered(NamedTuple):
    """What was done about a call, or with `dry_run` what would be.

    `re-attached`: its container runs, and is watched again. `settled`: it has its verdict (`state`, `reason`).
    `cleaned`: it had one, and its container is gone now. `reaped`: a container without an open call was removed.
    `left`: nothing was done, and `detail` says why.
    """

    id: str
    was: str | None
    action: Action
    state: str | None = None
    reason: str | None = None
    detail: str | None = None


class Recovery:
    """One recovery of a runner's ledger. `attached` are the calls that go on: futures of their ends."""

    def __init__(self, runner: Runner, *, dry_run: bool = False) -> None:
        """Nothing is done before `settle` or `reap`."""
        self._runner = runner
        self._ledger = runner.ledger
        self._dry_run = dry_run
        self._leftovers: dict[str, dict[str, Leftover] | CallsError] = {}
        self.attached: list[CallFuture] = []

    def settle(self) -> Iterator[Recovered]:
        """Adopt every call whose runner is gone; -> what became of each, oldest first, as it is known."""
        gone = {call.call_id: call for call in orphans(self._ledger.unsettled(), self._runner.clock.wall())}
        if not gone:
            return
        waiting: list[Callable[[], Recovered | None]] = []
        with Reader(self._ledger.path) as reader:
            for call_id, events in reader.unsettled_logs():
                if (call := gone.get(call_id)) is not None:
                    waiting.append(self._look_at(call, events, reader))
        for answer in waiting:
            if told := answer():
                yield told

    def reap(self, grace: int = GRACE) -> Iterator[Recovered]:
        """Remove containers of this ledger that are older than `grace` ns and have no open call.

        Those that are of no call (holders of a pool, hot containers) go as soon as their runner is gone; those of a
        call that the ledger does not know, only then.
        """
        self._leftovers.clear()  # what was settled meanwhile is not there any more
        now = self._runner.clock.wall()
        with Reader(self._ledger.path) as reader:
            for name in self._runner.drivers():
                found = self._found(name)
                if isinstance(found, CallsError):
                    continue  # what is not there has no containers that could be in anybody's way
                for leftover in found.values():
                    fate = reader.fate(leftover.uid) if leftover.uid else None
                    if fate is None:  # a call may be unknown because this is a copy of its ledger
                        lease = reader.lease(leftover.runner)
                        reapable = lease is None or not alive(lease, now)
                    else:
                        reapable = fate.cleaned and not fate.kept
                    if reapable and (not leftover.uid or now - leftover.created_at >= grace):
                        yield self._reap(name, leftover, fate)

    def _reap(self, driver: str, leftover: Leftover, fate: Fate | None) -> Recovered:
        error = None
        if not self._dry_run:
            try:
                self._runner.driver(driver).reap(leftover)
            except CallsError as failed:
                error = str(failed)
        if fate is not None and not self._dry_run:
            note = facts.Cleaned(removed=error is None, error=error)
            self._ledger.append(fate.call_id, note.kind, None, self._runner.clock.wall(), None, note.dump())
        whose = "of no open call" if leftover.uid else "of a runner that is gone"
        what = "networks or volumes" if leftover.status == "gone" else f"container {leftover.container[:12]}"
        detail = error or f"{what}, {whose}"
        return Recovered(leftover.uid, fate and fate.state, "left" if error else "reaped", detail=detail)

    def _look_at(self, call: Unsettled, events: Iterable[Past], reader: Reader) -> Callable[[], Recovered | None]:
        try:
            past = History(events)
            if past.owner["runner"] != call.runner:
                return lambda: None  # it has another one by now
        except UNREADABLE as error:  # a damaged call is no reason to leave the others
            left = Recovered(call.uid, None, "left", detail=f"its log cannot be read: {error!r} (calls verify)")
            return lambda: left
        return self._begin(call.call_id, past, reader)

    def _begin(self, call_id: int, past: History, reader: Reader) -> Callable[[], Recovered | None]:
        found = self._found(past.spec.driver)
        if isinstance(found, CallsError):
            left = Recovered(past.uid, past.state, "left", detail=str(found))
            return lambda: left
        leftover = found.get(past.uid)
        if leftover is not None and leftover.status == "gone":
            leftover = None
        if self._dry_run:
            return lambda: _intent(past, leftover)
        if leftover is None and not (past.spec.hot and past.prepared):  # (a hot call's container is of no call)
            return self._write_off(call_id, past)
        return self._adopt(call_id, past, reader)

    def _found(self, driver: str) -> dict[str, Leftover] | CallsError:
        """The driver's containers of this ledger, by call; the error when it cannot be asked. Asked once."""
        if driver not in self._leftovers:
            try:
                found = self._runner.driver(driver).leftovers()
            except CallsError as error:
                self._leftovers[driver] = error
            else:
                self._leftovers[driver] = {leftover.uid or leftover.container: leftover for leftover in found}
        return self._leftovers[driver]

    def _write_off(self, call_id: int, past: History) -> Callable[[], Recovered | None]:
        """Without a container nothing is left to do but to say so. Not waited for: many calls share a commit."""
        now, post, mine = self._runner.clock.wall(), self._ledger.post, self._runner.id
        verdict = past.verdict or gone(past)
        post(call_id, Kind.ADOPTED, None, now, self._adoption(past).dump(), past.owner["runner"])
        if past.verdict is None:
            post(call_id, VERDICTS[verdict.state], verdict.state, now, verdict.ended.dump(), mine)
        last = post(call_id, Kind.CLEANED, None, now, facts.Cleaned(removed=False).dump(), mine)
        self._runner.driver(past.spec.driver).forget(past.uid)
        return lambda: _told(past, last, verdict)

    def _adopt(self, call_id: int, past: History, reader: Reader) -> Callable[[], Recovered | None]:
        """Conduct it in a slot of the runner; it is told of when it has ended, or is known to go on."""
        runner, ledger, clock = self._runner, self._ledger, self._runner.clock
        driver = runner.driver(past.spec.driver)
        kept = kept_output(reader.output(call_id), past.spec.log_limit)
        highest = reader.highest(call_id)
        seen_until = max(past.since, reader.last_sampled(call_id) or 0)
        peak = int(max(highest["mem_peak_bytes"] or 0, highest["mem_usage_bytes"] or 0))
        rebooted = past.owner["boot"] != runner.owner.boot
        future, known = CallFuture(past.uid), threading.Event()
        future.add_done_callback(lambda _: known.set())

        def conduct() -> Verdict:
            ledger.adopt(call_id, past.owner["runner"], clock.wall(), self._adoption(past).dump())
            recorder = Recorder(ledger, clock, Redactor(), call_id, past.state)
            successor = Successor(past, driver, runner.sampler, recorder, clock, runner.tell, known.set)
            runner.roster.enlist(successor, past.obeyed)
            try:
                return successor.take_over(kept, seen_until, peak, rebooted=rebooted)
            finally:
                runner.dismiss(successor)

        runner.slots.undertake(future, conduct)

        def answer() -> Recovered | None:
            known.wait()
            if not future.done():
                self.attached.append(future)
                return Recovered(past.uid, past.state, "re-attached", past.state)
            return _told(past, future, past.verdict)

        return answer

    def _adoption(self, past: History) -> facts.Adopted:
        return facts.Adopted(owner=self._runner.owner, previous=past.owner["runner"], why=GONE)


def _told(past: History, done: Future[Any], verdict: Verdict | None) -> Recovered | None:
    """What came of a call that is settled, or could not be; None when somebody else was first."""
    try:
        call = done.result()
    except TakenOverError:
        return None
    except CallsError as error:
        return Recovered(past.uid, past.state, "left", detail=str(error))
    action: Action = "settled" if past.verdict is None else "cleaned"
    if verdict is not None:
        return Recovered(past.uid, past.state, action, verdict.state, verdict.ended.reason, verdict.ended.message)
    return Recovered(past.uid, past.state, action, call.state, call.reason, call.message)


def _intent(past: History, found: Leftover | None) -> Recovered:
    """What would be done: as far as it can be told without doing it."""
    if past.verdict is not None:
        return Recovered(past.uid, past.state, "cleaned", past.state, past.verdict.ended.reason)
    if found is None or found.status == "created":
        state, ended = gone(past) if found is None else unstarted(past)
        return Recovered(past.uid, past.state, "settled", state, ended.reason, ended.message)
    if found.status in ("running", "paused"):
        return Recovered(past.uid, past.state, "re-attached", past.state)
    return Recovered(past.uid, past.state, "settled", detail="by what its container says")
