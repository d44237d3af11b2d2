"""The longest prefix of one call's log that proves itself, put together from pieces of which some may be false.

An event counts when it follows from the state before, and its digest holds for it and for the samples and output that
it covers; where a tombstone names their digest, they are not missed. Of what fits a place more than once, whatever
the chain confirms is taken.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice, product
from typing import Any, NamedTuple, Protocol

from ledger import digest
from ledger.projection import CODED_STEPS, UNBORN, UNREADABLE
from ledger.tombstone import PRUNED, Tombstones

Row = Sequence[Any]
Span = tuple[int, int]
"""Rows of samples or output: after this number, up to this one."""

PARTS = ("samples", "output")
TRIES = 64
"""How many combinations are tried where several rows claim the same places."""


class Pieces(Protocol):
    """What was found of one call."""

    def events(self) -> dict[int, list[Row]]:
        """By seq, the likeliest first: rows of `event` in the order of the table, without call_id."""

    def rows(self, part: str, after: int, upto: int) -> Iterator[list[Row]]:
        """Samples or output in the order of their seq: all that claim one. Without call_id."""


class Prefix(NamedTuple):
    """What proves itself. `spans`: for each event the samples and the output that it covers, None where they are gone.

    `chosen`: of rows that claim the same seq, the right one. `why`: what is wrong with the event after the last;
    empty where nothing shows that there was one.
    """

    uid: str
    events: list[Row]
    spans: list[dict[str, Span]]
    chosen: dict[str, dict[int, Row]]
    why: str


def longest(pieces: Pieces, taken: set[int]) -> Prefix:
    """The longest prefix. `taken`: ids of events that other calls have."""
    events = pieces.events()
    found = [event for seq in sorted(events) for event in events[seq]]
    tombstones = [Tombstones([event]) for event in found if event[3] == PRUNED]
    seqs = [event[1] for event in found if event[3] == PRUNED]
    named: dict[str, defaultdict[str, list[tuple[str, int]]]] = {part: defaultdict(list) for part in PARTS}
    for at, tombstone in zip(seqs, tombstones, strict=True):
        for part in PARTS:
            for seq, hexadecimal in tombstone.named[part].items():
                named[part][seq].append((hexadecimal, at))
    # The last tombstone first: where old pages still hold what it has emptied, that must not come back.
    emptied = sorted({one for tombstone in tombstones for one in tombstone.events.items()}, reverse=True)
    best = Prefix("", [], [], {}, "it is missing")
    for uid in _uids(found):
        for upto, total in [*emptied, (0, "")]:
            prefix = _Walk(pieces, uid, events, named, taken).go(upto, total)
            best = prefix if len(prefix.events) > len(best.events) or not best.uid else best
    return best


def _uids(found: Iterable[Row]) -> list[str]:
    """What the call may be called: by its submission, or by a tombstone."""
    uids: dict[str, None] = {}
    for event in found:
        if event[1] == 1 or event[3] == PRUNED:
            try:
                said = json.loads(event[6])
                uid = said["uid"] if event[1] == 1 else said["kept"]["uid"]
            except UNREADABLE:
                continue
            if isinstance(uid, str):
                uids[uid] = None
    return list(uids)


class _Walk:
    def __init__(
        self,
        pieces: Pieces,
        uid: str,
        events: dict[int, list[Row]],
        named: dict[str, defaultdict[str, list[tuple[str, int]]]],
        taken: set[int],
    ) -> None:
        self._pieces, self._uid, self._candidates = pieces, uid, events
        self._named, self._taken = named, taken
        self._events: list[Row] = []
        self._spans: list[dict[str, Span]] = []
        self._needs: list[int] = []  # for each event, the tombstone without which it cannot be kept
        self._chosen: dict[str, dict[int, Row]] = {part: {} for part in PARTS}
        self._id, self._state, self._digest = 0, UNBORN, digest.GENESIS
        self._covered = dict.fromkeys(PARTS, 0)

    def go(self, emptied: int, total: str) -> Prefix:
        """`emptied`: the seq of a tombstone of emptied events, and `total` their digest; 0 for none."""
        if emptied:
            self._take_emptied(emptied, total)
        while (why := self._next()) is None:
            pass
        while lost := next((at for at, need in enumerate(self._needs) if need > len(self._events)), -1) + 1:
            del self._events[lost - 1 :], self._spans[lost - 1 :], self._needs[lost - 1 :]
            why = "the tombstone that names what it has lost is lost itself"
        return Prefix(self._uid, self._events, self._spans, self._chosen, why)

    def _next(self) -> str | None:
        """Take the next event; -> None, or why it cannot be."""
        seq = len(self._events) + 1
        why = "it is missing" if any(later > seq for later in self._candidates) else ""
        for event in self._candidates.get(seq, ()):
            try:
                if not (why := self._take(event)):
                    return None
            except UNREADABLE:
                why = "it cannot be read"
        return why

    def _take(self, event: Row) -> str:
        number, seq, _, kind, state, *_, samples, chunks, chained = event
        if CODED_STEPS.get((self._state, kind)) != state:
            return "it cannot follow the event before it"
        if number <= self._id or number in self._taken:
            return f"its id {number} is not its own"
        covers = {part: list(self._ways(part, seq, upto)) for part, upto in zip(PARTS, (samples, chunks), strict=True)}
        if part := next((part for part, ways in covers.items() if not ways), ""):
            return f"rows of {part} that it covers are missing"
        for (s, *of_samples), (c, *of_output) in product(*covers.values()):
            if digest.event_digest(self._digest, self._uid, event[1:9], s, c) == chained:
                self._accept(event, dict(zip(PARTS, (of_samples, of_output), strict=True)))
                return ""
        rows = "" if (samples, chunks) == tuple(self._covered.values()) else ", or rows that it covers"
        return f"its digest does not hold: it{rows} was changed"

    def _accept(self, event: Row, covers: dict[str, Any]) -> None:
        spans, need = {}, 0
        for (part, (chosen, tombstone)), upto in zip(covers.items(), event[7:9], strict=True):
            if not tombstone and upto > self._covered[part]:
                spans[part] = (self._covered[part], upto)
            self._chosen[part].update(chosen)
            need = max(need, tombstone)
        self._append(event, spans, need)

    def _append(self, event: Row, spans: dict[str, Span], need: int) -> None:
        self._events.append(event)
        self._spans.append(spans)
        self._needs.append(need)
        self._id, self._state, self._digest = event[0], event[4], event[9]
        self._covered = dict(zip(PARTS, event[7:9], strict=True))

    def _take_emptied(self, upto: int, total: str) -> None:
        """The events before number `upto`, of which nothing but the digest over all is known."""
        places = []
        for seq in range(1, upto):
            said = (
                (*event[:6], event[6] if event[3] == PRUNED else "{}", *event[7:])
                for event in self._candidates.get(seq, ())
            )
            places.append(list(dict.fromkeys(said)))
        for events in islice(product(*places), TRIES):
            if digest.rows_digest((*event[:6], *event[7:]) for event in events).hex() == total:
                for event in events:
                    self._append(event, {}, upto)
                return

    def _ways(self, part: str, seq: int, upto: int) -> Iterator[tuple[bytes, dict[int, Row], int]]:
        """What an event may cover: (digest, rows chosen, the tombstone that says so). What is named comes first."""
        for hexadecimal, tombstone in self._named[part].get(str(seq), ()):
            yield bytes.fromhex(hexadecimal), {}, tombstone
        after = self._covered[part]
        if upto == after:
            yield digest.EMPTY, {}, 0
        if upto <= after:
            return
        several: dict[int, list[Row]] = {}
        total, count = self._total(part, (after, upto), {}, several)
        if count != upto - after:
            return
        yield total, {}, 0
        for choice in islice(product(*several.values()), 1, TRIES):
            chosen = dict(zip(several, choice, strict=True))
            yield self._total(part, (after, upto), chosen, {})[0], chosen, 0

    def _total(self, part: str, span: Span, chosen: dict[int, Row], several: dict[int, list[Row]]) -> tuple[bytes, int]:
        """The digest of rows, and how many there are; notes where there are several for one place."""
        count = 0

        def rows() -> Iterator[Row]:
            nonlocal count
            for same in self._pieces.rows(part, *span):
                count += 1
                if len(same) > 1:
                    several[same[0][0]] = same
                yield chosen.get(same[0][0], same[0])

        return digest.rows_digest(rows()), count
