"""What waits to be written: in order, and bounded.

What is being written counts as waiting until it is written. At the bound samples are dropped and counted, output
waits, and an event always finds room. While the ledger cannot be written output does not wait: it is counted as lost.
"""

from __future__ import annotations

import threading
from collections import defaultdict, deque
from collections.abc import Iterable
from concurrent.futures import Future
from typing import NamedTuple

from ledger.append import ChunkIn, EventIn, SampleIn

MAX_SAMPLES = 100_000
MAX_CHUNK_BYTES = 16 * 2**20
LINGER = 1.0
"""How long, in seconds, samples and output may wait for an event to ride along with."""
GLANCE = 0.2
"""How often, in seconds, the writer looks whether another process has written (a look costs microseconds)."""


class Posted(NamedTuple):
    """An event, and the answer that somebody waits for: the id of its call."""

    event: EventIn
    written: Future[int]


Item = Posted | SampleIn | ChunkIn


class Queue:
    """Filled from any thread, emptied by one."""

    def __init__(self) -> None:
        self._items: deque[Item] = deque()
        self._wake = threading.Condition()
        self._urgent = self._closed = self._stuck = False
        self._lingered = 0.0
        self._samples = 0
        self._chunk_bytes = 0
        self.dropped: defaultdict[int, int] = defaultdict(int)
        """How many samples of each call could not be kept."""
        self.lost: defaultdict[int, int] = defaultdict(int)
        """How many bytes of output of each call could not be kept."""

    def post(self, posted: Iterable[Posted]) -> bool:
        """Queue events, to be written at once and together; False when the queue is closed."""
        with self._wake:
            if self._closed:
                return False
            self._items.extend(posted)
            self._urgent = True
            self._wake.notify_all()
        return True

    def sample(self, item: SampleIn) -> bool:
        """Queue a sample; False, and counted, when there is no room."""
        with self._wake:
            if self._closed or self._samples >= MAX_SAMPLES:
                self.dropped[item.call_id] += 1
                return False
            self._items.append(item)
            self._samples += 1
        return True

    def chunk(self, item: ChunkIn) -> None:
        """Queue a piece of output; waits until there is room, or counts it as lost when there will be none."""
        with self._wake:
            while self._chunk_bytes >= MAX_CHUNK_BYTES and not (self._closed or self._stuck):
                self._urgent = True
                self._wake.notify_all()
                self._wake.wait()
            if self._closed or self._chunk_bytes >= MAX_CHUNK_BYTES:
                self.lost[item.call_id] += len(item.data)
                return
            self._items.append(item)
            self._chunk_bytes += len(item.data)

    def take(self) -> tuple[list[Item], bool]:
        """What is to be written now, after GLANCE at most, and whether it is the last."""
        with self._wake:
            if not (self._urgent or self._closed):
                self._wake.wait(GLANCE)
            self._lingered += GLANCE
            if not (self._urgent or self._closed or self._lingered >= LINGER):
                return [], False
            taken = list(self._items)
            self._items.clear()
            self._urgent, self._lingered = False, 0.0
            return taken, self._closed

    def done(self, items: Iterable[Item]) -> None:
        """These are written, or never will be: there is room again."""
        with self._wake:
            for item in items:
                if isinstance(item, SampleIn):
                    self._samples -= 1
                elif isinstance(item, ChunkIn):
                    self._chunk_bytes -= len(item.data)
            self._wake.notify_all()

    def lose(self, item: SampleIn | ChunkIn) -> None:
        """Count what could not be kept."""
        with self._wake:
            if isinstance(item, SampleIn):
                self.dropped[item.call_id] += 1
            else:
                self.lost[item.call_id] += len(item.data)

    def stick(self, *, stuck: bool) -> None:
        """Whether nothing can be written just now."""
        with self._wake:
            self._stuck = stuck
            self._wake.notify_all()

    def close(self) -> None:
        """Take no more."""
        with self._wake:
            self._closed = True
            self._wake.notify_all()
