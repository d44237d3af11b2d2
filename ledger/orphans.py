"""Which containers are this ledger's, and which of them ought not to be there any more."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import closing
from pathlib import Path

from ledger.sqlite import connect_reader, explain, scalar
from machine.errors import LedgerError

_CALL = "SELECT cleaned = 0 OR pruned LIKE '%events%' OR spec ->> '$.keep' FROM call WHERE uid = ?"


def identity(path: Path) -> str:
    """The ledger's id, with which its containers are labelled. LedgerError when it has none."""
    with explain(path), closing(connect_reader(path)) as connection:
        found = scalar(connection, "SELECT value FROM meta WHERE key = 'ledger'")
    if not found:
        raise LedgerError(f"{path} has no id")
    return str(found)


def orphans(path: Path, uids: Iterable[str]) -> list[str]:
    """Those of `uids` whose call is unknown, or is settled and was not asked to keep its container.

    Of a call whose events are emptied nobody knows what was asked.
    """
    with explain(path), closing(connect_reader(path)) as connection:
        return [uid for uid in uids if not (connection.execute(_CALL, (uid,)).fetchone() or (0,))[0]]
