"""Which images calls have used, and when."""

from __future__ import annotations

from typing import NamedTuple

from ledger.sqlite import sqlite3


class Use(NamedTuple):
    """What calls made of one image: `image` as it was asked for, and its id, None for calls that never got so far.

    `last`: when the last of them ended or, of one that lives, began (ns). `live`: how many have not ended.
    """

    image: str
    image_id: str | None
    calls: int
    last: int
    live: int


def uses(connection: sqlite3.Connection) -> list[Use]:
    """All of them, in no order. Reads the whole table of calls, once."""
    found = connection.execute(
        "SELECT image, image_id, count(*), max(coalesce(ended_at, created_at)), sum(ended_at IS NULL) "
        "FROM call WHERE image IS NOT NULL GROUP BY image, image_id"
    )
    return [Use(*row) for row in found]
