"""A look into a running container: its processes, and another command in it."""

from __future__ import annotations

import contextlib
import re
import select
import time
from collections.abc import Callable, Sequence
from itertools import chain, repeat
from typing import Any

import docker

from driver.docker.engine import inspect, is_podman
from driver.docker.errors import speaking, status
from driver.docker.streams import Attachment, early
from driver.protocol import Execution, Process
from machine.errors import DriverError, UnknownOutcomeError
from machine.states import Reason

_USERS, _COMMANDS = ("USER", "UID"), ("COMMAND", "CMD")  # by the titles of the ps of various hosts
_CPU = re.compile(r"(?:(\d+)-)?(?:(\d+):)?(\d+):(\d+)")  # [days-][hours:]minutes:seconds
_COLUMNS = "pid,ppid,user,time,args"  # for Podman, which else does not take its lines apart
_SELDOM_TYPED = ",".join(["ctrl-^"] * 16)
"""In place of Ctrl-P Ctrl-Q, by which an engine lets go of a command, and which it holds back meanwhile."""
_LOOKS = (0.001, 0.01, 0.05, 0.2)
"""Seconds between two looks at a command that has closed its output: as a rule it ends just then."""


def processes(client: docker.APIClient, container: str) -> list[Process]:
    """The processes of a container; none when it does not run."""
    podman = is_podman(client)
    if podman and (seen := inspect(client, container).status) != "running":  # it would answer with nothing at all
        if seen == "paused":
            raise DriverError(Reason.ENGINE_LOST, "Podman does not name the processes of a paused container")
        return []
    try:
        with speaking(Reason.ENGINE_LOST):
            found = client.top(container, _COLUMNS if podman else None)
    except DriverError as error:
        if status(error) in (404, 409) or (status(error) == 500 and "not running" in str(error)):
            return []
        raise
    return [_process(dict(zip(found["Titles"], row, strict=False))) for row in found["Processes"] or ()]


def _process(row: dict[str, str]) -> Process:
    parent = row.get("PPID", "")
    return Process(
        pid=int(row["PID"]),
        parent=int(parent) if parent.isdecimal() else None,
        user=_first(row, _USERS),
        cpu_seconds=_seconds(row.get("TIME", "")),
        command=_first(row, _COMMANDS),
    )


def _first(row: dict[str, str], names: Sequence[str]) -> str:
    return next((row[name] for name in names if name in row), "")


def _seconds(text: str) -> float | None:
    if (match := _CPU.fullmatch(text)) is None:
        return None
    days, hours, minutes, seconds = (int(part or 0) for part in match.groups())
    return float(((days * 24 + hours) * 60 + minutes) * 60 + seconds)


def execute(client: docker.APIClient, container: str, wanted: Execution, output: Callable[[int, bytes], None]) -> int:
    """Run a command to its end; -> its exit code. What cannot be executed says so in its output, with 126 or 127."""
    tty = wanted.terminal is not None
    with speaking(Reason.START_REFUSED):
        made = client.exec_create(
            container,
            list(wanted.command),
            stdin=wanted.interactive,
            tty=tty,
            detach_keys=_SELDOM_TYPED if tty else None,
            environment=dict(wanted.env) or None,
            user=wanted.user or "",
            workdir=wanted.workdir,
        )["Id"]
        raw = client.exec_start(made, tty=tty, socket=True)
    if wanted.terminal is not None:
        wanted.terminal(lambda rows, columns: _resize(client, made, rows, columns))
    _pass_on(Attachment(raw, output, lambda: None, tty=tty), raw, interactive=wanted.interactive)
    return _exit_code(client, made)


def _resize(client: docker.APIClient, made: str, rows: int, columns: int) -> None:
    with contextlib.suppress(DriverError), speaking(Reason.LOST):  # it may have ended
        client.exec_resize(made, rows, columns)


def _pass_on(attachment: Attachment, raw: Any, *, interactive: bool) -> None:
    try:
        if interactive:
            attachment.feed()
        begun = early(raw)
        goes_on = not begun or attachment.take(begun)
        poll = select.poll()
        poll.register(attachment.fileno(), select.POLLIN)
        while goes_on:
            poll.poll()
            goes_on = attachment.ready()
    finally:
        attachment.close()


def _exit_code(client: docker.APIClient, made: str) -> int:
    for pause in chain(_LOOKS, repeat(_LOOKS[-1])):
        try:
            with speaking(Reason.LOST):
                found = client.exec_inspect(made)
        except DriverError as error:  # a container that is removed takes its record along
            raise UnknownOutcomeError(Reason.LOST, f"its end was not seen: {error}") from error
        if found["ExitCode"] is not None and not found["Running"]:
            return int(found["ExitCode"])
        if not found["Running"]:
            break
        time.sleep(pause)
    raise UnknownOutcomeError(Reason.LOST, "the engine does not say how the command ended")
