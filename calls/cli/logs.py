"""`calls logs`: the recorded output of a call."""

from __future__ import annotations

import sys
import time
from collections import deque
from pathlib import Path

import click

from calls.cli.common import attended, takes_call, takes_ledger
from calls.cli.times import SLACK, ago
from calls.pace import Pace
from ledger.account import iso
from ledger.read import Chunk, Reader

RATE = 10 * 2**20
"""How many bytes a second are followed: the ledger's other readers, and its writers, are not to wait for this one."""
_NAMES = {1: "stdout", 2: "stderr"}


@click.command()
@takes_call
@click.option("--stdout", "only_stdout", is_flag=True, help="Standard output only.")
@click.option("--stderr", "only_stderr", is_flag=True, help="Standard error only.")
@click.option("--since", metavar="TIME|DURATION", help="What came at or after a time (UTC), or so long ago: 10m.")
@click.option("--tail", type=click.IntRange(0, 2**31 - 1), metavar="N", help="The last N lines only.")
@click.option("--timestamps", "-t", is_flag=True, help="Begin each line with the time at which it came (UTC).")
@click.option("--follow", "-f", is_flag=True, help="Go on until the call ends, at 10 MiB/s at most.")
@takes_ledger
def command(
    ledger: Path,
    call: str,
    since: str | None,
    tail: int | None,
    *,
    only_stdout: bool,
    only_stderr: bool,
    timestamps: bool,
    follow: bool,
) -> None:
    """Print what a call wrote, byte for byte: its stdout to stdout, its stderr to stderr.

    Secrets are replaced in the record. Where output was longer than --log-limit its middle is not kept: a
    line on stderr says how much is missing. A call whose runner is gone is recovered when it is followed.
    """
    if only_stdout and only_stderr:
        raise click.UsageError("--stdout and --stderr exclude each other")
    wanted = {1} if only_stdout else {2} if only_stderr else {1, 2}
    begin_at = 0 if since is None else ago("--since", since, time.time_ns()) - SLACK
    pace = Pace(RATE, RATE)
    with Reader(ledger) as reader:
        call_id = reader.resolve(call)
        begin = {} if tail is None else _tail(reader, call_id, wanted, tail, begin_at)
        printer = _Printer(wanted, begin, begin_at, timestamps=timestamps)
        seen = 0
        for _ in attended(reader, call_id):
            # Asked first: what comes after the answer is not missed.
            over = not follow or reader.settled(call_id)
            for chunk in reader.output(call_id, seen):
                printed = printer.take(chunk)
                if follow:
                    pace.spend(printed)
                seen = chunk.seq
            if over:
                break
        for event in reader.events(call_id):
            if event["kind"] == "output-cut" and event["data"]:  # else it was emptied
                printer.end(event["data"])
        if "output" in reader.show(call_id)["pruned"]:
            click.echo("calls: the output of this call was pruned", err=True)


def _tail(reader: Reader, call_id: int, wanted: set[int], count: int, begin_at: int) -> dict[int, int]:
    """Where in each stream the last `count` lines of all begin, of what came from `begin_at` on."""
    ends = dict.fromkeys(wanted, 0)
    fresh = dict.fromkeys(wanted, True)
    lines: deque[tuple[int, int]] = deque(maxlen=count)
    for chunk in reader.output(call_id):
        if chunk.stream not in wanted:
            continue
        if chunk.at >= begin_at:
            starts = _line_starts(chunk.data, count, fresh=fresh[chunk.stream] or chunk.offset > ends[chunk.stream])
            lines.extend((chunk.stream, chunk.offset + start) for start in starts)
            fresh[chunk.stream] = chunk.data.endswith(b"\n")
        ends[chunk.stream] = chunk.offset + len(chunk.data)
    for stream, start in lines:
        ends[stream] = min(ends[stream], start)
    return ends


def _line_starts(data: bytes, count: int, *, fresh: bool) -> list[int]:
    """Where the last `count` lines of `data` begin, in order; at 0 only when it is `fresh`."""
    starts: list[int] = []
    end = len(data) - 1  # a newline at the very end begins nothing yet
    while len(starts) < count and (end := data.rfind(b"\n", 0, max(end, 0))) >= 0:
        starts.append(end + 1)
    if fresh and len(starts) < count:
        starts.append(0)
    return starts[::-1]


class _Printer:
    """Writes pieces of output to the stream they came from, and says where something is missing."""

    def __init__(self, wanted: set[int], begin: dict[int, int], begin_at: int, *, timestamps: bool) -> None:
        self._wanted = wanted
        self._begin_at = begin_at
        self._begin = begin
        self._timestamps = timestamps
        self._ends = dict.fromkeys(wanted, 0)
        self._fresh = dict.fromkeys(wanted, True)

    def take(self, chunk: Chunk) -> int:
        """Write what is wanted of it; -> how many bytes."""
        if chunk.stream not in self._wanted:
            return 0
        if chunk.at < self._begin_at:
            self._ends[chunk.stream] = chunk.offset + len(chunk.data)
            return 0
        begin, end = self._begin.get(chunk.stream, 0), self._ends[chunk.stream]
        if chunk.offset > end:
            self._missing(chunk.stream, end, chunk.offset - end)
        data = chunk.data[max(0, begin - chunk.offset) :]
        if data:
            self._write(chunk.stream, data, f"{iso(chunk.at)} ".encode())
        self._ends[chunk.stream] = chunk.offset + len(chunk.data)
        return len(data)

    def end(self, cut: dict[str, object]) -> None:
        """Note a cut after which nothing was kept: no later piece has shown it."""
        stream = 1 if cut["stream"] == "stdout" else 2
        if self._ends.get(stream) == cut["offset"]:
            self._missing(stream, int(str(cut["offset"])), int(str(cut["lost"])))

    def _missing(self, stream: int, offset: int, count: int) -> None:
        self._fresh[stream] = True
        if offset >= self._begin.get(stream, 0):
            click.echo(
                f"calls: {count} bytes of {_NAMES[stream]} are missing here: --log-limit was reached",
                err=True,
            )

    def _write(self, stream: int, data: bytes, stamp: bytes) -> None:
        target = sys.stdout.buffer if stream == 1 else sys.stderr.buffer
        target.write(self._stamped(stream, data, stamp) if self._timestamps else data)
        target.flush()  # at once: the two streams must keep their order on a terminal

    def _stamped(self, stream: int, data: bytes, stamp: bytes) -> bytes:
        whole = data.removesuffix(b"\n")
        lines = whole.replace(b"\n", b"\n" + stamp) + data[len(whole) :]
        first, self._fresh[stream] = self._fresh[stream], data.endswith(b"\n")
        return stamp + lines if first else lines
