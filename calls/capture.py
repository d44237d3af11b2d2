"""The output of one call: passed on byte for byte, and kept in the ledger without its secrets, head and tail."""

from __future__ import annotations

import codecs
import threading
from collections import deque
from collections.abc import Callable, Mapping
from types import MappingProxyType
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


class Kept(NamedTuple):
    """What is recorded of a stream already, from its beginning without a hole.

    `whole`: nothing more may be added, because the end of the stream was recorded as well.
    """

    data: bytes
    whole: bool = False


class _Again:
    """Output that comes a second time, from its beginning: what is recorded already is compared and passed over."""

    def __init__(self, kept: bytes) -> None:
        self._left = as_engine_keeps(kept)
        self.differs = False

    def rest(self, data: bytes) -> bytes:
        """What of `data` is new."""
        again, rest = data[: len(self._left)], data[len(self._left) :]
        self.differs |= not self._left.startswith(again)
        self._left = self._left[len(again) :]
        return rest

    def end(self) -> None:
        """No more comes."""
        self.differs |= bool(self._left)


class _Stream:
    """One stream's record: the first half of the limit as it comes, the last half when it ends."""

    def __init__(self, number: int, limit: int, redactor: Redactor, kept: Kept, *, again: bool) -> None:
        self.number = number
        self._head = limit - limit // 2
        self._room = limit // 2
        self._redactor = StreamRedactor(redactor)
        self._tail: deque[tuple[int, int, bytes]] = deque()
        self._held = 0
        self._offset = len(kept.data)
        self._again = _Again(kept.data if again else b"")
        self._whole = kept.whole

    @property
    def differs(self) -> bool:
        return self._again.differs

    def feed(self, at: int, data: bytes, keep: Keep) -> None:
        self._take(at, self._redactor.feed(data), keep)

    def _take(self, at: int, data: bytes, keep: Keep) -> None:
        data = self._again.rest(data)
        if not data or self._whole:
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
        self._again.end()
        if self._whole:
            return None
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
        self,
        limit: int | None,
        redactor: Redactor,
        wall: Callable[[], int],
        keep: Keep,
        pass_on: PassOn | None = None,
        kept: Mapping[int, Kept] = MappingProxyType({}),
        *,
        again: bool = False,
    ) -> None:
        """`limit` bytes of each stream are kept (None: nothing, and nothing is cut); `pass_on` gets everything.

        `kept`: what is recorded of each stream already; with `again` the output comes from its beginning.
        """
        self._streams = {
            number: _Stream(number, limit, redactor, kept.get(number, Kept(b"")), again=again)
            for number in (1, 2)
            if limit is not None
        }
        self._wall = wall
        self._keep = keep
        self._pass_on = pass_on
        self._lock = threading.Lock()
        self._closed = False
        self.differs = False
        self.fed = 0
        self.busy = False

    def feed(self, stream: int, data: bytes) -> None:
        """Output arrived. Waits as long as the reader of our own output does.

        What that raises is reported as that of a thread (`threading.excepthook`), and it gets no more.
        """
        self.busy = True
        try:
            self._give(stream, data)
            with self._lock:
                self.fed += len(data)
                if not self._closed and stream in self._streams:
                    self._streams[stream].feed(self._wall(), data, self._keep)
        finally:
            self.busy = False

    def _give(self, stream: int, data: bytes) -> None:
        try:
            if self._pass_on is not None:
                self._pass_on(stream, data)
        except BaseException as error:  # noqa: BLE001 - it is the caller's, and this thread reads all calls' output
            self._pass_on = None
            thread = threading.current_thread()
            threading.excepthook(threading.ExceptHookArgs((type(error), error, error.__traceback__, thread)))

    def close(self) -> list[Cut]:
        """Keep the tails; -> what was cut out of the middle. Later output is passed on but not kept.

        `differs` is set when output that came again did not begin with what is recorded.
        """
        with self._lock:
            self._closed = True
            cuts = [stream.close(self._wall(), self._keep) for stream in self._streams.values()]
            self.differs |= any(stream.differs for stream in self._streams.values())
            self._streams = {}
        return [cut for cut in cuts if cut is not None]


def as_engine_keeps(data: bytes) -> bytes:
    """Output as an engine's log gives it again: each byte that is not UTF-8 has become U+FFFD.

    A character that is cut off at the end is left alone: its other bytes were still to come.
    """
    text, done = codecs.utf_8_decode(data, "engine-log", False)
    return text.encode() + data[done:]


def _each_byte(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeDecodeError):
        raise error
    return "\ufffd" * (error.end - error.start), error.end


codecs.register_error("engine-log", _each_byte)
