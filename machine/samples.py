"""One reading of a call's resources. None where the source does not say; never 0 for "unknown"."""

from __future__ import annotations

from typing import NamedTuple


class Sample(NamedTuple):
    """The columns of `sample`, in its order. Counters (`_ns` and I/O bytes) are cumulative since the start.

    Percentages are of one core, over the time since the reading before. `mem_usage_bytes` leaves out
    the page cache that the kernel would give back at once, as `docker stats` does.
    """

    cpu_total_pct: float | None = None
    cpu_user_pct: float | None = None
    cpu_kernel_pct: float | None = None
    cpu_total_ns: int | None = None
    cpu_user_ns: int | None = None
    cpu_kernel_ns: int | None = None
    throttled_ns: int | None = None
    mem_usage_bytes: int | None = None
    mem_rss_bytes: int | None = None
    mem_cache_bytes: int | None = None
    mem_limit_bytes: int | None = None
    mem_peak_bytes: int | None = None
    net_rx_bytes: int | None = None
    net_tx_bytes: int | None = None
    disk_read_bytes: int | None = None
    disk_write_bytes: int | None = None
    pids: int | None = None


METRICS: tuple[str, ...] = Sample._fields


def with_rates(sample: Sample, at: int, before: Sample | None, before_at: int) -> Sample:
    """`sample` with the three percentages worked out from the counters since `before` (monotonic ns).

    They stay None on a first reading, or where a counter went backwards.
    """
    if before is None or at <= before_at:
        return sample
    span = at - before_at
    return sample._replace(
        cpu_total_pct=_rate(sample.cpu_total_ns, before.cpu_total_ns, span),
        cpu_user_pct=_rate(sample.cpu_user_ns, before.cpu_user_ns, span),
        cpu_kernel_pct=_rate(sample.cpu_kernel_ns, before.cpu_kernel_ns, span),
    )


def _rate(now: int | None, before: int | None, span: int) -> float | None:
    if now is None or before is None or now < before:
        return None
    return 100.0 * (now - before) / span
