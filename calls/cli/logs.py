"""`calls logs`: the recorded output of a call."""

from __future__ import annotations

import sys
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path

import click

from calls.cli.common import attended, takes_call, takes_ledger
from calls.cli.render import TABLE, Row, emit, formats
from calls.cli.times import SLACK, ago
from calls.pace import Pace
from ledger.account import iso
from ledger.read import Chunk, Reader

RATE = 10 * 2**20
"""How many bytes a second are followed: the ledger's other readers, and its writers, are not to wait for this one."""
_NAMES = {1: "stdout", 2: "stderr"}
_COLUMNS = ("at", "stream", "offset_bytes", "data")


@click.command()
@takes_call
@click.option("--stdout", "only_stdout", is_flag=True, help="Standard output only.")
@click.option("--stderr", "only_stderr", is_flag=True, help="Standard error only.")
@click.option("--since", metavar="TIME|DURATION", help="What came at or after a time (UTC), or so long ago: 10m.")
@click.option("--tail", type=click.IntRange(0, 2**31 - 1), metavar="N", help="The last N lines only.")
@click.option("--timestamps", "-t", is_flag=True, help="Begin each line with the time at which it came (UTC).")
@click.option("--follow", "-f", is_flag=True, help="Go on until the call ends, at 10 MiB/s at most.")
@formats
@takes_ledger
def command(
    ledger: Path,
    form: str,
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
    With --json, --nl, --csv or --tsv: a row for each piece of output, as it was recorded.
    """
    if only_stdout and only_stderr:
        raise click.UsageError("--stdout and --stderr exclude each other")
    if timestamps and form != TABLE:
        raise click.UsageError(f"--timestamps and --{form} exclude each other")
    wanted = {1} if only_stdout else {2} if only_stderr else {1, 2}
    begin_at = 0 if since is None else ago("--since", since, time.time_ns()) - SLACK
    with Reader(ledger) as reader:
        call_id = reader.resolve(call)
        begin = {} if tail is None else _tail(reader, call_id, wanted, tail, begin_at)
        pieces = _pieces(reader, call_id, _Part(wanted, begin, begin_at), follow=follow)
        if form == TABLE:
            printer = _Printer(timestamps=timestamps)
            for piece in pieces:
                printer.write(piece)
        else:
            emit(form, map(_row, pieces), (), _COLUMNS)
        if "output" in reader.show(call_id)["pruned"]:
            click.echo("calls: the output of this call was pruned", err=True)


def _pieces(reader: Reader, call_id: int, part: _Part, *, follow: bool) -> Iterator[Chunk]:
    """The pieces of a part of the output; where something is missing that is said on the way."""
    pace, seen = Pace(RATE, RATE), 0
    for _ in attended(reader, call_id):
        # Asked first: what comes after the answer is not missed.
        over = not follow or reader.settled(call_id)
        for chunk in reader.output(call_id, seen):
            if (piece := part.of(chunk)) is not None:
                yield piece
                if follow:
                    pace.spend(len(piece.data))
            seen = chunk.seq
        if over:
            break
        sys.stdout.flush()
    for event in reader.events(call_id):
        if event["kind"] == "output-cut" and event["data"]:  # else it was emptied
            part.end(event["data"])


def _row(piece: Chunk) -> Row:
    return dict(zip(_COLUMNS, (iso(piece.at), _NAMES[piece.stream], piece.offset, piece.data), strict=True))


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


class _Part:
    """What is wanted of the output: these streams, from an offset in each on, and what came from `begin_at` on."""

    def __init__(self, wanted: set[int], begin: dict[int, int], begin_at: int) -> None:
        self._begin = begin
        self._begin_at = begin_at
        self._ends = dict.fromkeys(wanted, 0)

    def of(self, chunk: Chunk) -> Chunk | None:
        """What is wanted of a piece, if anything; and says what is missing before it."""
        stream = chunk.stream
        if stream not in self._ends:
            return None
        begin, end = self._begin.get(stream, 0), self._ends[stream]
        self._ends[stream] = chunk.offset + len(chunk.data)
        if chunk.at < self._begin_at:
            return None
        if chunk.offset > end:
            self._missing(stream, end, chunk.offset - end)
        offset = max(begin, chunk.offset)
        data = chunk.data[offset - chunk.offset :]
        return chunk._replace(offset=offset, data=data) if data else None

    def end(self, cut: dict[str, object]) -> None:
        """Note a cut after which nothing was kept: no later piece has shown it."""
        stream = 1 if cut["stream"] == "stdout" else 2
        if self._ends.get(stream) == cut["offset"]:
            self._missing(stream, int(str(cut["offset"])), int(str(cut["lost"])))

    def _missing(self, stream: int, offset: int, count: int) -> None:
        if offset >= self._begin.get(stream, 0):
            click.echo(
                f"calls: {count} bytes of {_NAMES[stream]} are missing here: --log-limit was reached",
                err=True,
            )


class _Printer:
    """Writes pieces of output to the stream they came from."""

    def __init__(self, *, timestamps: bool) -> None:
        self._timestamps = timestamps
        self._ends: dict[int, int] = {}
        self._fresh = dict.fromkeys(_NAMES, True)

    def write(self, piece: Chunk) -> None:
        """At once: the two streams must keep their order on a terminal."""
        target = sys.stdout.buffer if piece.stream == 1 else sys.stderr.buffer
        target.write(self._stamped(piece) if self._timestamps else piece.data)
        target.flush()

    def _stamped(self, piece: Chunk) -> bytes:
        stamp = f"{iso(piece.at)} ".encode()
        whole = piece.data.removesuffix(b"\n")
        lines = whole.replace(b"\n", b"\n" + stamp) + piece.data[len(whole) :]
        first = self._fresh[piece.stream] or piece.offset > self._ends[piece.stream]
        self._fresh[piece.stream] = piece.data.endswith(b"\n")
        self._ends[piece.stream] = piece.offset + len(piece.data)
        return stamp + lines if first else lines
