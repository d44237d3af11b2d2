"""Who we are: ids for calls and runners, this process as an owner, and who asks."""

from __future__ import annotations

import functools
import os
import socket
import time
from pathlib import Path
from typing import Literal

from ledger.lease import Lease
from machine.facts import Owner, Requester
from machine.units import SECOND

STALE = 60 * SECOND
"""How old a heartbeat may be, where it is all there is to go by."""


def new_id(now_ms: int | None = None) -> str:
    """A UUIDv7 (RFC 9562): sorts by time, made by whoever makes the call.

    Ten lines, because `uuid` costs a `calls run` more time to import than these to write; Python 3.14 has it.
    """
    stamp = time.time_ns() // 1_000_000 if now_ms is None else now_ms
    random = int.from_bytes(os.urandom(10), "big")
    value = (stamp & (2**48 - 1)) << 80 | 7 << 76 | (random >> 62 & 0xFFF) << 64 | 2 << 62 | random & (2**62 - 1)
    text = f"{value:032x}"
    return "-".join((text[:8], text[8:12], text[12:16], text[16:20], text[20:]))


def owner(runner: str) -> Owner:
    """This process, so that nobody takes another one with the same pid for it."""
    return Owner(
        runner=runner,
        host=socket.gethostname(),
        boot=boot_id(),
        pid=os.getpid(),
        pid_started=started(os.getpid()),
        pid_namespace=pid_namespace(),
    )


def requester(via: Literal["api", "cli", "interrupt", "terminate", "close"]) -> Requester:
    """The user behind this process."""
    return Requester(user=_user(), uid=os.getuid(), pid=os.getpid(), host=socket.gethostname(), via=via)


@functools.cache
def boot_id() -> str:
    """Changes with every boot of this host; empty where the system does not say."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return ""


def started(pid: int) -> int:
    """When a process began, in clock ticks since boot; 0 when there is no such process, or only its zombie."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return 0
    fields = stat.rpartition(")")[2].split()
    return 0 if fields[0] in "ZX" else int(fields[19])


def pid_namespace() -> int:
    """In which numbering of processes our pids mean anything; 0 where the system does not say."""
    try:
        return os.stat("/proc/self/ns/pid").st_ino
    except OSError:
        return 0


def alive(lease: Lease, now: int) -> bool:
    """Whether the runner behind a lease lives. `now`: the wall clock, ns.

    Where its processes are ours to see, the process itself says so: the same number, begun at the same tick,
    and not a zombie. A boot that is over took all its processes along. Elsewhere the heartbeat decides.
    """
    if lease.host == socket.gethostname() and lease.boot != boot_id():
        return False
    if lease.boot == boot_id():
        found = started(lease.pid) == lease.pid_started
        if lease.pid_namespace == pid_namespace() or (found and lease.pid_namespace == 0):
            return found  # (0: not said, as in ledgers of schema 1)
    return now - lease.beat_at < STALE


def _user() -> str:
    import getpass  # few calls are asked anything

    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return str(os.getuid())
