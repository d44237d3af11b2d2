"""What stands ready for calls."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import NamedTuple


class Standing(NamedTuple):
    """What a driver keeps ready for calls, and what happened since it was made.

    `hot`: containers that are busy, idle or paused; `evicted`: how many of them had to go to make room for a call.
    `holders` of network namespaces that are lent or free. `events` that were of use, by action.
    """

    hot: Counter[str]
    evicted: int
    holders: Counter[str]
    events: Counter[str]


def together(standings: Iterable[Standing]) -> Standing:
    """What several drivers keep and have heard."""
    columns = list(zip(*standings, strict=True)) or [()] * len(Standing._fields)
    hot, holders, events = (sum(columns[place], Counter[str]()) for place in (0, 2, 3))
    return Standing(hot, sum(columns[1]), holders, events)
