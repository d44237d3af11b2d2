"""What the tombstones of a call say: which of its rows are gone on purpose, and their digests."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from ledger.histogram import MAX_POINTS
from machine.states import Kind, State

PRUNED = Kind.PRUNED.code
_FIRST_END = min(state.code for state in State if state.terminal)


class Tombstones:
    """The tombstones among a call's events, together. See `machine.facts.Pruned`.

    `named`: for samples and output, seq of an event -> hexadecimal digest of what it covered; `upto`: the number of
    the last such row that is gone. `events`: seq of a tombstone -> digest of the emptied events before it; `emptied`:
    the last such seq, 0 for none. `histogram`: the digest of the rows that outlive their samples.
    """

    def __init__(self, events: Sequence[Sequence[Any]]) -> None:
        """`events`: rows of `event` in the order of the table, without call_id."""
        self.named: dict[str, dict[str, str]] = {"samples": {}, "output": {}}
        self.upto = {"samples": 0, "output": 0}
        self.events: dict[int, str] = {}
        self.histogram: str | None = None
        for event in events:
            if event[3] == PRUNED:
                self._read(event)

    @property
    def emptied(self) -> int:
        """The last tombstone of emptied events."""
        return max(self.events, default=0)

    def _read(self, event: Sequence[Any]) -> None:
        try:
            said = json.loads(event[6])
            for part, upto in (("samples", event[7]), ("output", event[8])):
                if part in said:
                    self.named[part].update(said[part])
                    self.upto[part] = upto
            if "events" in said:
                self.events[event[1]] = said["events"]
            self.histogram = said.get("histogram", self.histogram)
        except (AttributeError, RecursionError, TypeError, ValueError):
            return  # not what this program writes: its digest will not hold


def decimated_samples(events: Sequence[Sequence[Any]], tombstones: Tombstones) -> int:
    """How many samples a call's histogram is made of: those before its end. 0 where there is none to be."""
    samples: int = next((event[7] for event in events if event[4] >= _FIRST_END), 0)
    return 0 if samples <= MAX_POINTS or tombstones.emptied else samples
