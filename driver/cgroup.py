"""Samples straight from the kernel's control groups, version 1 and 2.

Reading the files costs a tenth of a millisecond a sample and loses none at 200 calls, where the engine's
own stream, which visits all containers in turn, lost 43 % (docs/architecture.md). Each call has a parent
group of its own: its counters outlive the container, so that totals are exact even for `true`.
"""

from __future__ import annotations

import os
import resource
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

from machine.samples import Sample

_V1 = ("cpu", "cpuacct", "memory", "blkio", "pids")
_UNLIMITED = 2**60  # version 1 writes "no limit" as the largest multiple of a page
_LONGEST = 65536
_GAUGES = ("mem_usage_bytes", "mem_rss_bytes", "mem_cache_bytes", "pids")
_OWN = ("throttled_ns",)  # counted for the group itself only, not for those below it
_OWN_V1 = (*_OWN, "disk_read_bytes", "disk_write_bytes")  # (of a group that is gone the parent's sum knows no more)


class Mounts(NamedTuple):
    """Where control groups are mounted: a folder for each controller (version 1), or one for all (version 2)."""

    v1: Mapping[str, Path]
    v2: Path | None
    hierarchies: frozenset[Path]

    @property
    def version(self) -> int:
        """1 or 2; 0 when neither is there."""
        return 1 if "memory" in self.v1 else 2 if self.v2 else 0

    def folders(self, group: str) -> dict[str, Path]:
        """The folder of `group` for each controller that is read."""
        group = group.lstrip("/")
        if self.version == 1:
            return {name: self.v1[name] / group for name in _V1 if name in self.v1}
        return dict.fromkeys(_V1, self.v2 / group) if self.v2 else {}

    def remove(self, group: str) -> None:
        """Remove an empty group from every hierarchy; one that is not there, or not ours to remove, is left."""
        for place in self.hierarchies:
            try:
                os.rmdir(place / group.lstrip("/"))
            except OSError:
                continue


def mounts(mountinfo: str | None = None) -> Mounts:
    """Where this host mounts control groups, from /proc/self/mountinfo (or its text)."""
    text = _read("/proc/self/mountinfo") or "" if mountinfo is None else mountinfo
    v1: dict[str, Path] = {}
    v2: Path | None = None
    hierarchies: set[Path] = set()
    for line in text.splitlines():
        left, _, right = line.partition(" - ")
        place, kind = Path(left.split()[4]), right.split()
        if kind[0] in ("cgroup", "cgroup2"):
            hierarchies.add(place)
        if kind[0] == "cgroup2":
            v2 = place
        elif kind[0] == "cgroup":
            v1 |= {name: place for name in kind[-1].split(",") if name in _V1}
    return Mounts(v1, v2, frozenset(hierarchies))


class CgroupMeter:
    """Reads one group. `pid`, where known, gives the network counters of its namespace."""

    def __init__(self, places: Mounts, group: str, pid: int | None = None) -> None:
        """`group` is the path below the mounts, as in /proc/PID/cgroup."""
        self._reading = _read_v1 if places.version == 1 else _read_v2
        self._folders = {name: str(path) for name, path in places.folders(group).items()}
        self._net = f"/proc/{pid}/net/dev" if pid else None
        self._files = _OpenFiles()

    @property
    def visible(self) -> bool:
        """Whether the group can be seen from here: not so for an engine on another machine."""
        return "memory" in self._folders and os.path.isdir(self._folders["memory"])

    def read(self) -> Sample | None:
        """A reading, None when the group is gone."""
        sample = self._reading(self._folders, self._files.read)
        if sample is None or self._net is None:
            return sample
        received, sent = network(self._files.read(self._net))
        return sample._replace(net_rx_bytes=received, net_tx_bytes=sent)

    def counters(self) -> Sample | None:
        """As `read`, once: counters and the peak, no gauges."""
        sample = self._reading(self._folders, _read)
        return sample and sample._replace(**dict.fromkeys(_GAUGES))

    def totals(self) -> Sample | None:
        """Of the parent of a group that is gone: what it has kept, which is its cache, too."""
        sample = self._reading(self._folders, _read)
        lost = {*_GAUGES, *(_OWN_V1 if self._reading is _read_v1 else _OWN)} - {"mem_cache_bytes"}
        return sample and sample._replace(**dict.fromkeys(lost))

    def oom_kills(self) -> int | None:
        """How many processes were killed for memory: of the group and below, on version 1 of the group alone."""
        folder = self._folders.get("memory", "")
        return _field(_read(f"{folder}/memory.events") or _read(f"{folder}/memory.oom_control"), "oom_kill")

    def close(self) -> None:
        """Close what is kept open."""
        self._files.close()


class _OpenFiles:
    """Files that are read again and again: kept open, a reading costs a seventh of opening them each time.

    Nine a call; all of them together take at most half of the descriptors that the process may have.
    """

    _free = resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 2
    _lock = threading.Lock()

    def __init__(self) -> None:
        self._descriptors: dict[str, int] = {}

    def read(self, path: str) -> str | None:
        descriptor = self._descriptors.get(path)
        try:
            if descriptor is None:
                if self._free <= 0:
                    return _read(path)
                descriptor = self._descriptors[path] = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
                self._count(-1)
            return os.pread(descriptor, _LONGEST, 0).decode(errors="replace")  # an interface may have any name
        except OSError:
            return None  # the group vanished, or never had this file

    def close(self) -> None:
        for descriptor in self._descriptors.values():
            os.close(descriptor)
        self._count(len(self._descriptors))
        self._descriptors.clear()

    @classmethod
    def _count(cls, change: int) -> None:
        with cls._lock:
            cls._free += change


