"""The engine's events, read by one thread for all calls of a runner, and handed to their containers.

The engine keeps 256 events in memory and drops them for a slow reader without a word: so this thread only
hands over, and every break is reported as a gap, after which each call looks for itself.
"""

from __future__ import annotations

import json
import threading
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator
from typing import Any

import docker
import docker.utils

from driver.docker.engine import stamp
from driver.docker.errors import plain, root_of
from driver.docker.unending import BROKEN, Unending

ACTIONS = ("start", "die", "oom", "kill", "stop", "pause", "unpause", "destroy", "health_status", "died", "remove")
"""What is heard of. The last two are Podman's: it is asked for `died` and tells of `die`; `remove` is its `destroy`."""
_RETRY = (0.1, 0.2, 0.5, 1.0, 2.0)
_MALFORMED = (KeyError, TypeError, AttributeError, RecursionError)
_REMEMBERED = 1024  # events by which one that is sent again is known; the engine itself has 256

Handler = Callable[[str, int, dict[str, str]], None]
"""Takes (action, time in ns by the engine's clock, attributes)."""


class EventReader:
    """Subscribes once, hands every event to the container it is about."""

    def __init__(self, client: docker.APIClient, label: str, more: tuple[str, ...] = ()) -> None:
        """Only containers with `label` (`key=value`) are heard of; of their ACTIONS, and of `more`."""
        self._client = client
        self._filters = {"type": "container", "label": label, "event": [*ACTIONS, *more]}
        self._handlers: dict[str, tuple[Handler, Callable[[int, str], None]]] = {}
        self._subscribed = threading.Event()
        self.heard: Counter[str] = Counter()
        """How many events were handed over, by action."""
        self._stream: Unending | None = None
        self._last = 0
        self._seen: OrderedDict[tuple[str, str, int], None] = OrderedDict()
        self._blind: int | None = time.time_ns()  # since when nothing is seen
        self._told = False  # of that
        self._outage: tuple[int, int] | None = None
        self._resumed: tuple[int, int] | None = None  # the outage that is over, until the first event after it
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="engine-events", daemon=True)
        self._thread.start()

    def listen(self, container: str, handler: Handler, gap: Callable[[int, str], None]) -> None:
        """Hand the events of `container` to `handler`, and tell `gap` (since, why) when some may be missing."""
        self._handlers[container] = handler, gap

    def forget(self, container: str) -> None:
        """No more events of `container`."""
        self._handlers.pop(container, None)

    def wait(self, seconds: float) -> bool:
        """Whether the subscription stands; what happens after that is seen."""
        return self._subscribed.wait(seconds)

    @property
    def blind(self) -> bool:
        """Whether nothing is seen just now."""
        return self._blind is not None

    def restarted(self, at: int) -> bool:
        """Whether the engine, at this time (ns), was out of sight to be started again: what it did then was its own."""
        return self._outage is not None and self._outage[0] <= at <= self._outage[1]

    def close(self) -> None:
        """End the thread. Idempotent."""
        self._closing.set()
        if self._stream is not None:
            self._stream.end()
        self._thread.join(5)

    def _run(self) -> None:
        failures = 0
        while not self._closing.is_set():
            try:
                for event in self._subscribe():
                    failures = 0
                    self._hand_over(event)
                why = "the engine closed the event stream"
            except (*BROKEN, *_MALFORMED) as error:
                why = f"the event stream broke: {plain(root_of(error))}"
            if self._closing.is_set():
                return
            self._lose_sight(why)
            self._closing.wait(_RETRY[min(failures, len(_RETRY) - 1)])
            failures += 1

    def _lose_sight(self, why: str) -> None:
        # Told at the break and after the next subscription, when the truth can be known: not at each attempt between.
        self._blind = self._blind or time.time_ns()
        if not self._told:
            self._told = True
            self._report_gap(self._blind, why)

    def _regain_sight(self) -> None:
        since, told, self._blind, self._told = self._blind, self._told, None, False
        self._subscribed.set()
        if told and since is not None:
            self._resumed = since, time.time_ns()
            self._report_gap(since, "subscribed to events again")

    def _subscribe(self) -> Iterator[dict[str, Any]]:
        params = {"filters": docker.utils.convert_filters(self._filters)} | (
            {"since": stamp(self._last)} if self._last else {}
        )
        stream = self._stream = Unending(self._client, self._client._url("/events"), params)  # noqa: SLF001
        try:
            self._regain_sight()
            pending = b""
            for piece in stream if not self._closing.is_set() else ():
                *lines, pending = (pending + piece).split(b"\n")
                for line in lines:
                    if line.strip():
                        yield json.loads(line)
        finally:
            stream.close()

    def _hand_over(self, event: dict[str, Any]) -> None:
        container, action, at = event["Actor"]["ID"], event["Action"], event["timeNano"]
        known = (container, action, at) in self._seen
        if self._resumed is not None:
            # We asked for everything since the last one. An engine that does not begin with it has lost its memory.
            self._outage = self._outage if known else self._resumed
            self._resumed = None
        if known:
            return
        self._last = max(self._last, at)
        self._seen[container, action, at] = None
        if len(self._seen) > _REMEMBERED:
            self._seen.popitem(last=False)
        if container in self._handlers:
            self.heard[action.partition(":")[0]] += 1  # of some, a command or a status comes behind
            self._handlers[container][0](action, at, event["Actor"].get("Attributes") or {})

    def _report_gap(self, since: int, why: str) -> None:
        for _, gap in list(self._handlers.values()):
            gap(since, why)
