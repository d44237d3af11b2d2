"""The engine's events, read by one thread for all calls of a runner, and handed to their containers.

The engine keeps 256 events in memory and drops them for a slow reader without a word: so this thread only
hands over, and every break is reported as a gap, after which each call looks for itself.
"""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import docker
import docker.errors
import requests.exceptions

_ACTIONS = ("start", "die", "oom", "kill", "stop", "pause", "unpause", "destroy", "health_status")
_RETRY = (0.1, 0.2, 0.5, 1.0, 2.0)
_BROKEN = (requests.exceptions.RequestException, docker.errors.DockerException, OSError, ValueError)

Handler = Callable[[str, int, dict[str, str]], None]
"""Takes (action, time in ns by the engine's clock, attributes)."""


class EventReader:
    """Subscribes once, hands every event to the container it is about."""

    def __init__(self, client: docker.APIClient, label: str) -> None:
        """Only containers with `label` (`key=value`) are heard of."""
        self._client = client
        self._filters = {"type": "container", "label": label, "event": list(_ACTIONS)}
        self._handlers: dict[str, tuple[Handler, Callable[[int, str], None]]] = {}
        self._subscribed = threading.Event()
        self._stream: Any = None
        self._last = 0
        self._seen: set[tuple[str, str, int]] = set()
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

    def close(self) -> None:
        """End the thread. Idempotent."""
        self._closing.set()
        if self._stream is not None:
            with contextlib.suppress(*_BROKEN):  # broken already
                self._stream.close()
        self._thread.join(5)

    def _run(self) -> None:
        failures = 0
        while not self._closing.is_set():
            since = time.time_ns()
            try:
                for event in self._subscribe():
                    failures = 0
                    self._hand_over(event)
                why = "the engine closed the event stream"
            except _BROKEN as error:
                why = f"the event stream broke: {error}"
            if self._closing.is_set():
                return
            self._report_gap(self._last or since, why)
            time.sleep(_RETRY[min(failures, len(_RETRY) - 1)])
            failures += 1

    def _subscribe(self) -> Iterator[dict[str, Any]]:
        since = f"{self._last // 10**9}.{self._last % 10**9:09d}" if self._last else None
        self._stream = self._client.events(filters=self._filters, since=since)
        again = self._subscribed.is_set()
        self._subscribed.set()
        if again:
            self._report_gap(self._last, "subscribed to events again")
        pending = b""
        for piece in self._stream:
            *lines, pending = (pending + piece).split(b"\n")
            for line in lines:
                if line.strip():
                    yield json.loads(line)

    def _hand_over(self, event: dict[str, Any]) -> None:
        container, action, at = event["Actor"]["ID"], event["Action"], event["timeNano"]
        if (container, action, at) in self._seen:
            return  # sent again, because we asked for everything since the last one
        if at > self._last:
            self._seen.clear()  # only events of the very last instant can come twice
            self._last = at
        self._seen.add((container, action, at))
        if container in self._handlers:
            self._handlers[container][0](action, at, event["Actor"].get("Attributes") or {})

    def _report_gap(self, since: int, why: str) -> None:
        # Told at the break and after each new subscription: the truth may be known only then.
        for _, gap in list(self._handlers.values()):
            gap(since, why)