_Read = Callable[[str], str | None]


def _read_v1(folders: dict[str, str], read: _Read) -> Sample | None:
    folder, cpu = folders.get("memory", ""), folders.get("cpuacct", "")
    memory = read(f"{folder}/memory.stat")
    if memory is None:
        return None
    limit = _field(memory, "hierarchical_memory_limit")
    received, written = _v1_bytes(read(f"{folders.get('blkio', '')}/blkio.throttle.io_service_bytes_recursive"))
    return Sample(
        # The two parts are counted in ticks of the clock, the whole is measured: their sum may be off by a third.
        cpu_total_ns=_number(read(f"{cpu}/cpuacct.usage")),
        cpu_user_ns=_number(read(f"{cpu}/cpuacct.usage_user")),
        cpu_kernel_ns=_number(read(f"{cpu}/cpuacct.usage_sys")),
        throttled_ns=_field(read(f"{folders.get('cpu', '')}/cpu.stat"), "throttled_time"),
        mem_usage_bytes=_less(_number(read(f"{folder}/memory.usage_in_bytes")), _field(memory, "total_inactive_file")),
        mem_rss_bytes=_field(memory, "total_rss"),
        mem_cache_bytes=_field(memory, "total_cache"),
        mem_limit_bytes=limit if limit is not None and limit < _UNLIMITED else None,
        mem_peak_bytes=_number(read(f"{folder}/memory.max_usage_in_bytes")),
        disk_read_bytes=received,
        disk_write_bytes=written,
        pids=_number(read(f"{folders.get('pids', '')}/pids.current")),
    )


def _read_v2(folders: dict[str, str], read: _Read) -> Sample | None:
    folder = folders.get("memory", "")
    cpu = read(f"{folder}/cpu.stat")
    if cpu is None:
        return None
    memory = read(f"{folder}/memory.stat")
    received, written = _v2_bytes(read(f"{folder}/io.stat"))
    return Sample(
        cpu_total_ns=_times(_field(cpu, "usage_usec"), 1000),
        cpu_user_ns=_times(_field(cpu, "user_usec"), 1000),
        cpu_kernel_ns=_times(_field(cpu, "system_usec"), 1000),
        throttled_ns=_times(_field(cpu, "throttled_usec"), 1000),
        mem_usage_bytes=_less(_number(read(f"{folder}/memory.current")), _field(memory, "inactive_file")),
        mem_rss_bytes=_field(memory, "anon"),
        mem_cache_bytes=_field(memory, "file"),
        mem_limit_bytes=_number(read(f"{folder}/memory.max")),
        mem_peak_bytes=_number(read(f"{folder}/memory.peak")),
        disk_read_bytes=received,
        disk_write_bytes=written,
        pids=_number(read(f"{folder}/pids.current")),
    )


def network(table: str | None) -> tuple[int | None, int | None]:
    """Bytes received and sent, summed over the interfaces of /proc/PID/net/dev; None with none but loopback."""
    rows = [line.split(":", 1) for line in (table or "").splitlines() if ":" in line]
    counts = [values.split() for name, values in rows if name.strip() != "lo"]
    if not counts:
        return None, None
    return sum(int(row[0]) for row in counts), sum(int(row[8]) for row in counts)


def _read(path: str) -> str | None:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        return os.read(descriptor, _LONGEST).decode(errors="replace")
    except OSError:
        return None  # the group vanished in between
    finally:
        os.close(descriptor)


def _number(text: str | None) -> int | None:
    text = (text or "").strip()
    return int(text) if text.isdecimal() else None


def _field(text: str | None, name: str) -> int | None:
    """The number behind `name` in lines of `name number`: searched for, because most lines are not wanted."""
    if text is None:
        return None
    start = 0 if text.startswith(f"{name} ") else text.find(f"\n{name} ") + 1
    if start == 0 and not text.startswith(f"{name} "):
        return None
    start += len(name) + 1
    end = text.find("\n", start)
    return _number(text[start:end] if end >= 0 else text[start:])


def _less(total: int | None, part: int | None) -> int | None:
    return None if total is None else max(0, total - (part or 0))


def _times(value: int | None, factor: int) -> int | None:
    return None if value is None else value * factor


def _v1_bytes(text: str | None) -> tuple[int | None, int | None]:
    rows = [row for line in (text or "").splitlines() if len(row := line.split()) == 3]  # (not the total)
    if not rows:  # nothing was done, or nothing is counted: some kernels have no device there
        return None, None
    return sum(int(row[2]) for row in rows if row[1] == "Read"), sum(int(row[2]) for row in rows if row[1] == "Write")


def _v2_bytes(text: str | None) -> tuple[int | None, int | None]:
    if text is None:
        return None, None
    pairs = [word.split("=") for word in text.split() if "=" in word]
    return sum(int(v) for k, v in pairs if k == "rbytes"), sum(int(v) for k, v in pairs if k == "wbytes")
