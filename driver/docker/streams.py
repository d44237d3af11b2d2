"""Output and input: one connection a container, opened before it starts, or when somebody takes over."""

from __future__ import annotations

import contextlib
import os
import re
import select
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

from driver.protocol import STDERR, STDOUT

_HEADER = 8  # stream (1 byte), three zeros, length (4 bytes, big-endian): the engine's multiplexing
_READ = 256 * 1024
_PIECE = 64 * 1024
_HEAD = re.compile(rb"[0-9a-fA-F]{1,8}")  # of a chunk: its length
_LONGEST_HEAD = 64


class Frames:
    """Takes the engine's multiplexed stream apart, byte for byte."""

    def __init__(self, output: Callable[[int, bytes], None]) -> None:
        """`output` gets (stream, data)."""
        self._output = output
        self._buffer = bytearray()

    def feed(self, data: bytes) -> None:
        """Pass on each frame that is whole by now."""
        self._buffer += data
        buffer, start = self._buffer, 0
        runs: list[tuple[int, list[bytes]]] = []  # frames of one stream in a row go on as one piece
        while len(buffer) - start >= _HEADER:
            end = start + _HEADER + int.from_bytes(buffer[start + 4 : start + _HEADER], "big")
            if len(buffer) < end:
                break
            stream = STDOUT if buffer[start] <= STDOUT else STDERR  # 0 and 3 are possible, and descriptors here
            if not runs or runs[-1][0] != stream:
                runs.append((stream, []))
            runs[-1][1].append(bytes(buffer[start + _HEADER : end]))
            start = end
        del buffer[:start]
        for number, frames in runs:
            self._output(number, b"".join(frames))


class Plain:
    """A terminal's output as it comes: it is one stream, and not framed."""

    def __init__(self, output: Callable[[int, bytes], None]) -> None:
        """`output` gets (stdout, data)."""
        self._output = output

    def feed(self, data: bytes) -> None:
        """Pass it on."""
        if data:
            self._output(STDOUT, data)


def taker(output: Callable[[int, bytes], None], *, tty: bool) -> Frames | Plain:
    """What takes the output of a process apart: with a terminal (`tty`) there is nothing to take apart."""
    return Plain(output) if tty else Frames(output)


class Attachment:
    """A source for the pump: one connection that carries the output of a process."""

    def __init__(
        self,
        raw: socket.SocketIO | socket.socket,
        output: Callable[[int, bytes], None],
        ended: Callable[[], None],
        chunks: Chunks | None = None,
        *,
        tty: bool = False,
    ) -> None:
        """`raw` is what docker-py's attach_socket gives; `ended` is called once, at the end. `chunks` if it has any.

        `tty`: it is the output of a terminal.
        """
        self._raw = raw  # keeps the response alive, which closes the connection when it is collected
        self._socket: socket.socket = getattr(raw, "_sock", raw)  # type: ignore[arg-type]
        self._socket.setblocking(False)
        self._not_yet = _not_yet(self._socket)
        self._pending: Callable[[], int] = getattr(self._socket, "pending", int)  # bytes; without TLS there are none
        self._frames = taker(output, tty=tty)
        self._ended = ended
        self._chunks = chunks
        self._lock = threading.Lock()  # OpenSSL does not read and write one connection at the same time

    def fileno(self) -> int:
        """The connection's descriptor."""
        return self._socket.fileno()

    def ready(self) -> bool:
        """Read what is there and pass on each whole frame; False at the end, which is reported."""
        while True:
            try:
                with self._lock:
                    data = self._socket.recv(_READ)
            except self._not_yet:
                return True
            except OSError:
                data = b""  # broken off: nothing more will come
            if not self.take(data):
                return False
            if not self._pending():
                return True

    def take(self, data: bytes) -> bool:
        """Pass on what was read; False at the end, which is reported."""
        over = not data
        if self._chunks is not None and data:
            data, over = self._chunks.unwrap(data)
        self._frames.feed(data)
        if over:
            self._ended()
        return not over

    def close(self) -> None:
        """Close the connection."""
        with contextlib.suppress(OSError):  # that it is closed would be told to nobody who waits for it
            socket.socket.shutdown(self._socket, socket.SHUT_RDWR)
        self._raw.close()
        self._socket.close()  # http.client still holds it open otherwise

    def feed(self) -> None:
        """Send our standard input to the process, in a thread of its own; its end closes the process' input."""
        threading.Thread(target=self._feed, name="stdin", daemon=True).start()

    def _feed(self) -> None:
        # Either side may fail: the process ended first, or our input broke off, and then the process' input ends.
        with contextlib.suppress(OSError, ValueError):
            for data in _input(self._socket.fileno()):
                self.send(data)
        with contextlib.suppress(OSError, ValueError):
            # Not that of TLS, after which nothing can be read any more: the engine takes this one as well.
            socket.socket.shutdown(self._socket, socket.SHUT_WR)

    def send(self, data: bytes, patience: float | None = None) -> None:
        """Write to the process' input, as fast as it takes it. OSError when nothing can be written any more.

        `patience`: for how long it may take nothing, seconds; None: for ever.
        """
        view = memoryview(data)
        poll = select.poll()  # not select: it cannot count beyond 1024 descriptors
        poll.register(self._socket.fileno(), select.POLLOUT)
        while view:
            if not poll.poll(None if patience is None else patience * 1000):
                raise TimeoutError(f"it has taken nothing for {patience:g} s")
            with contextlib.suppress(*self._not_yet), self._lock:
                view = view[self._socket.send(view) :]


