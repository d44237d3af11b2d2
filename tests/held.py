"""A driver whose containers run until the test ends them; in real threads, on a clock that can be set ahead."""

from __future__ import annotations

import queue
import threading
import time
from contextlib import suppress
from typing import Any

from running import kinds, until

from calls.clock import Item, SystemClock
from driver.protocol import Beginning, Died, Leftover, Observation, OutputEnded, Preparation, Watcher
from machine.signals import signal_number
from machine.spec import Spec
from machine.units import SECOND

_LOOK = SECOND // 100


class Ahead(SystemClock):
    """The machine's clocks, and the time that was skipped."""

    def __init__(self) -> None:
        self._skipped = 0

    def skip(self, nanoseconds: int) -> None:
        """Let so much time be over at once."""
        self._skipped += nanoseconds

    def wall(self) -> int:
        return super().wall() + self._skipped

    def monotonic(self) -> int:
        return super().monotonic() + self._skipped

    def get(self, items: queue.SimpleQueue[Item], timeout_ns: int | None) -> Item:
        """Who waits for a time is woken when that is skipped."""
        if timeout_ns is None:
            return super().get(items, None)
        until = self.monotonic() + timeout_ns
        while (left := until - self.monotonic()) > _LOOK:
            with suppress(queue.Empty):
                return super().get(items, _LOOK)
        return super().get(items, left)


def time_out(clock: Ahead, call: str) -> None:
    """Bring the deadline of a call about: by ten minutes each time, however late it begins to wait for that."""
    until(lambda: (clock.skip(600 * SECOND), "signalled" in kinds(call))[1], "the deadline")


class HeldContainer:
    """See `driver.protocol.Container`: all that a runner needs of one."""

    def __init__(self, uid: str, watcher: Watcher) -> None:
        self.preparation = Preparation(f"held:{uid}")
        self.watcher = watcher
        self.status = "created"
        self.exit_code: int | None = None
        self.started_at: int | None = None
        self.runs = threading.Event()
        self.sizes: list[tuple[int, int]] = []

    def start(self) -> Beginning:
        self.status, self.started_at = "running", time.time_ns()
        self.runs.set()
        return Beginning(self.started_at)

    def end(self, code: int = 0) -> None:
        """The process ends."""
        self.status, self.exit_code, now = "exited", code, time.time_ns()
        self.watcher.fact(Died(now, code, "die"))
        self.watcher.fact(OutputEnded(now))
        self.watcher.output_ended()  # type: ignore[attr-defined]

    def environment(self) -> dict[str, str]:
        return {}

    def signal(self, name: str) -> bool:
        self.end(128 + signal_number(name))
        return True

    def resize(self, rows: int, columns: int) -> None:
        self.sizes.append((rows, columns))

    def inspect(self) -> Observation:
        return Observation(self.status, self.exit_code, self.started_at)  # type: ignore[arg-type]

    def observe(self, *_: object) -> None:
        """It uses nothing."""

    def totals(self) -> None:
        """It used nothing."""

    def remove(self) -> None:
        """It leaves nothing behind."""

    def close(self) -> None:
        """It holds nothing."""


class HeldDriver:
    """See `driver.protocol.Driver`. `containers` by the name of their call, in the order of being prepared."""

    name = "held"

    def __init__(self) -> None:
        self.containers: dict[str, HeldContainer] = {}
        self._changed = threading.Condition()

    def check(self, spec: Spec) -> None:
        """It honours everything."""

    def prepare(self, uid: str, spec: Spec, watcher: Watcher) -> HeldContainer:
        container = HeldContainer(uid, watcher)
        with self._changed:
            self.containers[spec.name or uid] = container
            self._changed.notify_all()
        return container

    def running(self, name: str, seconds: float = 60) -> HeldContainer:
        """The call's container, once it runs."""
        with self._changed:
            assert self._changed.wait_for(lambda: name in self.containers, seconds), f"{name} is not prepared"
        container = self.containers[name]
        assert container.runs.wait(seconds), f"{name} does not run"
        return container

    def leftovers(self) -> list[Leftover]:
        return []

    def forget(self, uid: str) -> None:
        """Nothing is left of what is gone."""

    def describe(self) -> dict[str, Any]:
        return {"driver": self.name}

    def close(self) -> None:
        """There is nothing to let go of."""
