"""The calls of a runner that are under way, and what is asked of them: recorded, then passed on to whoever conducts."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

from calls.clock import Clock
from calls.conduct import Asked, Conductor
from machine import facts
from machine.errors import CallsError, LedgerError, NotRunningError, RefusedError
from machine.states import REQUESTS, STARTED, Kind, State

if TYPE_CHECKING:
    from calls.waiting import Waiting
    from ledger.ledger import Ledger


class Roster:
    """Knows a call from before it is recorded until nothing more is done about it. Thread-safe."""

    def __init__(self, clock: Clock) -> None:
        """Nobody is under way; `ledger` is set before anybody is."""
        self.ledger: Ledger
        self._clock = clock
        self._live: dict[int, Conductor | Waiting] = {}
        self._ids: dict[str, int] = {}
        self._handled: dict[int, int] = {}
        self._missed = False
        self._unborn: dict[str, list[facts.Fact]] = {}
        self._lock = threading.Lock()

    def expect(self, uid: str) -> None:
        """It will be recorded: until then what is asked of it is kept."""
        with self._lock:
            self._unborn[uid] = []

    def forget(self, uid: str) -> None:
        """It will not be."""
        with self._lock:
            self._unborn.pop(uid, None)

    def enlist(self, conductor: Conductor | Waiting, obeyed: int = 0) -> None:
        """The conductor's call is recorded as ours: carry out what was asked for in its log after event `obeyed`."""
        call_id = conductor.recorder.call_id
        with self._lock:
            self._live[call_id], self._handled[call_id] = conductor, obeyed
            self._ids[conductor.uid] = call_id
            early = self._unborn.pop(conductor.uid, ())
        for fact in early:
            self.request(conductor.uid, fact)
        self.obey(call_id)

    def dismiss(self, conductor: Conductor | Waiting) -> None:
        """Nothing more is done about the conductor's call."""
        with self._lock:
            self._unborn.pop(conductor.uid, None)
            self._ids.pop(conductor.uid, None)
            self._live.pop(conductor.recorder.call_id, None)
            self._handled.pop(conductor.recorder.call_id, None)

    def find(self, uid: str) -> Conductor | Waiting | None:
        """Who sees to the call; None when it is not recorded yet, or over, or another runner's."""
        with self._lock:
            return self._live.get(self._ids.get(uid, 0))

    @property
    def expected(self) -> list[str]:
        """The calls that are not recorded yet."""
        with self._lock:
            return list(self._unborn)

    def request(self, uid: str, fact: facts.Fact) -> None:
        """Record that something is asked of a call, and pass it on. Nothing when it is over, or not ours."""
        with self._lock:
            if uid in self._unborn:
                self._unborn[uid].append(fact)  # recorded as soon as the call itself is
                return
            call_id = self._ids.get(uid, 0)
            conductor = self._live.get(call_id)
        if conductor is None:
            return
        now, dumped = self._clock.wall(), conductor.recorder.dump(fact)
        self._note(call_id, fact, lambda: self.ledger.append(call_id, fact.kind, None, now, None, dumped))
        self.obey(call_id)

    def request_running(self, uid: str, fact: facts.Fact) -> None:
        """As `request`; NotRunningError unless it runs."""
        conductor = self.find(uid)
        # The ledger says that it runs a moment before its recorder does: what is prepared may be asked, too.
        if conductor is None or conductor.recorder.state not in STARTED | {State.PREPARED}:
            raise NotRunningError(f"{uid} is no call of this runner that runs")
        self.request(uid, fact)

    def request_all(self, fact: facts.Fact, runner: str) -> None:
        """Ask the same of all, the last one first. They share commits."""
        for uid in self.expected:
            self.request(uid, fact)
        with self._lock:
            live = [*reversed(self._live.items())]
        now = self._clock.wall()
        posted = [
            (id_, self.ledger.post(id_, fact.kind, None, now, conductor.recorder.dump(fact), runner))
            for id_, conductor in live
        ]
        for call_id, request in posted:
            self._note(call_id, fact, request.result)
        self.obey()
        with self._lock:
            left = [conductor for id_, conductor in live if id_ in self._live]
        for conductor in left:  # where the ledger cannot be written it is in the spool, where nobody looks for it
            conductor.ask(_asked(fact.kind, fact.dump()))

    def _note(self, call_id: int, fact: facts.Fact, record: Callable[[], object]) -> None:
        try:
            record()
        except RefusedError:
            return  # it has just ended
        except LedgerError:  # that it cannot be recorded must not keep anybody from ending a call
            with self._lock:
                conductor = self._live.get(call_id)
            if conductor is not None:
                conductor.ask(_asked(fact.kind, fact.dump()))

    def obey(self, only: int | None = None) -> None:
        """Carry out what was asked for through the ledger, of one call or of any. Called from any thread."""
        with self._lock:
            whole = only is None or self._missed
            live = dict(self._live) if whole else {id_: self._live[id_] for id_ in self._live.keys() & {only}}
            self._missed = False
        if not live:
            return
        try:
            requests = self.ledger.requests(live)
        except CallsError:
            self._missed = True  # the file cannot be read just now; the next look finds the same requests
            return
        for request in requests:
            with self._lock:
                fresh = request.seq > self._handled.get(request.call_id, 0)
                self._handled[request.call_id] = max(request.seq, self._handled.get(request.call_id, 0))
            if fresh:
                live[request.call_id].ask(_asked(request.kind, request.data))


def _asked(kind: Kind, data: str) -> Asked:
    (why,) = [why for why, asked in REQUESTS.items() if asked is kind]
    return Asked(why, json.loads(data).get("signal", "KILL"))
