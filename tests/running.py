"""`calls run` as a user meets it: a process, bytes in and bytes out, signals; and what the ledger says of it."""

from __future__ import annotations

import os
import re
import select
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import docker
import docker.errors
from ledgers import COMMAND

from ledger.read import Reader
from machine.errors import UnknownCallError

IMAGE = "busybox"
RUN = ("run", "--network", "none")
LIMIT = 120
"""Seconds to wait for what must come: only a failing test waits so long, or a machine that is very busy."""
STAY = "echo up; while [ ! -e /gate/open ]; do sleep 0.05; done; echo done; exit 4"
"""A script that ends when the file `open` is made in /gate."""
ARMED = "trap 'exit 0' TERM; echo up; while :; do sleep 0.05; done"
STUBBORN = "trap '' TERM INT; echo up; while :; do sleep 0.05; done"
_HINT = re.compile(r"; calls show ([0-9a-f]{12})\Z")


class Said(NamedTuple):
    """What a process wrote, and its exit status."""

    status: int
    out: bytes
    err: bytes


def calls(*words: str, stdin: bytes = b"", **environment: str) -> Said:
    """Carry out `calls WORD...` to its end."""
    done = subprocess.run(
        [*COMMAND, *words],
        input=stdin,
        capture_output=True,
        env=os.environ | environment,
        timeout=LIMIT,
        check=False,
    )
    return Said(done.returncode, done.stdout, done.stderr)


def run(*words: str, stdin: bytes = b"", **environment: str) -> Said:
    """`calls run`, without a network, which takes an engine a while to make."""
    return calls(*RUN, *words, stdin=stdin, **environment)


def told(said: Said) -> str:
    """The one line that `calls run` wrote to stderr, without "calls: " and without its hint, which is checked.

    Warnings do not count: an engine may have some.
    """
    (line,) = [line for line in said.err.decode().splitlines() if not line.startswith("calls: warning: ")]
    hint = _HINT.search(line)
    assert hint, line
    assert shown()["id"].endswith(hint[1])
    return line.removeprefix("calls: ").removesuffix(hint[0])


def shown(call: str = "@last") -> dict[str, Any]:
    """The call as the test's ledger has it."""
    with Reader(Path(os.environ["CALLS_LEDGER"])) as reader:
        return reader.show(call)


def verdict(call: str = "@last") -> tuple[str, str, int | None]:
    """State, reason, exit code."""
    found = shown(call)
    return found["state"], found["reason"], found["exit_code"]


def events(call: str = "@last") -> list[dict[str, Any]]:
    """The call's events."""
    with Reader(Path(os.environ["CALLS_LEDGER"])) as reader:
        return reader.events(reader.resolve(call))


def kinds(call: str = "@last") -> list[str]:
    """What kinds of events the call has."""
    return [event["kind"] for event in events(call)]


def recorder(call: str = "@last") -> int:
    """The process that records the call."""
    pid: int = events(call)[0]["data"]["owner"]["pid"]
    return pid


def kept(stream: int, call: str = "@last") -> bytes:
    """The recorded output, pieces put together."""
    with Reader(Path(os.environ["CALLS_LEDGER"])) as reader:
        return b"".join(chunk.data for chunk in reader.output(reader.resolve(call)) if chunk.stream == stream)


def until(condition: Callable[[], object], what: str) -> None:
    """Wait for `condition`; AssertionError when it does not come."""
    end = time.monotonic() + LIMIT
    while not condition():
        assert time.monotonic() < end, f"waited in vain: {what}"
        time.sleep(0.02)


def let_pause_settle() -> None:
    """Wait for the runtime's own word of a pause: of one that is over by then Docker 20.10 tells a second time."""
    time.sleep(1)


def steps(call: str = "@last") -> list[str]:
    """The kinds of its events, but for what a busy machine adds: a gap between samples."""
    return [kind for kind in kinds(call) if kind != "gap"]


def until_kind(call: str, kind: str) -> None:
    """Wait until the call has an event of this kind."""

    def has() -> bool:
        with suppress(UnknownCallError):  # not even submitted yet
            return kind in kinds(call)
        return False

    until(has, kind)


