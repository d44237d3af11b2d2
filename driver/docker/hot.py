"""Hot containers: one container for several calls, one after the other, each with output and an exit code of its own.

The container's own process is a shell that carries out what it is told (see `shell`; the image must have `sh`). The
engine could execute each command itself, but needs ten times as long for it, and does so only where a command reads
our input. Calls share a container when they differ in nothing but their command and their limits of time. Idle, it is
soon paused, and removed some time later, or when a call needs its room. Nothing of a call runs on into the next: where
a process is left, or the call was stopped, or memory ran out, the container is removed. But files stay: what a call has
written the next one finds, on a tmpfs as well.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections import Counter
from functools import partial
from typing import TYPE_CHECKING, Any

import docker

from driver.docker.engine import attach, look, remove
from driver.docker.errors import speaking
from driver.docker.hot_container import Connected, HotContainer, Image, key
from driver.docker.shell import Shell
from driver.docker.streams import Attachment
from driver.protocol import LABEL, Labels, Preparation, Watcher
from machine.errors import DriverError
from machine.spec import Spec
from machine.states import Reason

if TYPE_CHECKING:
    from driver.docker.driver import DockerDriver
    from driver.docker.hot_call import HotCall

HOT = f"{LABEL}hot"
"""The label of a hot container: its runner."""
PAUSE = 1.0
"""How long a hot container is idle before it is paused, seconds."""
IDLE = 60.0
"""How long before it is removed."""
LISTENS = 10.0
"""How long its shell may take nothing of what it is told, seconds: others wait to be started meanwhile."""


class HotSet:
    """The hot containers of one runner. Thread-safe; `close` leaves none."""

    def __init__(self, driver: DockerDriver, labels: Labels) -> None:
        """None yet; nor the thread that pauses and removes them."""
        self._driver = driver
        self._labels = {f"{LABEL}ledger": labels.ledger, f"{LABEL}runner": labels.runner, HOT: labels.runner}
        self._idle: list[HotContainer] = []
        self._busy = 0
        self.evicted = 0
        """How many were removed to make room for a call."""
        self._changed = threading.Condition()
        self._closing = False
        self._thread: threading.Thread | None = None
        self._images: dict[str, Image] = {}

    def prepare(self, spec: Spec, watcher: Watcher) -> HotCall:
        """A call's place in an idle container of its kind, the one last used; else in a new one."""
        self._driver.hot_events  # noqa: B018 - subscribes meanwhile
        hot, kind = self._awake(spec, watcher), _kind(spec)
        return kind(self._driver, hot, spec, watcher, self)

    def _awake(self, spec: Spec, watcher: Watcher) -> HotContainer:
        wanted = key(spec)
        while (hot := self._take(wanted)) is not None:
            with hot.lock:
                if hot.wake():
                    return hot
            self._lose(hot)
        self.make_room()
        hot = self._make(spec, watcher)
        with self._changed:
            self._busy += 1
        return hot

    def _lose(self, hot: HotContainer) -> None:
        hot.remove()
        with self._changed:
            self._busy -= 1

    def give_back(self, hot: HotContainer, *, whole: bool) -> None:
        """The call is over; unless `whole`, or if it left anything running, the container is not used again."""
        if not (whole and hot.quiet()):
            self._lose(hot)
            return
        with self._changed:
            self._busy -= 1
            hot.lent, hot.idle_since = False, time.monotonic()
            self._idle.append(hot)
            if self._thread is None and not self._closing:
                self._thread = threading.Thread(target=self._tend, name="hot", daemon=True)
                self._thread.start()
            self._changed.notify_all()

    def make_room(self) -> None:
        """Remove idle ones, the least recently used first, until their memory is what calls leave."""
        while (hot := self._surplus()) is not None:
            hot.remove()

    def _surplus(self) -> HotContainer | None:
        room = self._driver.room()
        with self._changed:
            if room is None or sum(hot.memory for hot in self._idle) <= room:
                return None
            self.evicted += 1
            return self._idle.pop(0)

    def counts(self) -> Counter[str]:
        """How many are in use, idle, or paused."""
        with self._changed:
            paused = sum(hot.paused for hot in self._idle)
            return Counter(busy=self._busy, idle=len(self._idle) - paused, paused=paused)

    def close(self) -> None:
        """Remove all of them, in use or not. Idempotent."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join()
        with contextlib.suppress(DriverError):  # what is left `calls recover` removes
            with speaking(Reason.LOST):
                filters = {"label": f"{HOT}={self._labels[HOT]}"}
                found = self._driver.client.containers(all=True, filters=filters)
            for each in found:
                remove(self._driver.client, each["Id"])

    def _take(self, wanted: str) -> HotContainer | None:
        with self._changed:
            found = next((hot for hot in reversed(self._idle) if hot.key == wanted), None)
            if found is not None:
                self._idle.remove(found)
                found.lent = True
                self._busy += 1
            return found

    def _make(self, spec: Spec, watcher: Watcher) -> HotContainer:
        driver = self._driver
        # Of a shell that nobody speaks to the input stays open, and it waits.
        waits = spec._replace(entrypoint="sh", command=(), interactive=True, no_healthcheck=True)
        if waits.log_driver is None:
            waits = waits._replace(log_driver="none")  # the engine need not keep what the ledger has
        made = driver.make(f"hot-{os.urandom(8).hex()}", waits, watcher, self._labels)
        connected = None
        try:
            connected = None if spec.interactive else self._connect(made.container)
            pid = self._start(made, connected)
            return HotContainer(driver, made, spec, self._image(made.image_id or ""), pid, connected)
        except DriverError as error:
            if connected is not None:
                driver.pump.drop(connected.attachment)
            with contextlib.suppress(DriverError):
                remove(driver.client, made.container)
                driver.resources.release_of(made.container)
            message = f"a hot container waits with `sh`, and this one cannot: {error}"
            raise type(error)(error.reason, message) from error

    def _connect(self, container: str) -> Connected:
        shell = Shell()
        params = {"stdin": 1, "stdout": 1, "stderr": 1, "stream": 1}
        with speaking(Reason.CREATE_REFUSED):
            raw = attach(self._driver.client, container, params)
        connected = Connected(shell, Attachment(raw, shell.take, shell.end))
        self._driver.pump.add(connected.attachment)
        return connected

    def _start(self, made: Preparation, connected: Connected | None) -> int:
        """-> the process id of its first process."""
        driver = self._driver
        with driver.starting, speaking(Reason.CREATE_REFUSED):
            driver.client.start(made.container)
        found = look(driver.client, made.container)
        if found is None or not found["State"]["Running"]:
            raise DriverError(Reason.CREATE_REFUSED, "it ended at once")
        if connected is not None:
            names = [entry.split("=", 1)[0] for entry in found["Config"].get("Env") or ()]
            try:
                connected.shell.begin(partial(connected.attachment.send, patience=LISTENS), names)
            except OSError as error:
                raise DriverError(Reason.CREATE_REFUSED, f"its shell does not listen: {error}") from error
        return int(found["State"]["Pid"])

    def _image(self, number: str) -> Image:
        if number not in self._images:
            with speaking(Reason.CREATE_REFUSED):
                config = self._driver.client.inspect_image(number).get("Config") or {}
            said = (tuple(config.get(name) or ()) for name in ("Entrypoint", "Cmd"))
            self._images[number] = Image(*said)
        return self._images[number]

    def _tend(self) -> None:
        """Pause what has been idle for a while, and remove what has been for long."""
        while True:
            with self._changed:
                if self._closing:
                    return
                now = time.monotonic()
                old = next((hot for hot in self._idle if now - hot.idle_since >= IDLE), None)
                tired = next((hot for hot in self._idle if not hot.paused and now - hot.idle_since >= PAUSE), None)
                if old is not None:
                    self._idle.remove(old)
                elif tired is None:
                    self._changed.wait(self._next(now))
                    continue
            if old is not None:
                old.remove()
            elif tired is not None:
                self._rest(tired)

    def _rest(self, tired: HotContainer) -> None:
        with tired.lock:
            if tired.lent or tired.pause():  # (lent by now)
                return
            with self._changed:
                if tired not in self._idle:  # lent or removed meanwhile
                    return
                self._idle.remove(tired)
        tired.remove()

    def _next(self, now: float) -> float | None:
        due = [hot.idle_since + (IDLE if hot.paused else PAUSE) - now for hot in self._idle]
        return max(0.0, min(due)) if due else None


def _kind(spec: Spec) -> type[HotCall]:
    if spec.interactive:
        from driver.docker.hot_exec import ExecutedCall

        return ExecutedCall
    from driver.docker.hot_shell import ShellCall

    return ShellCall


def settle(client: docker.APIClient, ledger: str, container: str | None) -> None:
    """Remove the hot container of a call whose runner is gone: its command cannot be attached to again."""
    found: dict[str, Any] | None = look(client, container) if container else None
    labels = (found["Config"].get("Labels") or {}) if found else {}
    if found is not None and HOT in labels and labels.get(f"{LABEL}ledger") == ledger:
        remove(client, found["Id"])
