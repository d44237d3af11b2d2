"""What the log of a call says to whoever takes the call over: the same knowledge that its runner had.

Pure: events in, knowledge out. What a runner knows and does not write down (the monotonic clock, secrets, output not
yet flushed) is not here, and nothing here is a guess.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

from machine.facts import Ended
from machine.spec import Spec
from machine.states import REQUESTS, Kind, Reason, State
from machine.table import VERDICTS
from machine.verdict import Evidence, Verdict, Why

_BY_OTHERS = frozenset((*REQUESTS.values(), Kind.ADOPTED, Kind.EXECUTED, Kind.GAP, Kind.LISTED))
"""What anybody may write while nobody looks at the call, or an heir before it has looked."""


class Past(NamedTuple):
    """One event of the log. `at` in ns, `data` decoded."""

    seq: int
    at: int
    kind: Kind
    state: State
    data: dict[str, Any]


class Signal(NamedTuple):
    """The last signal of ours that was delivered, or may have been."""

    at: int
    name: str
    why: Why


class History:
    """The knowledge. Times in ns, UTC; None for what was not recorded."""

    def __init__(self, events: Iterable[Past]) -> None:
        """`events` of one call, all of them, in order."""
        self.uid = ""
        self.spec = Spec()
        self.state = State.PREPARING
        self.owner: dict[str, Any] = {}
        self.since = 0
        """When its runner was last at work, for sure: from then on, what happened must be asked for."""
        self.prepared: dict[str, Any] = {}
        self.started: dict[str, Any] | None = None
        self.awaiting_health_since: int | None = None
        self.health_limit: int | None = None
        self.last_signal: Signal | None = None
        self.verdict: Verdict | None = None
        self.evidence = Evidence()
        self.seq = 0
        self.pending: dict[int, Kind] = {}
        for event in events:
            self._take(event)

    @property
    def deadline(self) -> int | None:
        """When the call's time is over: as it was written down at the start, whoever conducts it now."""
        return (self.started or {}).get("deadline")

    @property
    def obeyed(self) -> int:
        """The seq up to which every request was acted on."""
        return min(self.pending, default=self.seq + 1) - 1

    def _take(self, event: Past) -> None:
        self.state, self.seq = event.state, event.seq
        if event.kind not in _BY_OTHERS:
            self.since = event.at
        data = event.data
        match event.kind:
            case Kind.SUBMITTED:
                self.uid, self.spec, self.owner = data["uid"], Spec.recorded(data["spec"]), data["owner"]
            case Kind.ADOPTED:
                self.owner = data["owner"]
            case Kind.PREPARED:
                self.prepared = data
            case Kind.STARTED:
                self.started = data
                self.evidence.started_at = data.get("engine_at")
            case Kind.HEALTH_AWAITED:
                self.awaiting_health_since, self.health_limit = event.at, data["limit"]
            case Kind.HEALTHY:
                self.awaiting_health_since = None
            case Kind.OOM_SEEN:
                self.evidence.oom.add(data["source"])
            case _ if event.kind is VERDICTS.get(event.state):
                ended = Ended(**{**data, "reason": Reason(data["reason"])})
                self.verdict = Verdict(event.state, ended)
            case _:
                self._take_request(event)

    def _take_request(self, event: Past) -> None:
        data = event.data
        if event.kind in REQUESTS.values():
            self.pending[event.seq] = event.kind
        elif event.kind is Kind.PAUSED:
            self._answer(Kind.PAUSE_REQUESTED)
        elif event.kind is Kind.RESUMED:
            self._answer(Kind.RESUME_REQUESTED)
        elif event.kind is Kind.SIGNALLED:
            self._answer(REQUESTS.get(data["why"]))
            if not data.get("error"):
                self._take_signal(event)
        self._drop_moot()

    def _take_signal(self, event: Past) -> None:
        data = event.data
        if data["why"] == "signal":
            self.evidence.messages.add(data["signal"])
            return
        self.last_signal = Signal(event.at, data["signal"], data["why"])
        self.evidence.stop, self.evidence.stop_signal = data["why"], data["signal"]

    def _answer(self, kind: Kind | None) -> None:
        """A request of this kind is answered: of messages the oldest, each being one signal; of others all."""
        asked = [seq for seq, pending in self.pending.items() if pending is kind]
        for seq in asked[:1] if kind is Kind.SIGNAL_REQUESTED else asked:
            del self.pending[seq]

    def _drop_moot(self) -> None:
        """Nothing comes of a wish for what is so already."""
        frozen = self.state is State.PAUSED
        moot, other = Kind.PAUSE_REQUESTED, Kind.RESUME_REQUESTED
        if not frozen:
            moot, other = other, moot
        if other not in self.pending.values():
            self._answer(moot)
