"""Hot containers: one container for several calls, one after the other, each with output and an exit code of its own.

The container's own process only waits (`tail -f /dev/null`: the image must have `tail`); a call is a command that the
engine executes in it (see `hot_call`). Calls share a container when they differ in nothing but their command and their
limits of time. Idle, it is soon paused, and some time later removed. Nothing of a call runs on into the next: where a
process is left, or the call was stopped, or memory ran out, the container is removed. But files stay: what a call has
written the next one finds, on a tmpfs as well.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import docker

from driver.docker.engine import freeze, look, remove, thaw
from driver.docker.errors import speaking
from driver.docker.inside import processes
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
_LOOKS = (0.001, 0.005, 0.02)  # seconds; the kernel lets go of an ended process a moment after its end is known
_OWN = frozenset((  # what a call has for itself: all else makes another container
    *("command", "entrypoint", "name", "interactive", "idempotency_key", "timeout", "prepare_timeout", "stop_timeout"),
    *("sample", "log_limit", "pull", "pull_idle_timeout"),
))  # fmt: skip


class Image(NamedTuple):
    """What an image runs when nothing else is said."""

    entrypoint: tuple[str, ...]
    command: tuple[str, ...]


class HotContainer:
    """One container that stays. Used by one thread at a time: of the call, or of whoever pauses and removes it."""

    def __init__(self, driver: DockerDriver, preparation: Preparation, spec: Spec, image: Image, pid: int) -> None:
        """It runs. `pid`: of its first process, as the engine's host numbers it."""
        self.preparation = preparation._replace(hot=True)
        self.key = key(spec)
        self.pid = pid
        self.group = driver.group_of(preparation, pid)
        self._client = driver.client
        self._events = driver.hot_events
        self._resources = driver.resources
        self._image = image
        self._quiet = 2 if spec.init else 1  # processes while there is no call
        folders = driver.mounts.folders(self.group) if self.group else {}
        self._count = folders["pids"] / "pids.current" if "pids" in folders else None
        self.lock = threading.Lock()
        self.lent = False
        self.idle_since = 0.0
        self.paused = False
        self.sure = False
        """Whether it runs, by all that was heard since it was looked at."""
        self.listen()

    def listen(self) -> None:
        """Hear of it while no call does."""
        self._events.listen(self.preparation.container, self._heard, lambda _, __: self._doubt())

    def _heard(self, action: str, at: int, attributes: dict[str, str]) -> None:
        if not action.startswith(("exec_", "start")):
            self._doubt()

    def _doubt(self) -> None:
        self.sure = False

    def words(self, spec: Spec) -> list[str]:
        """The command of a call in full, as the engine puts it together for a container of its own."""
        if spec.entrypoint is not None:
            return [*([spec.entrypoint] if spec.entrypoint else ()), *spec.command]
        return [*self._image.entrypoint, *(spec.command or self._image.command)]

    def pause(self) -> bool:
        """Freeze it; -> whether that was done."""
        with contextlib.suppress(DriverError):
            freeze(self._client, self.preparation.container)
            self.paused = True
        return self.paused

    def wake(self) -> bool:
        """Let it go on; -> whether it runs."""
        try:
            if self.paused:
                thaw(self._client, self.preparation.container)
                self.paused = False
            if self.sure:
                return True
            found = look(self._client, self.preparation.container)
        except DriverError:
            return False
        self.sure = found is not None and found["State"]["Status"] == "running" and not self._events.blind
        return found is not None and found["State"]["Status"] == "running"

    def quiet(self) -> bool:
        """Whether nothing of a call is left in it, not even a process that has ended and that nobody waited for."""
        for pause in (0, *_LOOKS):
            time.sleep(pause)
            try:
                found = self._number()
            except (DriverError, OSError, ValueError):
                return False
            if found <= self._quiet:
                return found == self._quiet
        return False

    def _number(self) -> int:
        if self._count is not None:
            return int(Path(self._count).read_text(encoding="ascii"))
        return len(processes(self._client, self.preparation.container))

    def remove(self) -> None:
        """With all that runs in it. What cannot be removed now is found by its label."""
        self._events.forget(self.preparation.container)
        with contextlib.suppress(DriverError):
            remove(self._client, self.preparation.container)
            self._resources.release_of(self.preparation.container)


