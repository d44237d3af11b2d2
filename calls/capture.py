"""The output of one call: passed on byte for byte, and kept in the ledger without its secrets, head and tail."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from typing import Literal, NamedTuple

from machine.secrets import Redactor, StreamRedactor

Keep = Callable[[int, int, int, bytes], None]
"""Takes (time in ns, stream, offset in the stream, data)."""
PassOn = Callable[[int, bytes], None]
"""Takes (stream, data) as the call wrote it."""


class Cut(NamedTuple):
    """`lost` bytes of a stream, from `offset` on, are not kept."""

    stream: Literal["stdout", "stderr"]
    offset: int
    lost: int


class _Stream:
    """One stream's record: the first half of the limit as it comes, the last half when it ends."""

    def __init__(self, number: int, limit: int, redactor: Redactor) -> None:
        self.number = number
        self._head = limit - limit // 2
        self._room = limit // 2
        self._redactor = StreamRedactor(redactor)
        self._tail: deque[tuple[int, int, bytes]] = deque()
        self._held = 0
        self._offset = 0

    def feed(self, at: int, data: bytes, keep: Keep) -> None:
        self._take(at, self._redactor.feed(data), keep)

    def _take(self, at: int, data: bytes, keep: Keep) -> None:
        if not data:
            return
        head, rest = data[: max(0, self._head - self._offset)], data[max(0, self._head - self._offset) :]
        if head:
            keep(at, self.number, self._offset, head)
        if rest:
            self._tail.append((at, self._offset + len(head), rest))
            self._held += len(rest)
            while self._tail and self._held - len(self._tail[0][2]) >= self._room:
                self._held -= len(self._tail.popleft()[2])
        self._offset += len(data)

    def close(self, at: int, keep: Keep) -> Cut | None:
        self._take(at, self._redactor.close(), keep)
        if self._tail and self._held > self._room:  # the oldest piece reaches further back than there is room
            first_at, offset, data = self._tail.popleft()
            over = self._held - self._room
            self._tail.appendleft((first_at, offset + over, data[over:]))
        written = min(self._offset, self._head)
        begin = self._tail[0][1] if self._tail else self._offset
        for tail_at, offset, data in self._tail:
            keep(tail_at, self.number, offset, data)
        self._tail.clear()
        if begin == written:
            return None
        return Cut("stdout" if self.number == 1 else "stderr", written, begin - written)


class Capture:
    """Both streams of one call. `feed` is called by the pump's thread, `close` by the call's, once."""

    def __init__(
        self, limit: int | None, redactor: Redactor, wall: Callable[[], int], keep: Keep, pass_on: PassOn | None
    ) -> None:
        """`limit` bytes of each stream are kept (None: nothing is kept); `pass_on` gets everything."""
        self._streams = {} if not limit else {number: _Stream(number, limit, redactor) for number in (1, 2)}
        self._wall = wall
        self._keep = keep
        self._pass_on = pass_on
        self._lock = threading.Lock()
        self._closed = False
        self.fed = 0
        self.busy = False

    def feed(self, stream: int, data: bytes) -> None:
        """Output arrived. Waits as long as the reader of our own output does."""
        self.busy = True
        try:
            if self._pass_on is not None:
                self._pass_on(stream, data)
            with self._lock:
                self.fed += len(data)
                if not self._closed and stream in self._streams:
                    self._streams[stream].feed(self._wall(), data, self._keep)
        finally:
            self.busy = False

    def close(self) -> list[Cut]:
        """Keep the tails; -> what was cut out of the middle. Later output is passed on but not kept."""
        with self._lock:
            self._closed = True
            cuts = [stream.close(self._wall(), self._keep) for stream in self._streams.values()]
            self._streams = {}
        return [cut for cut in cuts if cut is not None]
