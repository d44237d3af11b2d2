"""Counters that go on from one call to the next, as one call's own: what was counted before it is taken off."""

from __future__ import annotations

from driver.protocol import Meter
from machine.samples import Sample

NETWORK = ("net_rx_bytes", "net_tx_bytes")
COUNTERS = (
    *("cpu_total_ns", "cpu_user_ns", "cpu_kernel_ns", "throttled_ns", "disk_read_bytes", "disk_write_bytes"),
    *NETWORK,
)


def since(sample: Sample, before: Sample, counters: tuple[str, ...] = COUNTERS) -> Sample:
    """`sample` with its `counters` from `before` on. None where either is not known."""
    changes: dict[str, int | None] = {}
    for name in counters:
        now, then = getattr(sample, name), getattr(before, name)
        changes[name] = None if now is None or then is None else max(0, now - then)
    return sample._replace(**changes)


def risen(sample: Sample, before: Sample) -> Sample:
    """`since` for a group that others used before: its highest memory is this call's only if it has risen."""
    peak = sample.mem_peak_bytes
    ours = peak is not None and peak > (before.mem_peak_bytes or 0)
    return since(sample, before)._replace(mem_peak_bytes=peak if ours else None)


class MeterSince:
    """A meter whose counters begin with `before`. See `driver.protocol.Meter`."""

    def __init__(self, meter: Meter, before: Sample, counters: tuple[str, ...] = COUNTERS) -> None:
        """With all counters, the peak is that of `risen`."""
        self._meter = meter
        self._before = before
        self._counters = counters

    def read(self) -> Sample | None:
        """A reading; None when the source is gone."""
        sample = self._meter.read()
        if sample is None:
            return None
        whole = self._counters is COUNTERS
        return risen(sample, self._before) if whole else since(sample, self._before, self._counters)

    def close(self) -> None:
        """Close the meter."""
        self._meter.close()
