"""One digest for the whole ledger, to be kept elsewhere: appending is the only change that keeps it.

H(0) is the SHA-256 of the ledger's id; H(n) = SHA-256( H(n-1) ‖ digest of the n-th event, in the order of
`event.id`, whatever its call ). Each event's digest stays when its contents are pruned, and so does H.
"""

from __future__ import annotations

from collections.abc import Iterator
from hashlib import sha256

from ledger.sqlite import scalar, sqlite3


def heads(connection: sqlite3.Connection) -> Iterator[bytes]:
    """H(0), H(1), … up to the ledger as it stands."""
    identity = scalar(connection, "SELECT value FROM meta WHERE key = 'ledger'")
    head = sha256(_bytes(identity)).digest()
    yield head
    for (digest,) in connection.execute("SELECT digest FROM event ORDER BY id"):
        head = sha256(head + (digest if type(digest) is bytes else _bytes(digest))).digest()
        yield head


def extends(connection: sqlite3.Connection, against: bytes) -> tuple[str, int | None]:
    """-> the head of today, in hexadecimal, and how many events there were when it was `against`; None if never."""
    head, then = b"", None
    for number, head in enumerate(heads(connection)):
        if head == against:
            then = number
    return head.hex(), then


def _bytes(value: object) -> bytes:
    # Text; but a file that was tampered with may hold anything.
    return str(value).encode(errors="surrogatepass")
