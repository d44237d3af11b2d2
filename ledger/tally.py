"""What the calls of a ledger add up to: counted once, and then only what is new."""

from __future__ import annotations

import json
from bisect import bisect_left
from collections import Counter
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from ledger.sqlite import connect_reader, explain, scalar, sound, sqlite3
from machine.states import REASONS, Kind, State

STATES = [state for state in State if not state.terminal]
SPANS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 900, 3600, 21600)
"""Seconds: how long calls are in a state."""
_SPENT = ", ".join(f"{state.replace('-', '_')}_ns" for state in STATES)
_CALLS = f"SELECT id, state, reason, ended_at IS NOT NULL, {_SPENT} FROM call WHERE id"
_TOLD = ", ".join(str(kind.code) for kind in (Kind.PULLED, Kind.GAP, Kind.ADMITTED))
_EVENTS = f"SELECT kind, data FROM event WHERE id > ? AND kind IN ({_TOLD})"
_PULL = "pull-"
PULLS = ("ok", "fallback", *(reason.removeprefix(_PULL) for reason in REASONS[State.ERROR] if reason.startswith(_PULL)))
"""What can come of fetching an image: it came; it did not, and a local one served; or why the call failed of it."""


class Buckets:
    """A histogram. `bounds` ascending; a value counts in the first bucket whose bound it does not exceed."""

    def __init__(self, bounds: Sequence[float]) -> None:
        """Empty."""
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def add(self, value: float) -> None:
        """Count a value."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sum += value


class Tally:
    """Counts over all calls of one ledger. For one thread at a time; `update` brings them up to date."""

    def __init__(self, path: Path) -> None:
        """Nothing is counted yet."""
        self._path = path
        self._begin()

    def _begin(self, ledger: str = "") -> None:
        self._ledger = ledger
        self._call = self._event = 0
        self._open: list[int] = []
        self.ended: Counter[tuple[str, str]] = Counter()
        """Calls by how they ended: state and reason."""
        self.live: Counter[str] = Counter()
        """Calls that have not ended, by state."""
        self.spent = {str(state): Buckets(SPANS) for state in STATES}
        """Of calls that have ended: seconds in each state in which they were."""
        self.waited = Buckets(SPANS)
        """Seconds that calls waited to be let in, of those that had to."""
        self.pulls: Counter[str] = Counter()
        self.gaps: Counter[str] = Counter()
        """Times in which something was not observed, by what it was."""
        self.samples_lost = 0

    def update(self) -> None:
        """Count what is new. LedgerError when the ledger cannot be read."""
        with closing(connect_reader(self._path)) as connection, explain(self._path):
            connection.execute("BEGIN")  # one moment of it
            if (ledger := scalar(connection, "SELECT value FROM meta WHERE key = 'ledger'")) != self._ledger:
                self._begin(str(ledger))
            calls = self._fresh(connection)
            events = connection.execute(_EVENTS, (self._event,)).fetchall()
            self._event = scalar(connection, "SELECT max(id) FROM event") or 0
        try:
            with sound(self._path):
                self._count_calls(calls)
                for kind, data in events:
                    self._count_event(kind, json.loads(data))
        except BaseException:
            self._begin()  # half of it is counted
            raise

    def _fresh(self, connection: sqlite3.Connection) -> list[Any]:
        again = f"{_CALLS} IN (SELECT value FROM json_each(?))"
        rows: list[Any] = connection.execute(again, (json.dumps(self._open),)).fetchall()
        return rows + connection.execute(f"{_CALLS} > ?", (self._call,)).fetchall()

    def _count_calls(self, rows: list[Any]) -> None:
        self._open, self.live = [], Counter()
        for id_, state, reason, ended, *spent in rows:
            self._call = max(self._call, id_)
            if not ended:
                self._open.append(id_)
                self.live[state] += 1
                continue
            self.ended[state, reason] += 1
            if reason.startswith(_PULL):
                self.pulls[reason.removeprefix(_PULL)] += 1
            for name, nanoseconds in zip(self.spent, spent, strict=True):
                if nanoseconds:
                    self.spent[name].add(nanoseconds / 1e9)

    def _count_event(self, kind: int, said: dict[str, Any]) -> None:
        # An event that was emptied by pruning still happened.
        if kind == Kind.PULLED.code:
            self.pulls["fallback" if said.get("fallback") else "ok"] += 1
        elif kind == Kind.ADMITTED.code:
            if "waited" in said:
                self.waited.add(said["waited"] / 1e9)
        elif "of" in said:
            self.gaps[said["of"]] += 1
            if said["of"] == "samples":
                self.samples_lost += said.get("lost") or 0
