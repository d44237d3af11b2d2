"""The driver: prepares processes of this host, and finds those of runners that are gone."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any
from weakref import WeakValueDictionary

from driver.local import search
from driver.local.container import LocalContainer, name_of, preparation_of
from driver.protocol import Labels, Leftover, Trace, Watcher
from driver.pump import Pump
from machine.errors import DriverError, SpecError
from machine.spec import Spec
from machine.states import Reason

if TYPE_CHECKING:
    from driver.local.adopted import AdoptedContainer

HONOURED = frozenset(("driver", "command", "name", "env", "secret", "label", "workdir", "interactive"))
HONOURED |= {
    "stop_signal",
    "stop_timeout",
    "timeout",
    "prepare_timeout",
    "sample",
    "log_limit",
    "keep",
    "idempotency_key",
}
"""The options of a spec that mean something for a process of this host."""


class LocalDriver:
    """Processes of this host."""

    name = "local"
    takes_image = False
    inherited = os.environ
    """What every call has in its environment, whatever its spec sets."""

    def __init__(self, pump: Pump, labels: Labels, now: Callable[[], int] = time.time_ns) -> None:
        """`pump` reads the output and outlives the driver; `now` is the clock of the facts (ns, UTC)."""
        self.pump = pump
        self.now = now
        self._labels = labels
        self._containers: WeakValueDictionary[str, LocalContainer] = WeakValueDictionary()

    def check(self, spec: Spec) -> None:
        """SpecError without a command, with an image, or for what only an engine can do."""
        spec.require(HONOURED, self.name)
        if not spec.command:
            raise SpecError("command", "no command given")

    def prepare(self, uid: str, spec: Spec, watcher: Watcher) -> LocalContainer:
        """Look whether the working directory is there. A call prepared before keeps its container."""
        if spec.workdir and not os.path.isdir(spec.workdir):
            raise DriverError(Reason.CREATE_REFUSED, f"{spec.workdir}: no such folder")
        return self._containers.setdefault(uid, LocalContainer(self, uid, spec, watcher))

    def recover(self, uid: str, spec: Spec, watcher: Watcher, trace: Trace) -> AdoptedContainer | None:
        """The process of this call, if it lives: one that has ended, or never began, has left nothing to find."""
        if trace.pid is not None:
            candidates = [found] if (found := search.read(trace.pid)) else []
        else:
            candidates = sorted(search.marked(self._labels.ledger, uid), key=lambda one: one.began)
        for found in candidates:  # whatever it started that leads a session, too, is younger
            if found.leads and (found.ledger, found.uid) == (self._labels.ledger, uid):
                from driver.local.adopted import AdoptedContainer

                return AdoptedContainer(self, found, preparation_of(uid, spec), watcher)
        return None

    def leftovers(self) -> list[Leftover]:
        """The processes that runners of this ledger started; what these started in their turn is not ours to end."""
        now = self.now()
        return [
            Leftover(found.uid, found.runner, name_of(found.uid), "running", found.began_at(now))
            for found in search.marked(self._labels.ledger)
            if found.leads and found.flagged
        ]

    def reap(self, leftover: Leftover) -> None:
        """With its process group."""
        from driver.local.adopted import end

        for found in search.marked(self._labels.ledger, leftover.uid):
            if found.leads and found.flagged:
                end(found)

    def forget(self, uid: str) -> None:
        """A process leaves nothing behind."""

    def environment(self, uid: str, spec: Spec) -> dict[str, str]:
        """Our own environment, the call's labels (`CALL_LEDGER_CALL` and so on), and what the spec sets."""
        return {**os.environ, **search.marks(self._labels.of(uid)), **spec.env}

    def describe(self) -> dict[str, Any]:
        """For `calls doctor`: a host is always there."""
        return {"driver": self.name, "isolation": "none", "samples": "psutil", "totals": True}

    def close(self) -> None:
        """Let go of all containers; the processes go on. Idempotent."""
        for container in list(self._containers.values()):
            container.close()
