"""A runner that dies at a chosen moment, and one that recovers what it left behind; one clock, no process."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from conducting import UID, Stage
from ledgers import OWNER

import calls
from calls.recover import Recovered, Recovery
from driver.scripted import Script, ScriptedContainer, ScriptedDriver
from ledger.ledger import Ledger
from machine.states import Kind, State


class Death(BaseException):
    """The runner's process is no more."""


class MortalLedger(Ledger):
    """A ledger whose process dies at the n-th event: before it is written, or right after."""

    def __init__(self, path: Path, driver: ScriptedDriver, dies_at: int, *, written: bool) -> None:
        super().__init__(path, owner=OWNER)
        self.driver = driver
        self.dies_at = dies_at
        self.written = written
        self.count = 0

    def submit(self, uid: str, at: int, data: str) -> int:
        self._meet(written=False)
        call = super().submit(uid, at, data)
        self._meet(written=True)
        return call

    def append(self, call_id: int, kind: Kind, state: State | None, at: int, elapsed_ns: int | None, data: str) -> None:
        self._meet(written=False)
        super().append(call_id, kind, state, at, elapsed_ns, data)
        self._meet(written=True)

    def _meet(self, *, written: bool) -> None:
        if not written:
            self.count += 1
        if self.count > self.dies_at or (self.count == self.dies_at and written is self.written):
            self.driver.away = True  # whatever it still asks for is not heard any more
            raise Death


class Succession(Stage):
    """A call that begins under one runner, and what the next one makes of it."""

    def die(self, at: int, *, written: bool, **options: Any) -> bool:
        """Conduct, and die at event number `at`; -> whether it got that far."""
        self.ledger.close()
        self.ledger = MortalLedger(self.path, self.driver, at, written=written)  # type: ignore[assignment]
        try:
            self.conduct(**options)
        except Death:
            return True
        return False

    def recover(self, later: float = 0, **recovery: Any) -> Sequence[Recovered]:
        """Let `later` seconds go by; then another runner recovers, and carries on to the end."""
        self.clock.advance(round(later * 10**9))
        self.ledger.close()
        self.heir = ScriptedDriver(self.clock, Script(), containers=self.driver.containers)
        with calls.Runner(self.path, drivers=(self.heir,), clock=self.clock, recover=False) as runner:
            return list(Recovery(runner, **recovery).settle())

    def left(self) -> list[ScriptedContainer]:
        """The containers that are still there."""
        return [each for each in self.driver.containers.values() if each.process.state.status != "gone"]

    def starts(self) -> int:
        """How often the call's container was started, by whomever."""
        found = self.driver.containers.get(UID)
        return found.starts if found else 0
