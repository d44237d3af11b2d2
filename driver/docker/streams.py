"""Attached output and input: one hijacked connection a container, opened before it starts."""

from __future__ import annotations

import select
import socket
import ssl
import sys
import threading
from collections.abc import Callable

_HEADER = 8  # stream (1 byte), three zeros, length (4 bytes, big-endian): the engine's multiplexing
_READ = 256 * 1024


class Attachment:
    """A source for the pump: takes the engine's multiplexed stream apart, byte for byte."""

    def __init__(
        self, raw: socket.SocketIO | socket.socket, output: Callable[[int, bytes], None], ended: Callable[[], None]
    ) -> None:
        """`raw` is what docker-py's attach_socket gives; `ended` is called once, at the end."""
        self._raw = raw  # keeps the response alive, which closes the connection when it is collected
        self._socket: socket.socket = getattr(raw, "_sock", raw)  # type: ignore[arg-type]
        self._socket.setblocking(False)
        self._output = output
        self._ended = ended
        self._buffer = bytearray()

    def fileno(self) -> int:
        """The connection's descriptor."""
        return self._socket.fileno()

    def ready(self) -> bool:
        """Read what is there and pass on each whole frame; False at the end."""
        while True:
            try:
                data = self._socket.recv(_READ)
            except (BlockingIOError, ssl.SSLWantReadError):
                return True
            if not data:
                return False
            self._buffer += data
            self._pass_on()
            if not (isinstance(self._socket, ssl.SSLSocket) and self._socket.pending()):
                return True

    def _pass_on(self) -> None:
        buffer, start = self._buffer, 0
        runs: list[tuple[int, list[bytes]]] = []  # frames of one stream in a row go on as one piece
        while len(buffer) - start >= _HEADER:
            end = start + _HEADER + int.from_bytes(buffer[start + 4 : start + _HEADER], "big")
            if len(buffer) < end:
                break
            if not runs or runs[-1][0] != buffer[start]:
                runs.append((buffer[start], []))
            runs[-1][1].append(bytes(buffer[start + _HEADER : end]))
            start = end
        del buffer[:start]
        for stream, frames in runs:
            self._output(stream, b"".join(frames))

    def close(self) -> None:
        """Close the connection and say that the output is at its end."""
        self._raw.close()
        self._socket.close()  # http.client still holds it open otherwise
        self._ended()

    def feed(self) -> None:
        """Send our standard input to the process, in a thread of its own; its end closes the process' input."""
        threading.Thread(target=self._feed, name="stdin", daemon=True).start()

    def _feed(self) -> None:
        try:
            while data := sys.stdin.buffer.raw.read(65536):  # type: ignore[union-attr]
                view = memoryview(data)
                while view:
                    select.select([], [self._socket], [])
                    view = view[self._socket.send(view) :]
            self._socket.shutdown(socket.SHUT_WR)
        except (OSError, ValueError):
            return  # the process ended first: nobody is left to read
