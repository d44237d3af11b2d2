"""`calls stats`: what a call used, and when."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from calls.cli import words
from calls.cli.common import takes_calls, takes_ledger
from calls.cli.render import TABLE, Column, Row, emit, formats, put, table
from ledger.histogram import MAX_POINTS
from ledger.read import Reader
from machine.units import SECOND

_LABELLED = (
    Column("", lambda line: line["label"], width=len("samples")),
    Column("", lambda line: line["text"], fold=True),
)


@click.command()
@takes_calls
@click.option("--points", is_flag=True, help="The history in at most 240 points, with their minima and maxima.")
@formats
@takes_ledger
def command(ledger: Path, form: str, calls: tuple[str, ...], *, points: bool) -> None:
    """Show what calls used: totals, and the samples one by one.

    Where there are more than 240 samples the table shows points instead, of a live call the last 240
    samples. The other forms give every sample, or with --points every point of every metric. CPU % is
    of one core.
    """
    with Reader(ledger) as reader:
        ids = [reader.resolve(call) for call in calls]
        if form != TABLE:
            read = reader.points if points else reader.samples
            emit(form, (row for call_id in ids for row in read(call_id)), ())
            return
        for number, call_id in enumerate(ids):
            put("\n" * bool(number))
            _report(reader, call_id, points=points)


def _report(reader: Reader, call_id: int, *, points: bool) -> None:
    call, highest = reader.show(call_id), reader.highest(call_id)
    lines = ({"label": label, "text": text} for label, text in _summary(call, highest) if text)
    table(lines, _LABELLED, header=False)
    if points or (call["samples"] > MAX_POINTS and call["ended_at"] is not None):
        rows, columns = _pivot(reader.points(call_id)), _POINTS
    else:
        rows, columns = reader.samples(call_id, MAX_POINTS), _SAMPLES
    if rows:
        put("\n")
        table(rows, [column for column in columns if any(column.text(row) for row in rows)])


def _summary(call: Row, highest: Mapping[str, float | None]) -> Iterator[tuple[str, str]]:
    limit = words.size(highest["mem_limit_bytes"])
    yield "call", f"{words.short(call['id'])}  {call['name'] or ''}".rstrip()
    yield "state", words.state(call) + (f"/{call['reason']}" if call["reason"] else "")
    yield "cpu", _cpu(call, highest)
    yield (
        "memory",
        words.size(call["mem_peak_bytes"])
        and (f"{words.size(call['mem_peak_bytes'])} at most" + (f", of {limit}" if limit else "")),
    )
    yield "network", _both(highest, "net_rx_bytes", "received", "net_tx_bytes", "sent")
    yield "disk", _both(highest, "disk_read_bytes", "read", "disk_write_bytes", "written")
    gaps = call["gaps"]
    pruned = ", pruned" if "samples" in call["pruned"] else ""
    yield "samples", str(call["samples"]) + pruned + (f", {gaps} gap{'s' * (gaps > 1)}" if gaps else "")


def _cpu(call: Row, highest: Mapping[str, float | None]) -> str:
    """The time, and the mean load: from the counter, not from the percentages of the samples."""
    if call["cpu_seconds"] is None:
        return ""
    parts = [words.span(call["cpu_seconds"])]
    up = call["seconds"]["running"] + call["seconds"]["health-wait"]
    if up >= 1:  # of a shorter one the start alone would show as several cores
        parts.append(f"{100 * call['cpu_seconds'] / up:.1f} % of one core")
    if highest["cpu_total_pct"] is not None:
        parts.append(f"{highest['cpu_total_pct']:.1f} % at most")
    if highest["throttled_ns"]:
        parts.append(f"throttled for {words.span(highest['throttled_ns'] / SECOND)}")
    return ", ".join(parts)


def _both(highest: Mapping[str, float | None], first: str, done: str, second: str, also: str) -> str:
    found = ((highest[first], done), (highest[second], also))
    return ", ".join(f"{words.size(count)} {what}" for count, what in found if count is not None)


def _pivot(points: Sequence[Row]) -> list[dict[str, Any]]:
    """One row a bucket; its metrics by name."""
    buckets: dict[int, dict[str, Any]] = {}
    for point in points:
        first = {"t_seconds": point["t_seconds"], "count": 0}
        bucket = buckets.setdefault(point["bucket"], first)
        bucket["count"] = max(bucket["count"], point["count"])
        bucket[point["metric"]] = point
    return list(buckets.values())


def _percent(value: float | None) -> str:
    return "" if value is None else f"{value:.1f}"


def _nanoseconds(value: float | None) -> str:
    return "" if value is None else words.span(value / SECOND)


def _whole(value: float | None) -> str:
    return "" if value is None else f"{value:.0f}"


def _sampled(title: str, metric: str, show: Callable[[float | None], str]) -> Column:
    return Column(title, lambda row: show(row[metric]), right=True)


def _point(title: str, metric: str, part: str, show: Callable[[float | None], str]) -> Column:
    return Column(title, lambda row: show(row[metric][part]) if metric in row else "", right=True)


_TIME = Column("T+", lambda row: f"{row['t_seconds']:.3f}", right=True)
_COUNTERS = (
    ("NET RX", "net_rx_bytes"),
    ("NET TX", "net_tx_bytes"),
    ("READ", "disk_read_bytes"),
    ("WRITTEN", "disk_write_bytes"),
)
_SAMPLES = (
    _TIME,
    _sampled("CPU %", "cpu_total_pct", _percent),
    _sampled("CPU", "cpu_total_ns", _nanoseconds),
    _sampled("MEMORY", "mem_usage_bytes", words.size),
    _sampled("PEAK", "mem_peak_bytes", words.size),
    _sampled("PIDS", "pids", _whole),
    *(_sampled(title, metric, words.size) for title, metric in _COUNTERS),
)
_POINTS = (
    _TIME,
    Column("SAMPLES", lambda row: str(row["count"]), right=True),
    _point("CPU % MEAN", "cpu_total_pct", "mean", _percent),
    _point("MAX", "cpu_total_pct", "max", _percent),
    _point("CPU", "cpu_total_ns", "last", _nanoseconds),
    _point("MEMORY MEAN", "mem_usage_bytes", "mean", words.size),
    _point("MAX", "mem_usage_bytes", "max", words.size),
    _point("PIDS", "pids", "max", _whole),
    *(_point(title, metric, "last", words.size) for title, metric in _COUNTERS),
)
