"""The engine's own stats stream: the source of samples when the control groups cannot be seen from here."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import docker
import docker.errors

from driver.docker.unending import BROKEN, Unending
from driver.protocol import Sink
from machine.samples import Sample, with_rates
from machine.units import SECOND

EVERY = SECOND
"""How far apart the engine's own readings are, ns."""
_LONGEST = 1 << 20  # a line longer than this is no stats document
_RETRY_SECONDS = 1
_EXAMPLE = 1024  # bytes of the first malformed line that are kept


class StatsStream:
    """Reads one container's stream in a thread, about a sample a second, until it is stopped."""

    def __init__(self, client: docker.APIClient, container: str, interval: int, sink: Sink) -> None:
        """Samples closer together than `interval` ns are passed over."""
        self._client = client
        self._container = container
        self._interval = interval
        self._sink = sink
        self._answer: Unending | None = None
        self._stopped = threading.Event()
        self._lock = threading.Lock()
        self.began = time.time_ns()
        self.malformed = 0
        self.example = ""  # how the first malformed line begins
        threading.Thread(target=self._run, name="engine-stats", daemon=True).start()

    def stop(self) -> None:
        """No sample comes after this. Idempotent."""
        with self._lock:
            self._stopped.set()
        if self._answer is not None:
            self._answer.end()

    def _run(self) -> None:
        # Not client.stats: one malformed document would silence its decoder for good.
        url = self._client._url("/containers/{0}/stats", self._container)  # noqa: SLF001
        while not self._stopped.is_set():
            try:
                self._answer = Unending(self._client, url, {"stream": 1})
            except docker.errors.NotFound:
                return
            except BROKEN:
                self._stopped.wait(_RETRY_SECONDS)
                continue  # the runner sees the silence as a gap
            try:
                self._read(iter(() if self._stopped.is_set() else self._answer))
            finally:
                self._answer.close()
            self._stopped.wait(_RETRY_SECONDS)

    def _read(self, pieces: Iterator[bytes]) -> None:
        before, before_at = None, 0
        for document in documents(pieces, self._bad):
            sample = reading(document)
            now = time.monotonic_ns()
            if sample is None or (before is not None and now - before_at < self._interval * 9 // 10):
                continue
            with self._lock:
                if self._stopped.is_set():
                    return
                self._sink(time.time_ns(), with_rates(sample, now, before, before_at))
            before, before_at = sample, now

    def _bad(self, line: bytes) -> None:
        self.malformed += 1
        self.example = self.example or line[:_EXAMPLE].decode(errors="replace")


def documents(pieces: Iterator[bytes], bad: Callable[[bytes], None]) -> Iterator[dict[str, Any]]:
    """JSON objects, one a line; a malformed line is told to `bad`, once, and the next good one is used."""
    pending, skipping = b"", False
    for piece in pieces:
        *lines, pending = (pending + piece).split(b"\n")
        for line in lines:
            if not skipping and line.strip() and (document := _document(line, bad)) is not None:
                yield document
            skipping = False
        if len(pending) > _LONGEST:
            if not skipping:
                bad(pending)
            pending, skipping = b"", True


def _document(line: bytes, bad: Callable[[bytes], None]) -> dict[str, Any] | None:
    try:
        document = json.loads(line)
    except (ValueError, RecursionError):
        document = None
    if isinstance(document, dict):
        return document
    bad(line)
    return None


def reading(document: Mapping[str, Any]) -> Sample | None:
    """A stats document as a sample; None for the empty ones of a container that does not run."""
    read = document.get("read")
    if not isinstance(read, str) or read.startswith("0001"):
        return None
    cpu, memory = _at(document, "cpu_stats"), _at(document, "memory_stats")
    detail, usage = _at(memory, "stats"), _at(cpu, "cpu_usage")
    networks = [*_at(document, "networks").values()]
    blocks = [row for row in _list(_at(document, "blkio_stats"), "io_service_bytes_recursive") if isinstance(row, dict)]
    inactive = _first(detail, "total_inactive_file", "inactive_file") or 0
    used = _number(memory.get("usage"))
    return Sample(
        cpu_total_ns=_number(usage.get("total_usage")),
        cpu_user_ns=_number(usage.get("usage_in_usermode")),
        cpu_kernel_ns=_number(usage.get("usage_in_kernelmode")),
        throttled_ns=_number(_at(cpu, "throttling_data").get("throttled_time")),
        mem_usage_bytes=None if used is None else max(0, used - inactive),
        mem_rss_bytes=_first(detail, "total_rss", "anon"),
        mem_cache_bytes=_first(detail, "total_cache", "file"),
        mem_limit_bytes=_number(memory.get("limit")),
        mem_peak_bytes=_number(memory.get("max_usage")),
        net_rx_bytes=_total(networks, "rx_bytes"),
        net_tx_bytes=_total(networks, "tx_bytes"),
        disk_read_bytes=_total((row for row in blocks if str(row.get("op")).lower() == "read"), "value"),
        disk_write_bytes=_total((row for row in blocks if str(row.get("op")).lower() == "write"), "value"),
        pids=_number(_at(document, "pids_stats").get("current")),
    )


def _at(document: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    found = document.get(name)
    return found if isinstance(found, dict) else {}


def _list(document: Mapping[str, Any], name: str) -> list[Any]:
    found = document.get(name)
    return found if isinstance(found, list) else []


def _number(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**63 else None


def _first(found: Mapping[str, Any], *names: str) -> int | None:
    return next((_number(found[name]) for name in names if name in found), None)


def _total(rows: Iterable[Any], name: str) -> int | None:
    values = [_number(row.get(name)) for row in rows if isinstance(row, dict)]
    known = [value for value in values if value is not None]
    return _number(sum(known)) if known else None
