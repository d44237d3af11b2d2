"""HTTP/1.1 over a socket file as the Docker Engine speaks it, and the lies that can be told in it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, NamedTuple
from urllib.parse import parse_qsl, urlsplit

_VERSION = re.compile(r"^/v\d+\.\d+(?=/)")
_REASONS = {200: "OK", 201: "Created", 204: "No Content", 304: "Not Modified", 101: "UPGRADED"}
_COMMON = "Api-Version: 1.41\r\nDocker-Experimental: false\r\nOstype: linux\r\nServer: Docker/scripted (linux)\r\n"
_HIJACKED = (
    b"HTTP/1.1 101 UPGRADED\r\nContent-Type: application/vnd.docker.raw-stream\r\n"
    b"Connection: Upgrade\r\nUpgrade: tcp\r\n\r\n"
)


class Request(NamedTuple):
    """One request; `path` without the version of the API."""

    method: str
    path: str
    query: dict[str, str]
    body: bytes

    def flag(self, name: str) -> bool:
        """Whether a boolean of the query is true."""
        return self.query.get(name, "").lower() in ("1", "true")

    def json(self) -> dict[str, Any]:
        """The body, or what stands in the query as `filters`."""
        found: dict[str, Any] = json.loads(self.body or self.query.get("filters") or "{}")
        return found


class Answer(NamedTuple):
    """A status and a body: bytes, or pieces that are sent as they come. `promised`: what its length is said to be."""

    status: int
    body: bytes | AsyncIterator[bytes] = b""
    promised: int | None = None


class Hijack(NamedTuple):
    """The connection is handed over: `talk` gets it, and has it until it returns or the client goes."""

    talk: Callable[[asyncio.StreamWriter], Awaitable[None]]


class Refused(Exception):  # noqa: N818 - an answer, not a fault
    """The request is answered with `status` and a message."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


def document(value: Any, status: int = 200) -> Answer:
    """A value as a JSON answer."""
    return Answer(status, json.dumps(value).encode() + b"\n")


Act = Callable[["Answer | Hijack | None"], Awaitable["Answer | None"]]
"""What a fault does: gets the true answer (None before it is done); -> another one, or None to go on."""


class _Drop(Exception):  # noqa: N818
    pass


def delay(seconds: float) -> Act:
    """Take that long, and go on."""

    async def act(_: Answer | Hijack | None) -> None:
        await asyncio.sleep(seconds)

    return act


async def hang(_: Answer | Hijack | None) -> None:
    """Never answer."""
    await asyncio.Event().wait()


async def drop(_: Answer | Hijack | None) -> None:
    """Close the connection without a word."""
    raise _Drop


