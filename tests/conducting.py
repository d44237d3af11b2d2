"""One call, conducted in the test's own thread, on a script and a clock that stands still between two events."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Self

from ledgers import OWNER, uid

from calls.capture import Capture
from calls.conduct import Conductor
from calls.recorder import Recorder
from driver.protocol import Meter, Sink
from driver.scripted import Schedule, Script, ScriptedContainer, ScriptedDriver, Step
from ledger.ledger import Ledger
from ledger.read import Reader
from machine import facts
from machine.errors import LedgerError
from machine.spec import Spec
from machine.states import Kind, State
from machine.units import SECOND
from machine.verdict import Verdict

UID = uid(1)


class NoSampling:
    """A sampler for containers that sample by script."""

    def add(self, meter: Meter, interval: int, sink: Sink) -> Callable[[], None]:
        """See `driver.protocol.Sampling`."""
        raise AssertionError("a scripted container samples by itself")


class FailingLedger(Ledger):
    """A real ledger that tells `actions` what it has written, and can refuse to write: the event number `fail_at`."""

    def __init__(self, path: Path, actions: list[str], fail_at: int | None = None, only: Kind | None = None) -> None:
        super().__init__(path)
        self.actions = actions
        self.fail_at = fail_at
        self.only = only
        self.asked = 0

    def submit(self, uid: str, at: int, data: str) -> int:
        self._count(Kind.SUBMITTED)
        call = super().submit(uid, at, data)
        self.actions.append("recorded submitted")
        return call

    def append(self, call_id: int, kind: Kind, state: State | None, at: int, elapsed_ns: int | None, data: str) -> None:
        self._count(kind)
        super().append(call_id, kind, state, at, elapsed_ns, data)
        self.actions.append(f"recorded {kind}")

    def _count(self, kind: Kind) -> None:
        self.asked += 1
        if self.asked == self.fail_at or kind is self.only:
            raise LedgerError("the disk is full")


class Stage:
    """Everything that one call needs, and what became of it. A context manager."""

    def __init__(
        self, path: Path, *steps: Step, fail_at: int | None = None, refuse: Kind | None = None, **script: Any
    ) -> None:
        """`steps` and `script` as for `Script`; `fail_at` and `refuse`: an event that cannot be written."""
        self.path = path
        self.clock = Schedule()
        self.begun = self.clock.wall()
        self.driver = ScriptedDriver(self.clock, Script(steps, **script))
        self.ledger = FailingLedger(path, self.driver.actions, fail_at, refuse)
        self.passed_on: list[tuple[int, bytes]] = []
        self.told: list[str] = []
        self.conductor: Conductor

    def __enter__(self) -> Self:
        """Itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the ledger."""
        self.ledger.close()

    def conduct(self, **options: Any) -> Verdict:
        """Carry the call out, to its last event."""
        self.conductor = self.ready(**options)
        return self.play()

    def ready(self, **options: Any) -> Conductor:
        """The conductor of the call, before its beginning."""
        spec = Spec.parse(driver="scripted", image="image", **options)
        recorder = Recorder(self.ledger, self.clock, spec.redactor())
        keep = lambda stream, data: self.passed_on.append((stream, data))  # noqa: E731
        capture = Capture(spec.log_limit, recorder.redactor, self.clock.wall, recorder.output, keep)
        self.conductor = Conductor(
            UID, spec, self.driver, NoSampling(), recorder, capture, self.clock, lambda line, _: self.told.append(line)
        )
        return self.conductor

    def play(self, born: Callable[[Conductor], None] = lambda _: None) -> Verdict:
        """Carry the call of `ready` out."""
        spec = self.conductor.spec
        record = spec.record(lambda _: "fingerprint")
        submitted = facts.Submitted(uid=UID, image=spec.image, driver="scripted", spec=record, owner=OWNER)
        return self.conductor.conduct(submitted, born=born)

    @property
    def actions(self) -> list[str]:
        """What was asked of the container and what was recorded, in order."""
        return self.driver.actions

    @property
    def container(self) -> ScriptedContainer:
        """The container."""
        return self.driver.containers[UID]

    def events(self, *kinds: Kind) -> list[dict[str, Any]]:
        """The recorded events (of some kinds): `kind`, `state`, what they say, and `t`, seconds since the beginning."""
        with Reader(self.path) as reader:
            rows = reader.query("SELECT kind, state, at, data FROM event ORDER BY seq")[1]
            found = [(tuple(Kind)[kind], tuple(State)[state], at, json.loads(data)) for kind, state, at, data in rows]
        return [
            {**data, "kind": kind, "state": state, "t": (at - self.begun) / SECOND}
            for kind, state, at, data in found
            if not kinds or kind in kinds
        ]

    def kinds(self) -> list[Kind]:
        """The kinds of the recorded events, in order."""
        return [event["kind"] for event in self.events()]

    def signals(self) -> list[tuple[str, float]]:
        """The signals that were sent, and when."""
        return [(event["signal"], event["t"]) for event in self.events(Kind.SIGNALLED)]

    def call(self) -> dict[str, Any]:
        """The call as `calls show --json` has it."""
        with Reader(self.path) as reader:
            return reader.show(UID)

    def rows(self, query: str) -> list[Sequence[Any]]:
        """A query of the test's own."""
        with Reader(self.path) as reader:
            return list(reader.query(query)[1])
