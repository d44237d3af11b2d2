"""Finding the processes of calls on this host, by the marks in their environment.

Whatever a process starts inherits its environment, marks included, and may live on purpose long after the
call: so a mark alone does not say that a process is the call's own. That one leads a session, and it alone
carries a flag of the scheduler that no child inherits.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import suppress
from typing import NamedTuple

_TICK = 1_000_000_000 // os.sysconf("SC_CLK_TCK")
_YOUNG = 1_000_000_000
"""How old a process is, ns, that has shown its environment if it has one."""
_KERNEL_THREAD = 0x00200000
_MARK = "CALL_LEDGER_"
_FLAG: int = os.SCHED_RESET_ON_FORK


class Marked(NamedTuple):
    """A living process of a call. `began`: ticks since the host's start, which tell it from a later one of its pid."""

    pid: int
    group: int
    session: int
    began: int
    environment: dict[str, str]

    @property
    def uid(self) -> str:
        """The call."""
        return self.environment[f"{_MARK}CALL"]

    @property
    def ledger(self) -> str:
        """The ledger that the call is recorded in."""
        return self.environment[f"{_MARK}LEDGER"]

    @property
    def runner(self) -> str:
        """The runner that started it."""
        return self.environment[f"{_MARK}RUNNER"]

    @property
    def leads(self) -> bool:
        """Whether it leads a session: as the call's own process does, and whatever else called setsid."""
        return self.pid == self.session

    @property
    def flagged(self) -> bool:
        """Whether a runner started it, and not a process of the call."""
        try:
            return bool(os.sched_getscheduler(self.pid) & _FLAG)
        except OSError:
            return False

    def began_at(self, now: int) -> int:
        """When it began, in ns since the epoch, if that is `now`."""
        return now - _age(self.began)


def marks(labels: dict[str, str]) -> dict[str, str]:
    """Labels (`call-ledger.call`) as variables of an environment (`CALL_LEDGER_CALL`)."""
    return {key.upper().replace("-", "_").replace(".", "_"): value for key, value in labels.items()}


def flag(pid: int) -> None:
    """Tell the process of a call from all that it will start. It keeps its policy and its priority."""
    with suppress(OSError):  # it has ended, or runs as somebody else: it will only not be found without its number
        os.sched_setscheduler(pid, os.sched_getscheduler(pid) | _FLAG, os.sched_getparam(pid))


def marked(ledger: str, uid: str | None = None) -> Iterator[Marked]:
    """The living processes of a ledger's calls, or of one of them, as far as this user may look."""
    for name in os.listdir("/proc"):
        if name.isdecimal() and (found := read(int(name))) and found.ledger == ledger and uid in (None, found.uid):
            yield found


def read(pid: int) -> Marked | None:
    """One process; None when it has ended, is not marked, or is not ours to look at."""
    try:
        data, place = _environment(pid), _place(pid)
        while not data and place is not None and _age(place[2]) <= _YOUNG:
            time.sleep(0.001)
            data, place = _environment(pid), _place(pid)
    except OSError:
        return None
    if place is None or _MARK.encode() not in data:
        return None
    entries = (os.fsdecode(entry).partition("=") for entry in data.split(b"\0") if b"=" in entry)
    environment = {name: value for name, _, value in entries}
    if not all(f"{_MARK}{name}" in environment for name in ("CALL", "LEDGER", "RUNNER")):
        return None
    return Marked(pid, *place, environment)


def lives(pid: int, began: int) -> bool:
    """Whether the process that had this number then has it still, and has not ended."""
    try:
        place = _place(pid)
    except OSError:
        return False
    return place is not None and place[2] == began


def _age(began: int) -> int:
    """In ns, of what began at that tick."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME) - began * _TICK


def _environment(pid: int) -> bytes:
    with open(f"/proc/{pid}/environ", "rb") as file:
        return file.read()


def _place(pid: int) -> tuple[int, int, int] | None:
    """-> its group, its session and when it began; None when it has ended unwaited for, or is the kernel's own."""
    with open(f"/proc/{pid}/stat", "rb") as file:
        fields = file.read().rpartition(b")")[2].split()
    over = fields[0] in b"ZX" or int(fields[6]) & _KERNEL_THREAD
    return None if over else (int(fields[2]), int(fields[3]), int(fields[19]))