async def truncate(answer: Answer | Hijack | None) -> Answer:
    """Promise the whole answer, send half of it, and close."""
    assert isinstance(answer, Answer)
    assert isinstance(answer.body, bytes)
    return answer._replace(body=answer.body[: len(answer.body) // 2], promised=len(answer.body))


def says(status: int, body: bytes = b"") -> Act:
    """Answer that."""

    async def act(_: Answer | Hijack | None) -> Answer:
        return Answer(status, body)

    return act


class Fault:
    """A lie. Of the requests that match, those from number `first` on, `times` of them (None: all that come)."""

    def __init__(
        self, method: str, path: str, act: Act, *, first: int = 1, times: int | None = 1, done: bool = False
    ) -> None:
        """`path` is searched for as a pattern. `done`: the request is carried out before the fault acts."""
        self.done = done
        self.act = act
        self.met = 0
        self._method, self._path = method, re.compile(path)
        self._first, self._last = first, None if times is None else first + times - 1

    def meets(self, request: Request) -> bool:
        """Whether it is this request's turn; counts it."""
        if request.method != self._method or not self._path.search(request.path):
            return False
        self.met += 1
        return self.met >= self._first and (self._last is None or self.met <= self._last)


Handler = Callable[[Request], Awaitable["Answer | Hijack"]]


class Server:
    """Serves `handle` on a socket file. Everything here happens in one event loop."""

    def __init__(self, path: str, handle: Handler) -> None:
        """Listens from `open` on."""
        self.path = path
        self.faults: list[Fault] = []
        self.requests: list[tuple[str, str]] = []
        self.broken: list[BaseException] = []  # what went wrong here: a fault of the fake, not of its client
        self._handle = handle
        self._server: asyncio.Server | None = None
        self._open: dict[asyncio.Task[None], asyncio.StreamWriter] = {}

    async def open(self) -> None:
        """Listen."""
        self._server = await asyncio.start_unix_server(self._serve, self.path, limit=1 << 20, backlog=1024)

    async def close(self) -> None:
        """As if it was killed: nobody listens, every connection breaks, the socket file is left."""
        if self._server is not None:
            self._server.close()
        tasks, self._server = list(self._open), None
        for task in tasks:
            self._open[task].transport.abort()
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._open[task] = writer
        try:
            while (request := await _request(reader)) is not None:
                self.requests.append((request.method, request.path))
                answer = await self._answer(request)
                await _send(answer, reader, writer)
                if isinstance(answer, Hijack) or answer.promised is not None or not isinstance(answer.body, bytes):
                    break
        except (OSError, _Drop, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        except Exception as error:  # noqa: BLE001 - told when the engine ends
            self.broken.append(error)
        finally:
            del self._open[task]
            writer.close()

    async def _answer(self, request: Request) -> Answer | Hijack:
        # Each fault counts for itself; the first one whose turn it is acts.
        met = [fault for fault in self.faults if fault.meets(request)]
        fault = met[0] if met else None
        if fault and not fault.done and (lie := await fault.act(None)) is not None:
            return lie
        try:
            answer = await self._handle(request)
        except Refused as refused:
            answer = document({"message": str(refused)}, refused.status)
        if fault and fault.done and (lie := await fault.act(answer)) is not None:
            return lie
        return answer


async def _request(reader: asyncio.StreamReader) -> Request | None:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1") if not reader.at_eof() else ""
    if not head:
        return None
    first, *lines = head.split("\r\n")
    method, target, _ = first.split(" ")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    body = await reader.readexactly(int(headers.get("content-length") or 0))
    url = urlsplit(target)
    return Request(method, _VERSION.sub("", url.path), dict(parse_qsl(url.query, keep_blank_values=True)), body)


async def _send(answer: Answer | Hijack, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    if isinstance(answer, Hijack):
        writer.write(_HIJACKED)
        await _until_either(answer.talk(writer), reader)
        return
    head = f"HTTP/1.1 {answer.status} {_REASONS.get(answer.status, 'Said So')}\r\n{_COMMON}"
    if answer.status in (204, 304):
        writer.write(f"{head}\r\n".encode())
    elif isinstance(answer.body, bytes):
        length = len(answer.body) if answer.promised is None else answer.promised
        writer.write(f"{head}Content-Type: application/json\r\nContent-Length: {length}\r\n\r\n".encode() + answer.body)
    else:
        writer.write(f"{head}Connection: close\r\nTransfer-Encoding: chunked\r\n\r\n".encode())
        await _until_either(_chunks(answer.body, writer), reader)
    await writer.drain()


async def _chunks(pieces: AsyncIterator[bytes], writer: asyncio.StreamWriter) -> None:
    async for piece in pieces:
        writer.write(b"%x\r\n%b\r\n" % (len(piece), piece))
        await writer.drain()
    writer.write(b"0\r\n\r\n")


async def _until_either(talk: Awaitable[None], reader: asyncio.StreamReader) -> None:
    """Until the talk is over, or the client has gone."""
    talking, gone = asyncio.ensure_future(talk), asyncio.ensure_future(_silence(reader))
    try:
        await asyncio.wait((talking, gone), return_when=asyncio.FIRST_COMPLETED)
        if talking.done():
            talking.result()
    finally:
        for task in (talking, gone):
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError, OSError):
                await task


async def _silence(reader: asyncio.StreamReader) -> None:
    # What a client says in the middle of an answer is input for the process, and nobody reads it here.
    with contextlib.suppress(OSError):
        while await reader.read(65536):
            pass
