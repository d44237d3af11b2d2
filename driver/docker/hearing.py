"""What the engine's events say of one container, as facts for its watcher."""

from __future__ import annotations

import threading
import time
from collections import Counter
from typing import TYPE_CHECKING

from driver.docker.engine import past_events
from driver.docker.events import ACTIONS, EventReader, Handler
from driver.protocol import (
    Destroyed,
    Died,
    ForeignSignal,
    Froze,
    HealthStatus,
    OomKilled,
    Preparation,
    Thawed,
    Unwatched,
    Watcher,
)
from machine.errors import UnknownOutcomeError
from machine.signals import signal_name, signal_number

if TYPE_CHECKING:
    from driver.docker.driver import DockerDriver

SUBSCRIBE_SECONDS = 10
"""How long a subscription to events is waited for."""
_KILLED = range(129, 128 + 65)  # exit codes that name a signal


class Hearing:
    """A container that hears what the engine tells of it. What is our own doing is no news."""

    def __init__(self, driver: DockerDriver, preparation: Preparation, watcher: Watcher) -> None:
        """Nothing is heard before `_listen` or `_catch_up`."""
        self.preparation = preparation
        self._driver = driver
        self._client = driver.client
        self._id = preparation.container
        self._watcher = watcher
        self._engine_at: int | None = None
        self._start_seen = threading.Event()
        self._own_signals: Counter[str] = Counter()
        self._counting = threading.Lock()
        self._unnamed: int | None = None  # when somebody else sent a signal, and was not said which
        self._told: set[tuple[str, int]] = set()
        self._telling = threading.Lock()
        self._events: EventReader | None = None

    def _listen(self, events: EventReader, handler: Handler) -> None:
        self._events = events  # kept: asking for it after the driver was closed would make another
        events.listen(self._id, handler, self._unwatched)

    def _forget(self) -> None:
        if self._events is not None:
            self._events.forget(self._id)

    def _unwatched(self, since: int, why: str) -> None:
        """Events may have been missed since then (ns)."""
        raise NotImplementedError

    def _sends(self, name: str, count: int = 1) -> None:
        """We are sending that signal; or with -1, have not."""
        with self._counting:
            self._own_signals[str(signal_number(name))] += count

    def _catch_up(self, since: int) -> None:
        """Hear of events from now on, and before that of those which the engine remembers."""
        events = self._driver.ledger_events
        with self._telling:  # what comes meanwhile is told after what came before it
            self._listen(events, self._event_once)
            events.wait(SUBSCRIBE_SECONDS)
            until = time.time_ns()
            try:
                past = self._past(ACTIONS, since, until)
            except UnknownOutcomeError as error:
                self._watcher.fact(Unwatched(until, since, str(error)))
                return
            for event in past:
                self._tell(*event)

    def _past(self, actions: tuple[str, ...], since: int, until: int) -> list[tuple[str, int, dict[str, str]]]:
        filters = {"container": self._id, "type": "container", "event": list(actions)}
        found = past_events(self._client, filters, since, until)
        return [(event["Action"], event["timeNano"], event["Actor"].get("Attributes") or {}) for event in found]

    def _event_once(self, action: str, at: int, attributes: dict[str, str]) -> None:
        with self._telling:
            self._tell(action, at, attributes)

    def _tell(self, action: str, at: int, attributes: dict[str, str]) -> None:
        if (action, at) not in self._told:
            self._told.add((action, at))
            self._event(action, at, attributes)

    def _event(self, action: str, at: int, attributes: dict[str, str]) -> None:
        tell = self._watcher.fact
        match action.split(":", maxsplit=1)[0]:
            case "start":
                self._engine_at = at
                self._start_seen.set()
            case "die":
                self._died(at, int(attributes.get("exitCode", "255")))
            case "oom":
                tell(OomKilled(at))
            case "kill" if not self._ours(signal := attributes.get("signal")):
                self._killed(at, signal)
            case "stop":  # we never ask for a stop: we send the signals of one
                tell(ForeignSignal(at, self.preparation.stop_signal, stop=True, by_engine=self._restarted(at)))
            case "pause":
                tell(Froze(at))
            case "unpause":
                tell(Thawed(at))
            case "destroy" | "remove":
                tell(Destroyed(at))
            case "health_status":
                tell(HealthStatus(at, action.partition(":")[2].strip()))

    def _died(self, at: int, code: int) -> None:
        if self._unnamed is not None and code in _KILLED:
            self._killed(self._unnamed, str(code - 128))
        self._watcher.fact(Died(at, code, "die"))

    def _killed(self, at: int, signal: str | None) -> None:
        if signal is None:  # Podman does not say which; the exit code will, if it was the end
            self._unnamed = at
        else:
            self._watcher.fact(ForeignSignal(at, signal_name(int(signal)), by_engine=self._restarted(at)))

    def _restarted(self, at: int) -> bool:
        return self._events is not None and self._events.restarted(at)

    def _ours(self, signal: str | None) -> bool:
        """Whether it was us who sent it; None: one of those we sent."""
        with self._counting:
            signal = signal or next(iter(+self._own_signals), "")
            mine = self._own_signals[signal] > 0
            self._own_signals[signal] -= mine
        return mine