def _not_yet(connection: socket.socket) -> tuple[type[OSError], ...]:
    """What it raises when it would have to wait."""
    if not hasattr(connection, "pending"):  # it has no TLS
        return (BlockingIOError,)
    import ssl  # loaded already, but not where no engine is reached by it

    return BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError


class Chunks:
    """Takes HTTP's chunked coding off an answer, as it comes."""

    def __init__(self) -> None:
        """At the beginning of the first chunk."""
        self._head = b""
        self._left = 0  # of the chunk, with the line end behind it

    def unwrap(self, data: bytes) -> tuple[bytes, bool]:
        """-> what is in it, and whether that was the end; what is no chunk is the end, too."""
        data, at, found = self._head + data, 0, []
        while at < len(data):
            if self._left:
                end = min(len(data), at + self._left)
                found.append(data[at : max(at, min(end, at + self._left - 2))])
                self._left, at = self._left - (end - at), end
                continue
            end = data.find(b"\r\n", at)
            if end < 0:
                break
            head, at = data[at:end].split(b";")[0], end + 2
            if not _HEAD.fullmatch(head) or not (size := int(head, 16)):
                return b"".join(found), True
            self._left = size + 2
        self._head = data[at:]
        return b"".join(found), len(self._head) > _LONGEST_HEAD


def early(raw: Any) -> bytes:
    """What came with the head of the answer behind `raw`, a connection of docker-py that does not block any more."""
    try:
        return bytes(raw._response.raw._fp.fp.peek())  # noqa: SLF001 - docker-py keeps the answer there
    except OSError:
        return b""  # nothing: TLS says so with an error


def _input(connection: int) -> Iterator[bytes]:
    """Our standard input as it comes, until the connection is over: what comes then is the next call's."""
    try:
        descriptor = sys.stdin.fileno()
    except (OSError, AttributeError):  # in memory, or there is none: nothing is waited for
        yield sys.stdin.buffer.read() if sys.stdin else b""
        return
    poll = select.poll()  # the terminal, or whoever gave it to us, may have made it non-blocking
    poll.register(descriptor, select.POLLIN)
    poll.register(connection, select.POLLRDHUP)
    while all(ready != connection for ready, _ in poll.poll()):
        with contextlib.suppress(BlockingIOError):
            if not (data := os.read(descriptor, _PIECE)):
                return
            yield data
