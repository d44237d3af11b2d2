"""What a process of this host and its children use: readings while it lives, exact totals at its end."""

from __future__ import annotations

import resource
from collections.abc import Iterable
from typing import TYPE_CHECKING, NamedTuple

from machine.samples import Sample

if TYPE_CHECKING:
    import psutil

_NANO = 1_000_000_000
_RSS_UNIT = 1024  # ru_maxrss is in KiB on Linux


class _Reading(NamedTuple):
    user_ns: int
    kernel_ns: int
    rss: int
    threads: int
    read_bytes: int | None
    write_bytes: int | None


class ProcessMeter:
    """A `driver.protocol.Meter`: sums over one process and all its descendants.

    CPU time and I/O include children that ended and were waited for. Memory is the sum of resident sets:
    pages shared between processes count once for each. Counters never go backwards: where a child's share
    vanishes with it, because nobody waited for it, the highest reading stands until it is passed.
    """

    def __init__(self, pid: int) -> None:
        """`pid` has not been waited for, so that the number is still its own."""
        import psutil

        self._highest: dict[str, int] = {}
        try:
            self._root: psutil.Process | None = psutil.Process(pid)
        except psutil.NoSuchProcess:
            self._root = None

    def close(self) -> None:
        """Nothing is kept open."""

    def read(self) -> Sample | None:
        """CPU, memory, disk and threads now (as `pids`); None once the process has ended."""
        readings = self._readings()
        if not readings:
            return None
        user = self._climb("user", sum(reading.user_ns for reading in readings))
        kernel = self._climb("kernel", sum(reading.kernel_ns for reading in readings))
        memory = sum(reading.rss for reading in readings)
        self._climb("memory", memory)
        return Sample(
            cpu_total_ns=user + kernel,
            cpu_user_ns=user,
            cpu_kernel_ns=kernel,
            mem_usage_bytes=memory,
            mem_rss_bytes=memory,
            disk_read_bytes=self._disk("read", (reading.read_bytes for reading in readings)),
            disk_write_bytes=self._disk("write", (reading.write_bytes for reading in readings)),
            pids=sum(reading.threads for reading in readings),
        )

    def highest(self, name: str) -> int:
        """The highest reading so far of `user` or `kernel` (ns) or `memory` (bytes); 0 before the first."""
        return self._highest.get(name, 0)

    def _readings(self) -> list[_Reading]:
        import psutil

        try:
            if self._root is None or self._root.status() == psutil.STATUS_ZOMBIE:
                return []
            # Parents before children: a child that is waited for in between is missing from one
            # reading. The other way round it would count twice, and the highest reading stands.
            family = [self._root, *self._root.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []
        return [reading for process in family if (reading := _reading(process)) is not None]

    def _climb(self, name: str, value: int) -> int:
        self._highest[name] = max(value, self.highest(name))
        return self._highest[name]

    def _disk(self, name: str, values: Iterable[int | None]) -> int | None:
        known = list(values)
        readable = [value for value in known if value is not None]
        # A sum without one of its parts would be a wrong number, not a smaller one.
        return self._climb(name, sum(readable)) if len(readable) == len(known) else None


def _reading(process: psutil.Process) -> _Reading | None:
    import psutil

    try:
        with process.oneshot():
            cpu = process.cpu_times()
            try:
                disk = process.io_counters()
            except psutil.AccessDenied:  # it runs as somebody else
                disk = None
            return _Reading(
                user_ns=round((cpu.user + cpu.children_user) * _NANO),
                kernel_ns=round((cpu.system + cpu.children_system) * _NANO),
                rss=process.memory_info().rss,
                threads=process.num_threads(),
                read_bytes=disk.read_bytes if disk else None,
                write_bytes=disk.write_bytes if disk else None,
            )
    except psutil.NoSuchProcess:
        return None


def own_peak() -> int:
    """The highest resident set of this very process, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _RSS_UNIT


def totals(usage: resource.struct_rusage, parent_peak: int, meter: ProcessMeter | None) -> Sample:
    """CPU time and peak memory of a process that ended, from what wait4 said of it.

    Exact for the process and the children it waited for; `meter` may know of more. The peak is None where
    nobody knows it: a process starts out in its parent's memory, so that a usage up to `parent_peak`
    (bytes) says nothing about its own.
    """
    user = max(round(usage.ru_utime * _NANO), meter.highest("user") if meter else 0)
    kernel = max(round(usage.ru_stime * _NANO), meter.highest("kernel") if meter else 0)
    said = usage.ru_maxrss * _RSS_UNIT
    peak = max(said if said > parent_peak else 0, meter.highest("memory") if meter else 0)
    return Sample(
        cpu_total_ns=user + kernel,
        cpu_user_ns=user,
        cpu_kernel_ns=kernel,
        mem_peak_bytes=peak or None,
    )
