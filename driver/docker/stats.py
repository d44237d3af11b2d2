"""The engine's own stats stream: the source of samples when the control groups cannot be seen from here."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import docker
import docker.errors
import requests.exceptions

from driver.protocol import Sink
from machine.samples import Sample, with_rates

_LONGEST = 1 << 20  # a line longer than this is no stats document


class StatsStream:
    """Reads one container's stream in a thread, about a sample a second, until it is stopped."""

    def __init__(self, client: docker.APIClient, container: str, interval: int, sink: Sink) -> None:
        """Samples closer together than `interval` ns are passed over."""
        self._client = client
        self._container = container
        self._interval = interval
        self._sink = sink
        self._response: Any = None
        self._stopped = threading.Event()
        self._lock = threading.Lock()
        self.malformed = 0
        self.last: Sample | None = None
        threading.Thread(target=self._run, name="engine-stats", daemon=True).start()

    def stop(self) -> None:
        """No sample comes after this. Idempotent."""
        with self._lock:
            self._stopped.set()
        if self._response is not None:
            self._response.close()

    def _run(self) -> None:
        try:
            # Not client.stats: one malformed document would silence its decoder for good.
            url = self._client._url("/containers/{0}/stats", self._container)  # noqa: SLF001
            self._response = self._client._get(url, params={"stream": 1}, stream=True, timeout=None)  # noqa: SLF001
            self._read(self._response.raw.stream(65536, decode_content=False))
        except (
            requests.exceptions.RequestException,
            docker.errors.DockerException,
            OSError,
            ValueError,
            AttributeError,
        ):
            return  # the runner sees the silence as a gap

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
            self.last = sample

    def _bad(self) -> None:
        self.malformed += 1


def documents(pieces: Iterator[bytes], bad: Callable[[], None]) -> Iterator[dict[str, Any]]:
    """JSON objects, one a line; a malformed line is counted by `bad` and the next good one is used."""
    pending = b""
    for piece in pieces:
        *lines, pending = (pending + piece).split(b"\n")
        if len(pending) > _LONGEST:
            pending = b""
            bad()
        for line in filter(bytes.strip, lines):
            try:
                document = json.loads(line)
            except ValueError:
                bad()
                continue
            if isinstance(document, dict):
                yield document


def reading(document: Mapping[str, Any]) -> Sample | None:
    """A stats document as a sample; None for the empty ones of a container that does not run."""
    if str(document.get("read", "0001")).startswith("0001"):
        return None
    cpu, memory = _at(document, "cpu_stats"), _at(document, "memory_stats")
    detail, usage = _at(memory, "stats"), _at(cpu, "cpu_usage")
    networks, blocks = _at(document, "networks"), _at(document, "blkio_stats").get("io_service_bytes_recursive") or []
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
        net_rx_bytes=_total(networks.values(), "rx_bytes"),
        net_tx_bytes=_total(networks.values(), "tx_bytes"),
        disk_read_bytes=_total((row for row in blocks if str(row.get("op")).lower() == "read"), "value"),
        disk_write_bytes=_total((row for row in blocks if str(row.get("op")).lower() == "write"), "value"),
        pids=_number(_at(document, "pids_stats").get("current")),
    )


def _at(document: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    found = document.get(name)
    return found if isinstance(found, dict) else {}


def _number(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**63 else None


def _first(found: Mapping[str, Any], *names: str) -> int | None:
    return next((_number(found[name]) for name in names if name in found), None)


def _total(rows: Any, name: str) -> int | None:
    values = [_number(row.get(name)) for row in rows]
    known = [value for value in values if value is not None]
    return sum(known) if known else None
