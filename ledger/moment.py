"""One call as it stood at any moment: from its log alone, and from nothing that came later."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from ledger.account import Row, account, iso
from ledger.opened import Opened
from ledger.projection import UNREADABLE, Event, fold
from ledger.replay import EVENTS, fold_log
from ledger.sqlite import explain, scalar
from machine.errors import LedgerError, UsageError
from machine.history import History, Past
from machine.samples import METRICS
from machine.states import REQUESTS, Kind, State
from machine.table import step
from machine.units import SECOND
from machine.verdict import ENDING

TAIL_LINES = 2
TAIL_CHUNKS, TAIL_BYTES = 8, 4096
"""The end of a stream that is shown: so many lines, looked for in no more than so much."""

_KINDS = tuple(Kind)
_ASKED = {kind: what for what, kind in REQUESTS.items()}
_MESSAGES = frozenset(("signal", "pause", "resume"))
_STREAMS = {"stdout": 1, "stderr": 2}


class Moment(NamedTuple):
    """A place in the log: a time in ns, UTC, and the last event, sample and piece of output before it."""

    at: int
    seq: int
    samples: int
    chunks: int


class Log(Opened):
    """The log of one call, to look back at. A context manager; for one thread."""

    def __init__(self, path: Path, call_id: int, now: Callable[[], int] = time.time_ns) -> None:
        """`call_id`: what `Reader.resolve` gave. LedgerError when the events do not make a call.

        `now`: up to when a call that lives can be looked at.
        """
        super().__init__(path)
        self._call_id, self._now = call_id, now
        try:
            self.uid = str(self._one("SELECT uid FROM call WHERE id = ?"))
            rows = self._all(f"{EVENTS} WHERE call_id = ? ORDER BY seq")
            with self._readable():
                row = _whole(rows)
                self.past = _decoded(rows)
        except BaseException:
            self._connection.close()
            raise
        self.pruned: list[str] = row["pruned"].split(",") if row["pruned"] else []
        """What is not there any more, whatever the moment: some of samples, output, events."""
        pairs = zip(rows, self.past, strict=True)
        self._events = [Event._make((*row[1:3], past.kind, past.state, *row[5:])) for row, past in pairs]

    def end(self) -> Moment:
        """The end of what is recorded."""
        last = self._events[-1]
        logged = [self._one(f"SELECT max(at) FROM {table} WHERE call_id = ?") for table in ("sample", "log")]
        at = max([event.at for event in self._events] + [at for at in logged if at is not None])
        return self._moment(at, last, at)

    def after(self, seq: int) -> Moment:
        """Right after an event. UsageError when there is no such event."""
        if not 1 <= seq <= len(self._events):
            raise UsageError(f"there is no event {seq}: the call has events 1 to {len(self._events)}")
        event = self._events[seq - 1]
        return Moment(event.at, seq, event.samples, event.chunks)

    def at(self, at: int, slack: int = 0) -> Moment:
        """At a time in ns, UTC; what came up to `slack` ns later counts as well.

        UsageError outside what is recorded; a call that lives is known up to now.
        """
        first, end = self._events[0].at, self.end().at
        if not self._events[-1].state.terminal:
            end = max(end, self._now())
        if at + slack < first or at - slack > end:
            raise UsageError(f"this is outside the call: its log goes from {iso(first)} to {iso(end)}")
        last = [event for event in self._events if event.at <= at + slack][-1]
        return self._moment(at, last, at + slack)

    def _moment(self, at: int, last: Event, upto: int) -> Moment:
        # Rows that are gone were there all the same: the event knows of them.
        counts = (
            self._one(f"SELECT coalesce(max(seq), 0) FROM {table} WHERE call_id = ? AND at <= ?", upto)
            for table in ("sample", "log")
        )
        return Moment(at, last.seq, *map(max, counts, (last.samples, last.chunks)))

    def stood(self, moment: Moment) -> Row:
        """The call as it stood: `call` as `calls show --json` would have had it then, and what was going on."""
        row: dict[str, Any] = {}
        for event in self._events[: moment.seq]:
            row = fold(row, event)
        past = self.past[: moment.seq]
        with self._readable():
            return self._account(moment, row, past)

    def _account(self, moment: Moment, row: Row, past: Sequence[Past]) -> Row:
        last, live = past[-1], not past[-1].state.terminal
        history = _history(past)
        sample = self._sample(moment)
        return {
            "id": self.uid,
            **self._place(moment),
            "event": {"kind": str(last.kind), "at": iso(last.at), "data": last.data},
            "state": str(last.state),
            "state_seconds": max(0, moment.at - row["entered_at"]) / SECOND,
            "health": _health(past),
            "deadline_seconds": _left(history.deadline, moment) if history and live else None,
            "owner": {**history.owner, "adopted": bool(row["recovered"])} if history else None,
            "sample": sample,
            "output": {name: self._output(stream, moment, past) for name, stream in _STREAMS.items()},
            "pending": _pending(past, history),
            "gaps": row["gaps"],
            "pruned": self.pruned,
            "call": account({**row, **self._used(row, sample, moment), **_reached(past)}, moment.at),
        }

    def _place(self, moment: Moment) -> Row:
        since = (moment.at - self._events[0].at) / SECOND
        return {"at": iso(moment.at), "t_seconds": since, "seq": moment.seq, "events": len(self._events)}

    def _sample(self, moment: Moment) -> Row | None:
        found = self._all(
            f"SELECT seq, at, {', '.join(METRICS)} FROM sample WHERE call_id = ? AND seq = ?", moment.samples
        )
        if not found:
            return None
        seq, at, *metrics = found[0]
        since = (at - self._events[0].at) / SECOND
        return {"seq": seq, "at": iso(at), "t_seconds": since, **dict(zip(METRICS, metrics, strict=True))}

    def _used(self, row: Row, sample: Row | None, moment: Moment) -> Row:
        """What `account` is told beside the row: of a call that lives, what its samples say."""
        if row["ended_at"] is not None:
            return {"now_samples": row["samples"], "now_cpu": row["cpu_ns"], "now_peak": row["mem_peak_bytes"]}
        latest = sample or {}
        peak = latest.get("mem_peak_bytes")
        if peak is None:
            highest = "SELECT max(mem_usage_bytes) FROM sample WHERE call_id = ? AND seq <= ?"
            peak = self._one(highest, moment.samples)
        return {"now_samples": moment.samples, "now_cpu": latest.get("cpu_total_ns"), "now_peak": peak}

    def _output(self, stream: int, moment: Moment, past: Sequence[Past]) -> Row:
        """Bytes written by then (None: not there any more) and bytes kept of them, and how they end."""
        there = "SELECT count(*) FROM log WHERE call_id = ? AND seq <= ?"
        if self._one(there, moment.chunks) < moment.chunks:
            return {"bytes": None, "kept_bytes": None, "tail": []}
        size = "coalesce(max(offset_bytes + length(data)), 0), coalesce(sum(length(data)), 0)"
        where = "WHERE call_id = ? AND seq <= ? AND stream = ?"
        ((end, kept),) = self._all(f"SELECT {size} FROM log {where}", moment.chunks, stream)
        cuts = (event.data for event in past if event.kind is Kind.OUTPUT_CUT)
        ends = (cut["offset"] + cut["lost"] for cut in cuts if cut and _STREAMS[cut["stream"]] == stream)
        chunks = self._all(
            f"SELECT offset_bytes, length(data), substr(data, -{TAIL_BYTES}) FROM log {where} "
            f"ORDER BY seq DESC LIMIT {TAIL_CHUNKS}",
            moment.chunks,
            stream,
        )
        return {"bytes": max(end, *ends, 0), "kept_bytes": kept, "tail": _tail(chunks)}

    @contextmanager
    def _readable(self) -> Iterator[None]:
        try:
            yield
        except UNREADABLE as error:
            raise LedgerError(f"call {self.uid} cannot be replayed: {error}") from error

    def _one(self, statement: str, *values: Any) -> Any:
        with explain(self.path):
            return scalar(self._connection, statement, self._call_id, *values)

    def _all(self, statement: str, *values: Any) -> list[Any]:
        with explain(self.path):
            return self._connection.execute(statement, (self._call_id, *values)).fetchall()


def _reached(past: Sequence[Past]) -> Row:
    """What `account` is told beside the row of how the call is reached and how it waited: what its events say."""
    said = {event.kind: event.data for event in past}
    ports = said.get(Kind.STARTED, {}).get("ports")
    admitted = said.get(Kind.ADMITTED, {})
    return {
        "network": said.get(Kind.PREPARED, {}).get("network"),
        "ports": ports and json.dumps(ports),
        "waited": admitted.get("waited"),
        "lacking": json.dumps(admitted.get("lacking", [])),
    }


def _whole(rows: Sequence[Sequence[Any]]) -> Row:
    folded = fold_log(rows)
    if folded.row is None:
        seq, _, stored, why = folded.found[-1] if folded.found else (1, "", None, "it is missing")
        raise ValueError(f"event {seq} ({stored}): {why}")
    return folded.row


def _decoded(rows: Sequence[Sequence[Any]]) -> list[Past]:
    past: list[Past] = []
    state: State | None = None
    for _, seq, at, kind, _, _, text, *_ in rows:
        state = step(state, _KINDS[kind])
        data = json.loads(text)
        if not isinstance(data, dict):
            raise TypeError(f"event {seq} says {text}, which is no object")
        past.append(Past(seq, at, _KINDS[kind], state, data))
    return past


def _history(past: Sequence[Past]) -> History | None:
    # Of emptied events only kinds, states and times are left.
    return History(past) if past[0].data else None


def _left(deadline: int | None, moment: Moment) -> float | None:
    return None if deadline is None else (deadline - moment.at) / SECOND


def _health(past: Sequence[Past]) -> str | None:
    """The last status; "starting" from when it is awaited. None without a health check, or when it is not known."""
    for event in reversed(past):
        if event.kind is Kind.HEALTH_CHANGED:
            status = event.data.get("status")
            return None if status is None else str(status)
        if event.kind is Kind.HEALTHY:
            return "healthy"
        if event.kind is Kind.HEALTH_AWAITED:
            return "starting"
    return None


def _pending(past: Sequence[Past], history: History | None) -> list[Row]:
    """What was under way, or asked for and not answered yet: `what`, since which event, and what that says."""
    last = past[-1]
    if last.state.terminal:
        cleaned = any(event.kind is Kind.CLEANED for event in past)
        return [] if cleaned else [_open("clean", _moved(past))]
    found = []
    if last.state is State.PREPARING:
        pulled = [event for event in past if event.kind is Kind.PULLED]
        found.append(_open("create", pulled[-1]) if pulled else _open("prepare", past[0]))
    elif last.state is State.PREPARED:
        found.append(_open("start", _moved(past)))
    if history is None:
        return found
    found += (_open(_ASKED[kind], past[seq - 1]) for seq, kind in history.pending.items())
    stops = [event for event in past if event.kind is Kind.SIGNALLED and _stops(event.data)]
    return found + [_open("stop", event) for event in stops[-1:]]


def _stops(said: dict[str, Any]) -> bool:
    """Whether a signal was delivered, and to end the call: others are messages."""
    if said.get("error") or said["why"] in _MESSAGES:
        return False
    return said["why"] != "kill" or said["signal"] in ENDING


def _moved(past: Sequence[Past]) -> Past:
    """The event that led to where the call is."""
    return next(event for event in past if event.state is past[-1].state)


def _open(what: str, event: Past) -> Row:
    said = event.data
    told: Row = {name: said[name] for name in ("by", "comment", "signal", "why") if name in said}
    return {"what": what, "seq": event.seq, "since": iso(event.at), **told}


def _tail(chunks: Sequence[tuple[int, int, bytes]]) -> list[str]:
    """The last lines; `chunks` latest first: where each begins, how long it is, and how it ends."""
    text, begins = b"", None
    for offset, length, end in chunks:
        if begins is not None and offset + length != begins:
            break  # what was cut away stood between them
        text, begins = end + text, offset
        if len(end) < length or text.count(b"\n") > TAIL_LINES:
            break
    return text.decode(errors="replace").splitlines()[-TAIL_LINES:]
