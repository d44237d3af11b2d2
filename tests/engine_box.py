"""A container of the scripted engine: a process of this host that is treated as the first one of a container."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shlex
import signal
import subprocess
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from engine_http import Refused

NEVER = "0001-01-01T00:00:00Z"
_SHIM = "failed to create shim task: OCI runtime create failed: runc create failed: unable to start container process"
_FLUSH = 2  # seconds that the engine waits for output which something still holds open
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

Tell = Callable[..., None]
"""Takes an action, and attributes of the event."""


def stamp(at: int | None = None) -> str:
    """A time (ns, now if None) as the engine writes it."""
    at = time.time_ns() if at is None else at
    return f"{datetime.fromtimestamp(at // 10**9, UTC):%Y-%m-%dT%H:%M:%S}.{at % 10**9:09d}Z"


class Box:
    """One container. Lives in the engine's event loop."""

    def __init__(self, number: str, name: str, config: dict[str, Any], tell: Tell) -> None:
        """`tell` makes an event of it."""
        self.id, self.name, self.config = number, name, config
        self.created = time.time_ns()
        self.status = "created"
        self.exit_code, self.error, self.oom_killed = 0, "", False
        self.started_at = self.finished_at = NEVER
        self.over = asyncio.Event()  # of the process that runs, or ran last
        self.unreadable = False  # its exit status is lost, as when the shim was killed
        self.log: list[tuple[int, bytes]] = []
        self.writers: set[asyncio.StreamWriter] = set()
        self.unread: list[tuple[int, bytes]] | None = None  # written while there is no engine
        self._tell = tell
        self._process: subprocess.Popen[bytes] | None = None
        self._pipes: list[asyncio.ReadTransport] = []
        self._streams_open = 0
        self._drained = asyncio.Event()
        self._health: dict[str, Any] | None = None
        self._probing: asyncio.Task[None] | None = None
        self._ending: asyncio.Task[None] | None = None

    @property
    def running(self) -> bool:
        """Whether its process lives."""
        return self.status in ("running", "paused")

    @property
    def labels(self) -> dict[str, str]:
        """Its labels."""
        return self.config.get("Labels") or {}

    def inspect(self) -> dict[str, Any]:
        """As GET /containers/ID/json."""
        pid = self._process.pid if self._process and self.running else 0
        state = {
            "Status": self.status,
            "Running": self.running,
            "Paused": self.status == "paused",
            "OOMKilled": self.oom_killed,
            "Pid": pid,
            "ExitCode": self.exit_code,
            "Error": self.error,
            "StartedAt": self.started_at,
            "FinishedAt": self.finished_at,
        }
        if self._health is not None:
            state["Health"] = self._health
        host = self.config.get("HostConfig") or {}
        return {
            "Id": self.id,
            "Created": stamp(self.created),
            "State": state,
            "Image": self.config["image_id"],
            "Name": f"/{self.name}",
            "RestartCount": 0,
            "HostConfig": host,
            "Config": {name: value for name, value in self.config.items() if name not in ("HostConfig", "image_id")},
        }

    async def start(self) -> None:
        """Begin its process."""
        words = [*(self.config.get("Entrypoint") or []), *(self.config.get("Cmd") or [])]
        environment = {"PATH": _PATH} | dict(entry.split("=", 1) for entry in self.config.get("Env") or [])
        pipe, null = subprocess.PIPE, subprocess.DEVNULL
        try:
            self._process = subprocess.Popen(  # noqa: ASYNC220 - it takes a millisecond
                words, stdin=null, stdout=pipe, stderr=pipe, cwd="/", env=environment, start_new_session=True
            )
        except OSError as error:
            self._refuse(words[0], error)
        await self._begin(self._process)

    def _refuse(self, word: str, error: OSError) -> None:
        if isinstance(error, FileNotFoundError):
            why = f"stat {word}: no such file or directory" if "/" in word else "executable file not found in $PATH"
            self.exit_code = 127
        else:
            why, self.exit_code = "permission denied", 126
        self.error = f'{_SHIM}: exec: "{word}": {why}: unknown'
        raise Refused(400, self.error)

    async def _begin(self, process: subprocess.Popen[bytes]) -> None:
        loop = asyncio.get_running_loop()
        self.status, self.started_at = "running", stamp()
        self.exit_code, self.error, self.oom_killed = 0, "", False
        self.over, self._drained, self._streams_open = asyncio.Event(), asyncio.Event(), 2
        for number, stream in ((1, process.stdout), (2, process.stderr)):
            pipe, _ = await loop.connect_read_pipe(lambda number=number: _Output(self, number), stream)  # type: ignore[misc]
            self._pipes.append(pipe)
        descriptor = os.pidfd_open(process.pid)
        loop.add_reader(descriptor, self._exited, process, descriptor)
        self._tell("start")
        check = self.config.get("Healthcheck") or {}
        if (check.get("Test") or ["NONE"])[0] != "NONE":
            self._health = {"Status": "starting", "FailingStreak": 0, "Log": []}
            self._probing = loop.create_task(self._probe(check))

    def output(self, number: int, data: bytes) -> None:
        """The process wrote."""
        if self.unread is not None:
            self.unread.append((number, data))
            return
        self.log.append((number, data))
        for writer in self.writers:
            writer.write(frame(number, data))

    def found(self) -> None:
        """The engine is back: what was written meanwhile is read now, unless the process has ended."""
        unread, self.unread = self.unread or [], None
        if self.running:
            self.log += unread

    def output_ended(self) -> None:
        """One of its streams is at its end."""
        self._streams_open -= 1
        if self._streams_open == 0:
            self._drained.set()

    def _exited(self, process: subprocess.Popen[bytes], descriptor: int) -> None:
        asyncio.get_running_loop().remove_reader(descriptor)
        os.close(descriptor)
        code = process.wait()
        with contextlib.suppress(ProcessLookupError):  # in a container everything ends with the first process
            os.killpg(process.pid, signal.SIGKILL)
        self._ending = asyncio.ensure_future(self._end(128 - code if code < 0 else code))

    async def _end(self, code: int) -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._drained.wait(), _FLUSH)
        self.close_streams()
        if self._probing is not None:
            self._probing.cancel()
        self.status, self.exit_code, self.finished_at = "exited", code, stamp()
        self.over.set()
        self._tell("die", exitCode=str(code))

    def signal(self, number: int) -> None:
        """Send a signal, as to the first process of a container: what it does not handle does nothing to it."""
        if not self.running or self._process is None:
            raise Refused(409, f"Cannot kill container: {self.id}: Container {self.id} is not running")
        with contextlib.suppress(ProcessLookupError):
            if number == signal.SIGKILL:
                os.killpg(self._process.pid, number)
            elif _handles(self._process.pid, number):
                os.kill(self._process.pid, number)
        self._tell("kill", signal=str(number))

    def top(self) -> dict[str, Any]:
        """What ps says of its processes."""
        if not self.running or self._process is None:
            raise Refused(409, f"Container {self.id} is not running")
        words = ["ps", "-s", str(self._process.pid), "-o", "user,pid,ppid,time,args"]
        lines = subprocess.run(words, capture_output=True, text=True, check=True).stdout.splitlines()
        titles, *rows = [line.split(maxsplit=4) for line in lines]
        return {"Titles": titles, "Processes": rows}

    def freeze(self) -> None:
        """Pause."""
        self._must("running", "paused", 409, "already paused")
        self._all(signal.SIGSTOP)
        self.status = "paused"
        self._tell("pause")

    def thaw(self) -> None:
        """Go on."""
        self._must("paused", "running", 500, "not paused")
        self._all(signal.SIGCONT)
        self.status = "running"
        self._tell("unpause")

    def _must(self, wanted: str, other: str, status: int, words: str) -> None:
        if self.status not in (wanted, other):
            raise Refused(409, f"Container {self.id} is not running")
        if self.status == other:
            raise Refused(status, f"Container {self.id} is {words}")

    def _all(self, number: int) -> None:
        assert self._process is not None
        os.killpg(self._process.pid, number)

    async def stop(self, grace: float) -> None:
        """Stop signal, grace, SIGKILL."""
        thawed = self.status == "paused"
        self.signal(signal.Signals[self.config.get("StopSignal") or "SIGTERM"])
        if thawed:
            self.thaw()
        try:
            await asyncio.wait_for(self.over.wait(), grace)
        except TimeoutError:
            self.signal(signal.SIGKILL)
            await self.over.wait()
        self._tell("stop")

    async def kill(self) -> None:
        """End it, and wait for that."""
        if self.running:
            self.signal(signal.SIGKILL)
            await self.over.wait()

    def oom(self, *, fatal: bool, event: bool = True) -> None:
        """The kernel kills something in it for memory: its first process, if `fatal`."""
        self.oom_killed = True
        if event:
            self._tell("oom")
        if fatal:
            self._all(signal.SIGKILL)

    async def _probe(self, check: dict[str, Any]) -> None:
        assert self._health is not None
        words = check["Test"][1:] if check["Test"][0] == "CMD" else ["/bin/sh", "-c", check["Test"][1]]
        while True:
            await asyncio.sleep((check.get("Interval") or 30 * 10**9) / 1e9)
            if self.status == "paused":
                continue
            self._tell(f"exec_start: {shlex.join(words)}")
            # Not asyncio's own: its watcher of children would cost a thread a probe.
            done = subprocess.run(  # noqa: ASYNC221
                words, capture_output=True, check=False, timeout=60
            )
            self._tell("exec_die", exitCode=str(done.returncode))
            self._judge(done.returncode, (done.stdout + done.stderr).decode(), check.get("Retries") or 3)

    def _judge(self, code: int, output: str, retries: int) -> None:
        assert self._health is not None
        before = self._health["Status"]
        streak = 0 if code == 0 else self._health["FailingStreak"] + 1
        now = "healthy" if code == 0 else "unhealthy" if streak >= retries else before
        log = [*self._health["Log"][-4:], {"Start": stamp(), "End": stamp(), "ExitCode": code, "Output": output}]
        self._health.update(Status=now, FailingStreak=streak, Log=log)
        if now != before:
            self._tell(f"health_status: {now}")

    def close_streams(self) -> None:
        """End every attachment, and stop reading the process."""
        for pipe in self._pipes:
            pipe.close()
        self._pipes.clear()
        for writer in self.writers:
            writer.close()
        self.writers.clear()

    async def destroy(self) -> None:
        """Leave nothing behind, and tell nobody."""
        self._tell = lambda *_, **__: None
        await self.kill()
        for task in (self._probing, self._ending):
            if task is not None:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)


class _Output(asyncio.Protocol):
    def __init__(self, box: Box, number: int) -> None:
        self._box, self._number = box, number

    def data_received(self, data: bytes) -> None:
        self._box.output(self._number, data)

    def connection_lost(self, _: Exception | None) -> None:
        self._box.output_ended()


def frame(number: int, data: bytes) -> bytes:
    """Output in the engine's multiplexing."""
    return bytes((number, 0, 0, 0)) + len(data).to_bytes(4, "big") + data


def _handles(pid: int, number: int) -> bool:
    status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    caught = next(line for line in status.splitlines() if line.startswith("SigCgt:"))
    return bool(int(caught.split()[1], 16) >> (number - 1) & 1)