class HotSet:
    """The hot containers of one runner. Thread-safe; `close` leaves none."""

    def __init__(self, driver: DockerDriver, labels: Labels) -> None:
        """None yet; nor the thread that pauses and removes them."""
        self._driver = driver
        self._labels = {f"{LABEL}ledger": labels.ledger, f"{LABEL}runner": labels.runner, HOT: labels.runner}
        self._idle: list[HotContainer] = []
        self._changed = threading.Condition()
        self._closing = False
        self._thread: threading.Thread | None = None
        self._images: dict[str, Image] = {}

    def prepare(self, spec: Spec, watcher: Watcher) -> HotCall:
        """A call's place in an idle container of its kind, the one last used; else in a new one."""
        from driver.docker.hot_call import HotCall

        self._driver.hot_events  # noqa: B018 - subscribes meanwhile
        wanted = key(spec)
        while (hot := self._take(wanted)) is not None:
            with hot.lock:
                if hot.wake():
                    return HotCall(self._driver, hot, spec, watcher, self)
            hot.remove()
        return HotCall(self._driver, self._make(spec, watcher), spec, watcher, self)

    def give_back(self, hot: HotContainer, *, whole: bool) -> None:
        """The call is over; unless `whole`, or if it left anything running, the container is not used again."""
        if not (whole and hot.quiet()):
            hot.remove()
            return
        with self._changed:
            hot.lent, hot.idle_since = False, time.monotonic()
            self._idle.append(hot)
            if self._thread is None and not self._closing:
                self._thread = threading.Thread(target=self._tend, name="hot", daemon=True)
                self._thread.start()
            self._changed.notify_all()

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
            return found

    def _make(self, spec: Spec, watcher: Watcher) -> HotContainer:
        driver, client = self._driver, self._driver.client
        waits = spec._replace(entrypoint="tail", command=("-f", "/dev/null"), interactive=False, no_healthcheck=True)
        made = driver.make(f"hot-{os.urandom(8).hex()}", waits, watcher, self._labels)
        try:
            with driver.starting, speaking(Reason.CREATE_REFUSED):
                client.start(made.container)
            found = look(client, made.container)
            if found is None or not found["State"]["Running"]:
                raise DriverError(Reason.CREATE_REFUSED, "it ended at once")
            return HotContainer(driver, made, spec, self._image(made.image_id or ""), found["State"]["Pid"])
        except DriverError as error:
            with contextlib.suppress(DriverError):
                remove(client, made.container)
                driver.resources.release_of(made.container)
            message = f"a hot container waits with `tail`, and this one cannot: {error}"
            raise type(error)(error.reason, message) from error

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
                self._idle.remove(tired)
        tired.remove()

    def _next(self, now: float) -> float | None:
        due = [hot.idle_since + (IDLE if hot.paused else PAUSE) - now for hot in self._idle]
        return max(0.0, min(due)) if due else None


def key(spec: Spec) -> str:
    """Calls of one key can share a container."""
    return repr(sorted((name, value) for name, value in spec.asked().items() if name not in _OWN))


def settle(client: docker.APIClient, ledger: str, container: str | None) -> None:
    """Remove the hot container of a call whose runner is gone: its command cannot be attached to again."""
    found: dict[str, Any] | None = look(client, container) if container else None
    labels = (found["Config"].get("Labels") or {}) if found else {}
    if found is not None and HOT in labels and labels.get(f"{LABEL}ledger") == ledger:
        remove(client, found["Id"])
