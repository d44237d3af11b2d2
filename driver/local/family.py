"""The processes of a call, and whether its first one is stopped."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from driver.protocol import Process

if TYPE_CHECKING:
    import psutil

_LOOKS, _PAUSE = 500, 0.002  # a stop takes effect when the process is next looked at by the kernel: at once, as a rule

NOTHING_TO_RUN_IN = "a process of this host has no container that a command could be run in: run it yourself"


def stopped(pid: int) -> bool:
    """Whether a process is stopped, by whomever.

    One that is just starting another (vfork) waits for it without being stopped itself: for as long as that is.
    """
    state = _state(pid)
    return state == "T" or (state == "D" and any(_state(child) == "T" for child in _children(pid)))


def _state(pid: int) -> str:
    stat = _read(f"/proc/{pid}/stat")
    return stat.rpartition(")")[2].split()[0] if stat else ""


def _children(pid: int) -> list[int]:
    return [int(child) for child in _read(f"/proc/{pid}/task/{pid}/children").split()]


def _read(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError:  # it has ended
        return ""


def turn(pid: int, signal: Callable[[], bool], turned: Callable[[], None], *, stops: bool) -> bool:
    """Have a process stop, or go on, by `signal`; False when it has ended. `turned` is called if it was not so yet."""
    if stopped(pid) is stops:
        return True
    if not signal():
        return False
    _await(pid, stops=stops)
    turned()
    return True


def _await(pid: int, *, stops: bool) -> None:
    # Not for ever: one that waits for a disk does neither.
    for _ in range(_LOOKS):
        if stopped(pid) is stops:
            return
        time.sleep(_PAUSE)


def family(pid: int) -> list[Process]:
    """A process and its descendants; none when it has ended."""
    import psutil

    try:
        root = psutil.Process(pid)
        members = [root, *root.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []
    return [told for member in members if (told := _told(member)) is not None]


def _told(process: psutil.Process) -> Process | None:
    import psutil

    try:
        with process.oneshot():
            if process.status() == psutil.STATUS_ZOMBIE:
                return None
            words, cpu = process.cmdline(), process.cpu_times()
            command = " ".join(words) or f"[{process.name()}]"
            return Process(process.pid, process.ppid(), process.username(), cpu.user + cpu.system, command)
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return None
