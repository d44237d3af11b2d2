"""Keeping secrets out of the record: which names are secret, fingerprints, and removal from text and streams."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

SECRET_NAMES = ("TOKEN", "SECRET", "PASSWORD", "PASSWD", "KEY", "CREDENTIAL")
SHORTEST = 4
"""Values shorter than this many bytes are not searched for in output: `1` would redact every 1."""
_SWITCHES = frozenset((b"true", b"false"))  # as in TOKENIZERS_PARALLELISM: nor would they be a secret
MARK = "‹redacted›"


def is_secret(name: str) -> bool:
    """Whether an environment variable of this name is taken for a secret."""
    return any(word in name.upper() for word in SECRET_NAMES)


def fingerprint(key: bytes, value: str) -> str:
    """The same value gives the same fingerprint in one ledger; without the key it cannot be guessed at."""
    import hashlib
    import hmac

    return "hmac-sha256:" + hmac.new(key, value.encode(), hashlib.sha256).hexdigest()[:32]


class Redactor:
    """Replaces secret values by a mark, in text, nested data and byte streams."""

    def __init__(self, values: Iterable[str] = ()) -> None:
        """`values` are the secrets themselves; those under SHORTEST bytes, and `true` and `false`, are passed over."""
        self._secrets: list[bytes] = []
        self._pattern: re.Pattern[bytes] | None = None
        self.reach = 0
        self.learn(values)

    def learn(self, values: Iterable[str]) -> None:
        """Know these as well. Before the first output: a stream that was begun may have passed on a part of one."""
        found = {value.encode(errors="surrogateescape") for value in values}  # our own environment may be no UTF-8
        found = {value for value in found if len(value) >= SHORTEST and value.lower() not in _SWITCHES}
        found |= {value.replace(b"\n", b"\r\n") for value in found}  # as a terminal writes it
        if found := found.difference(self._secrets):
            # Longest first: one secret may contain another.
            self._secrets = sorted(found.union(self._secrets), key=len, reverse=True)
            self._pattern = re.compile(b"|".join(map(re.escape, self._secrets)))
            self.reach = len(self._secrets[0]) - 1

    def clean(self, data: bytes) -> bytes:
        """`data` without the secrets that lie wholly inside it."""
        return self._pattern.sub(MARK.encode(), data) if self._pattern else data

    def clean_start(self, data: bytes) -> tuple[bytes, int]:
        """As `clean`, for the part of `data` on which later bytes have no bearing; -> that part clean, and its length.

        What begins a secret and ends with `data` may yet turn out to be one, or a longer one than it is.
        """
        limit, done, clean = self._open(data, 0), 0, bytearray()
        while self._pattern and (found := self._pattern.search(data, done)) and found.start() < limit:
            clean += data[done : found.start()] + MARK.encode()
            done = found.end()
            if done > limit:
                limit = self._open(data, done)
        clean += data[done:limit]
        return bytes(clean), limit

    def _open(self, data: bytes, since: int) -> int:
        """Where from `since` on the first secret begins that `data` has a part of at its end; its length for none."""
        first = len(data)
        for secret in self._secrets:
            at = data.find(secret[:1], max(since, len(data) - len(secret) + 1), first)
            while at >= 0 and not secret.startswith(data[at:]):
                at = data.find(secret[:1], at + 1, first)
            first = first if at < 0 else at
        return first

    def text(self, text: str) -> str:
        """As `clean`, for text."""
        return self.clean(text.encode(errors="surrogateescape")).decode(errors="surrogateescape")

    def cut_short(self, text: str) -> str:
        """As `text`, for what its source may have cut off in the midst of a secret: a part of one at its end goes.

        Docker marks a cut by `...`; Podman does not, and without a mark less than SHORTEST bytes are taken for chance.
        """
        whole = text.removesuffix("...")
        data = whole.rstrip("\ufffd").encode(errors="surrogateescape")  # (what is left of a character that was cut)
        clean, decided = self.clean_start(data)
        if len(data) - decided < (SHORTEST if whole == text else 1):
            return self.text(text)
        return clean.decode(errors="surrogateescape") + "..."

    def data(self, value: Any) -> Any:
        """As `clean`, for every string inside lists, tuples and dicts (keys too)."""
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, dict):
            return {self.data(key): self.data(item) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [self.data(item) for item in value]
        return value


class StreamRedactor:
    """Redacts a byte stream that arrives in pieces: the same result wherever it is cut."""

    def __init__(self, redactor: Redactor) -> None:
        """Holds back, as it came, what could still be the beginning of a secret."""
        self._redactor = redactor
        self._held = b""

    def feed(self, data: bytes) -> bytes:
        """What is safe to pass on so far."""
        if not self._redactor.reach:
            return data
        clean, decided = self._redactor.clean_start(self._held + data)
        self._held = (self._held + data)[decided:]
        return clean

    def close(self) -> bytes:
        """The rest, at the end of the stream."""
        rest, self._held = self._redactor.clean(self._held), b""
        return rest