def settled(call: str = "@last") -> bool:
    """Whether its recorder is done with the call; what others asked of it may be recorded later."""
    return "cleaned" in kinds(call)


def hear(descriptor: int, text: bytes) -> bytes:
    """Read until `text` was read; -> all that was read."""
    heard, end = b"", time.monotonic() + LIMIT
    while text not in heard:
        ready, _, _ = select.select([descriptor], [], [], max(0, end - time.monotonic()))
        assert ready, f"heard only {heard!r}"
        piece = os.read(descriptor, 65536)
        assert piece, f"heard only {heard!r}"
        heard += piece
    return heard


class Under:
    """A process that runs. Made by `under`."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        """Its stdout and stderr are pipes."""
        self.process = process
        self.heard = b""

    def hear(self, text: bytes) -> None:
        """Wait until it wrote `text` to stdout."""
        assert self.process.stdout is not None
        self.heard += hear(self.process.stdout.fileno(), text)

    def send(self, number: signal.Signals) -> None:
        """Send it a signal, and only it."""
        self.process.send_signal(number)

    def end(self) -> Said:
        """Wait for its end, and for the end of all that hold its output; -> what it wrote."""
        out, err = self.process.communicate(timeout=LIMIT)
        return Said(self.process.returncode, self.heard + (out or b""), err or b"")


@contextmanager
def under(*words: str, **options: Any) -> Iterator[Under]:
    """`calls WORD...` under way. `options` are those of Popen."""
    pipe = subprocess.PIPE
    given = {"stdin": subprocess.DEVNULL, "stdout": pipe, "stderr": pipe, "bufsize": 0, **options}
    with subprocess.Popen([*COMMAND, *words], **given) as process:
        try:
            yield Under(process)
        finally:
            process.kill()  # does nothing to one that has ended


@contextmanager
def nothing_left(engine: docker.APIClient) -> Iterator[None]:
    """Afterwards no container, control group, network and volume of the test's ledger may be there."""
    yield
    path = Path(os.environ["CALLS_LEDGER"])
    if not path.exists():
        return
    with Reader(path) as reader:
        (identity,) = next(iter(reader.query("SELECT value FROM meta WHERE key = 'ledger'")[1]))
        uids = [uid for (uid,) in reader.query("SELECT uid FROM call")[1]]
    left = engine.containers(all=True, filters={"label": f"call-ledger.ledger={identity}"})
    left_groups = [path for uid in uids for path in groups(uid)]
    filters = {"label": f"call-ledger.ledger={identity}"}
    networks, volumes = engine.networks(filters=filters), engine.volumes(filters=filters)["Volumes"] or []
    for container in left:
        engine.remove_container(container, force=True)
    for network in networks:
        engine.remove_network(network["Id"])
    for volume in volumes:
        engine.remove_volume(volume["Name"])
    assert (left, left_groups, networks, volumes) == ([], [], [], [])


def groups(uid: str) -> list[Path]:
    """The parent control groups of a call, one a hierarchy."""
    return [*Path("/sys/fs/cgroup").glob(f"*/call-{uid}"), *Path("/sys/fs/cgroup").glob(f"call-{uid}")]


def discard(engine: docker.APIClient, uid: str) -> None:
    """Remove what a call that nobody records any more has left behind."""
    engine.remove_container(uid, v=True, force=True)
    for path in groups(uid):
        until(lambda path=path: _let_go(path), f"the kernel to let go of {path}")  # type: ignore[misc]


def _let_go(path: Path) -> bool:
    with suppress(OSError):  # of what has just ended something may be left in it
        path.rmdir()
    return not path.exists()


def shell(script: str) -> list[str]:
    """SCRIPT as a command of its own; in it "$@" is `calls`."""
    return ["sh", "-c", script, "sh", *COMMAND]


def fill(path: Path) -> None:
    """Leave no room on the disk of `path`."""
    with (path.parent / "filler").open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError:
            return
