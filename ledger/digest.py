"""The digest chain: each event's digest covers the one before it, itself, and what was logged in between.

Canonical bytes are compact JSON arrays in UTF-8; docs/ledger.md gives the recipe, so that anybody can
check a ledger with twenty lines of their own.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from typing import Any

GENESIS = bytes(32)
EMPTY = hashlib.sha256().digest()
_encode = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False).encode  # made once: a third of the time


def canonical(values: Sequence[Any]) -> bytes:
    """A row as bytes: the same values give the same bytes on any machine."""
    return _encode(values).encode("utf-8", "surrogatepass")


def rows_digest(rows: Iterable[Sequence[Any]]) -> bytes:
    """One digest over rows of samples or output; bytes in a row stand in it as their own SHA-256."""
    total = hashlib.sha256()
    for row in rows:
        total.update(canonical(_plain(row) if bytes in map(type, row) else row) + b"\n")
    return total.digest()


def event_digest(before: bytes, uid: str, event: Sequence[Any], samples: bytes, chunks: bytes) -> bytes:
    """`event` is (seq, at, kind code, state code, elapsed_ns, data, samples, chunks)."""
    return hashlib.sha256(before + canonical([uid, *event, samples.hex(), chunks.hex()])).digest()


def _plain(row: Sequence[Any]) -> list[Any]:
    return [hashlib.sha256(value).hexdigest() if isinstance(value, bytes) else value for value in row]
