"""One hot container: it stays for several calls, one after the other (see `hot`)."""

from __future__ import annotations

import contextlib
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from driver.docker.engine import freeze, look, remove, thaw
from driver.docker.inside import processes
from driver.docker.shell import Shell
from driver.docker.streams import Attachment
from driver.protocol import Preparation
from machine.errors import DriverError
from machine.spec import Spec
from machine.states import Reason

if TYPE_CHECKING:
    from driver.docker.driver import DockerDriver

_LOOKS = (0.001, 0.005, 0.02, 0.1)  # seconds; the kernel lets go of an ended process a moment after its end is known
_OWN = frozenset((  # what a call has for itself: all else makes another container
    *("command", "entrypoint", "name", "idempotency_key", "timeout", "prepare_timeout", "stop_timeout"),
    *("sample", "log_limit", "pull", "pull_idle_timeout"),
))  # fmt: skip


class Image(NamedTuple):
    """What an image runs when nothing else is said."""

    entrypoint: tuple[str, ...]
    command: tuple[str, ...]


class Connected(NamedTuple):
    """The shell of a container, and the connection to it."""

    shell: Shell
    attachment: Attachment


class HotContainer:
    """One container that stays. Used by one thread at a time: of the call, or of whoever pauses and removes it."""

    def __init__(
        self,
        driver: DockerDriver,
        preparation: Preparation,
        spec: Spec,
        image: Image,
        pid: int,
        connected: Connected | None,
    ) -> None:
        """It runs. `pid`: of its first process, as the engine's host numbers it."""
        self.preparation = preparation._replace(hot=True)
        self.key = key(spec)
        self.memory = spec.memory or 0
        self.pid = pid
        self._connected = connected
        self._pump = driver.pump
        self.group = driver.groups.of(preparation, pid)
        self._client = driver.client
        self._events = driver.hot_events
        self._resources = driver.resources
        self._image = image
        self._quiet = 2 if spec.init else 1  # processes while there is no call
        folders = driver.groups.mounts.folders(self.group) if self.group else {}
        self._count = folders["pids"] / "pids.current" if "pids" in folders else None
        self._sees = driver.groups.visible  # and processes
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

    @property
    def shell(self) -> Shell:
        """That carries out commands. DriverError(LOST) when nobody speaks to it, since the engine executes them."""
        if self._connected is None:
            raise DriverError(Reason.LOST, "the engine executes the commands of this container")
        return self._connected.shell

    def command(self) -> int | None:
        """The process of the command that the shell carries out; None when it cannot be seen, or there is none."""
        if not self._sees:
            return None
        import psutil

        with contextlib.suppress(psutil.Error, ValueError):  # no child: it has ended
            process = psutil.Process(self.pid)
            for _ in range(self._quiet):  # of the shell's children the oldest: orphans come to it later
                process = min(process.children(), key=psutil.Process.create_time)
            return process.pid
        return None

    def pause(self) -> bool:
        """Freeze it; -> whether that was done."""
        with contextlib.suppress(DriverError):
            freeze(self._client, self.preparation.container)
            self.paused = True
        return self.paused

    def wake(self) -> bool:
        """Let it go on; -> whether it runs."""
        if self._connected is not None and self._connected.shell.over:
            return False
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
        if self._connected is not None:
            self._pump.drop(self._connected.attachment)
        with contextlib.suppress(DriverError):
            remove(self._client, self.preparation.container)
            self._resources.release_of(self.preparation.container)


def key(spec: Spec) -> str:
    """Calls of one key can share a container."""
    return repr(sorted((name, value) for name, value in spec.asked().items() if name not in _OWN))
