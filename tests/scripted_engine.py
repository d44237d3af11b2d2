"""A scripted Docker Engine: the endpoints that the driver uses, on a socket file, over processes of this host.

It runs in one thread of the test's own process, keeps a table of containers that really run (`engine_box`), and
lies when told to: see `engine_http.Fault` for requests, `Engine.events_pass` for events, `Engine.readings` for
samples. `tests/test_scripted_engine.py` holds it to what a real engine does.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import secrets
import signal
import tempfile
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, Self, TypeVar

from engine_box import NEVER, Box, frame, stamp
from engine_http import Act, Answer, Fault, Hijack, Refused, Request, Server, document

RING = 256
"""How many events an engine remembers."""
SLOW = 1024
"""How many events may wait for a slow reader before it loses some."""
IMAGE_ID = "sha256:" + "5c" * 32

Value = TypeVar("Value")
Event = dict[str, Any]
Lines = Callable[[Box, int], "bytes | None"]
"""Of a container and the number of a reading (from 0): a line of its stats stream; None to say nothing."""


def reading(box: Box, number: int) -> dict[str, Any]:
    """What a well-behaved engine says in a stats stream: of a container that does not run, next to nothing."""
    if not box.running:
        return {"read": NEVER, "preread": NEVER, "pids_stats": {}, "cpu_stats": {}, "memory_stats": {}}
    cpu = {"cpu_usage": {"total_usage": 10**6 * (number + 1)}, "online_cpus": 2}
    return {
        "read": stamp(),
        "cpu_stats": cpu,
        "memory_stats": {"usage": 2**20, "limit": 2**30, "stats": {}},
        "pids_stats": {"current": 1},
    }


def line(box: Box, number: int) -> bytes:
    """`reading` as it goes over the wire."""
    return json.dumps(reading(box, number)).encode() + b"\n"


class Engine:
    """One engine. A context manager; `url` is for DOCKER_HOST. Methods may be called from any thread."""

    def __init__(self, *, live_restore: bool = False) -> None:
        """Serves from `__enter__` on. `live_restore`: whether containers outlive the engine's end."""
        self._folder = tempfile.TemporaryDirectory(prefix="engine-")
        self.boxes: dict[str, Box] = {}
        self.images = {"busybox:latest"}
        self.far: dict[str, Iterable[dict[str, Any]]] = {}  # what a pull of an image says
        self.readings: Lines = line
        self.pace = 0.05  # seconds between two readings
        self.events_pass: Callable[[Event], list[Event]] = lambda event: [event]  # of each subscriber, in its order
        self.wire: Callable[[Event], bytes] = lambda event: json.dumps(event).encode() + b"\n"
        self.live_restore = live_restore
        self.grace = 0.2  # seconds that a container has when the engine comes back without live restore; really 10
        self._alive = True
        self._ring: deque[Event] = deque(maxlen=RING)
        self._readers: set[asyncio.Queue[Event | None]] = set()
        self._numbers = itertools.count()
        self._server = Server(f"{self._folder.name}/docker.sock", self._handle)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="scripted-engine", daemon=True)

    def __enter__(self) -> Self:
        """Serve."""
        self._thread.start()
        self._do(self._server.open())
        return self

    def __exit__(self, *_: object) -> None:
        """End, and leave no process behind."""
        self._do(self._destroy())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
        self._folder.cleanup()
        assert not self._server.broken, self._server.broken

    @property
    def url(self) -> str:
        """What DOCKER_HOST has to be."""
        return f"unix://{self._server.path}"

    # What a test asks for.

    def lie(self, method: str, path: str, act: Act, **when: Any) -> Fault:
        """See `Fault`."""
        fault = Fault(method, path, act, **when)
        self._server.faults.append(fault)
        return fault

    def honest(self) -> None:
        """No more lies about requests."""
        self._server.faults.clear()

    def asked(self, method: str, path: str = "") -> int:
        """How many requests came whose path ends so."""
        return sum(one == method and other.endswith(path) for one, other in self._server.requests)

    def call(self, action: Callable[[], Value]) -> Value:
        """Do something inside the engine, between two requests."""

        async def act() -> Value:
            return action()

        return self._do(act())

    def emit(self, box: Box, action: str, **attributes: str) -> None:
        """Make an event."""
        self.call(lambda: self._tell(box, action, **attributes))

    def flood(self, labels: dict[str, str], count: int) -> None:
        """Make `count` events at once, of a container that nobody knows."""
        stranger = Box("f" * 64, "stranger", {"Labels": labels, "Image": "busybox"}, lambda *_, **__: None)
        self.call(lambda: [self._tell(stranger, "pause") for _ in range(count)])

    def box(self, name: str) -> Box:
        """A container by its name; KeyError when there is none."""
        return {box.name: box for box in list(self.boxes.values())}[name]

    def cut_events(self) -> None:
        """End every event stream there is, in good order: a client cannot tell it from a restart."""
        self.call(lambda: [queue.put_nowait(None) for queue in self._readers])

    def kill9(self) -> None:
        """The engine dies: every connection breaks and nobody listens. The containers go on."""
        self._do(self._die())

    def come_back(self) -> None:
        """It is started again, and knows its containers. Without live restore it stops them first, as engines do."""
        self._do(self._restart())

    # The inside: everything from here on happens in the loop.

    def _do(self, work: Coroutine[Any, Any, Value]) -> Value:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(60)

    async def _die(self) -> None:
        self._alive = False
        await self._server.close()
        self._ring.clear()
        for box in self.boxes.values():
            box.writers.clear()
            box.unread = []

    async def _restart(self) -> None:
        self._alive = True
        for box in self.boxes.values():
            box.found()
        if not self.live_restore:  # it stops what still runs before it listens, and remembers having done so
            await asyncio.gather(*(box.stop(self.grace) for box in self.boxes.values() if box.running))
        await self._server.open()

    async def _destroy(self) -> None:
        await self._server.close()
        for box in self.boxes.values():
            await box.destroy()
        rest = asyncio.all_tasks() - {asyncio.current_task()}
        for task in rest:
            task.cancel()
        await asyncio.gather(*rest, return_exceptions=True)

    def _tell(self, box: Box, action: str, **attributes: str) -> None:
        if not self._alive:
            return
        now = time.time_ns()
        attributes = {**box.labels, "image": box.config["Image"], "name": box.name, **attributes}
        event = {
            "status": action,
            "id": box.id,
            "from": box.config["Image"],
            "Type": "container",
            "Action": action,
            "Actor": {"ID": box.id, "Attributes": attributes},
            "scope": "local",
            "time": now // 10**9,
            "timeNano": now,
        }
        self._ring.append(event)
        for queue in self._readers:
            with suppress(asyncio.QueueFull):  # without a word, as an engine does
                queue.put_nowait(event)

    async def _handle(self, request: Request) -> Answer | Hijack:
        words = request.path.strip("/").split("/")
        if words[0] == "containers":
            return await self._containers(request, words[1:])
        if words[0] == "images":
            return await self._images(request, words[1:])
        match request.method, words:
            case "GET", ["_ping"]:
                return Answer(200, b"OK")
            case "GET", ["version"]:
                return document({"Version": "scripted", "ApiVersion": "1.41", "MinAPIVersion": "1.12"})
            case "GET", ["info"]:
                known = {"CgroupDriver": "cgroupfs", "CgroupVersion": "1", "SystemTime": stamp(), "OSType": "linux"}
                return document({**known, "LiveRestoreEnabled": self.live_restore, "ID": "SCRIPTED"})
            case "GET", ["events"]:
                return Answer(200, self._events(request))
            case "GET", ["networks"]:
                return document([])  # nothing but containers can be made here
            case "GET", ["volumes"]:
                return document({"Volumes": [], "Warnings": None})
        raise Refused(404, "page not found")

    async def _images(self, request: Request, words: list[str]) -> Answer:
        match request.method, words:
            case "POST", ["create"]:
                return await self._pull(request)
            case "GET", ["json"]:
                return document([{"Id": IMAGE_ID, "RepoTags": sorted(self.images), "RepoDigests": []}])
            case "GET", [*name, "json"]:
                return document(self._image("/".join(name)))
        raise Refused(404, "page not found")

    async def _containers(self, request: Request, words: list[str]) -> Answer | Hijack:
        match request.method, words:
            case "POST", ["create"]:
                return self._create(request)
            case "GET", ["json"]:
                return document(list(self._list(request)))
            case "DELETE", [name]:
                return await self._remove(self._find(name), force=request.flag("force"))
            case method, [name, action]:
                return await self._act(method, action, self._find(name, action), request)
        raise Refused(404, "page not found")

    async def _act(self, method: str, action: str, box: Box, request: Request) -> Answer | Hijack:
        """What is asked of one container."""
        match method, action:
            case "GET", "json":
                return document(box.inspect())
            case "GET", "stats":
                return Answer(200, self._stats(box))
            case "GET", "top":
                return document(box.top())
            case "GET", "logs":
                return Answer(200, _logs(box, follow=request.flag("follow")))
            case "POST", "attach":
                return Hijack(lambda writer: _attached(box, writer, request))
            case "POST", _:
                return await _order(box, action, request)
        raise Refused(404, "page not found")

    def _find(self, name: str, action: str = "") -> Box:
        for box in self.boxes.values():
            if name in (box.id, box.name) or (len(name) >= 4 and box.id.startswith(name)):
                return box
        prefix = f"Cannot kill container: {name}: " if action == "kill" else ""
        raise Refused(404, f"{prefix}No such container: {name}")

    def _image(self, name: str) -> dict[str, Any]:
        if name != IMAGE_ID and _tagged(name) not in self.images:
            raise Refused(404, f"no such image: {name}: No such image: {_tagged(name)}")
        return {"Id": IMAGE_ID, "RepoTags": sorted(self.images), "RepoDigests": [], "Config": {"Cmd": ["sh"]}}

    def _create(self, request: Request) -> Answer:
        config, name = request.json(), request.query.get("name") or f"nameless_{next(self._numbers)}"
        if _tagged(config["Image"]) not in self.images:
            raise Refused(404, f"No such image: {_tagged(config['Image'])}")
        for box in self.boxes.values():
            if box.name == name:
                raise Refused(
                    409,
                    f'Conflict. The container name "/{name}" is already in use by container "{box.id}". '
                    "You have to remove (or rename) that container to be able to reuse that name.",
                )
        config.setdefault("Cmd", None)
        box = Box(secrets.token_hex(32), name, {**config, "image_id": IMAGE_ID}, lambda *_, **__: None)
        box._tell = lambda action, **attributes: self._tell(box, action, **attributes)
        self.boxes[box.id] = box
        self._tell(box, "create")
        return document({"Id": box.id, "Warnings": []}, 201)

    def _list(self, request: Request) -> Iterator[dict[str, Any]]:
        wanted = request.json().get("label", [])
        for box in list(self.boxes.values()):
            if (box.running or request.flag("all")) and _labelled(box.labels, wanted):
                yield {
                    "Id": box.id,
                    "Names": [f"/{box.name}"],
                    "Image": box.config["Image"],
                    "ImageID": IMAGE_ID,
                    "Created": box.created // 10**9,
                    "Labels": box.labels,
                    "State": box.status,
                    "HostConfig": {"NetworkMode": (box.config.get("HostConfig") or {}).get("NetworkMode") or "default"},
                }

    async def _remove(self, box: Box, *, force: bool) -> Answer:
        if box.running and not force:
            hint = "Stop the container before attempting removal or force remove"
            raise Refused(409, f"You cannot remove a running container {box.id}. {hint}")
        await box.kill()
        if self.boxes.pop(box.id, None) is not None:
            box.close_streams()
            self._tell(box, "destroy")
        return Answer(204)

    async def _pull(self, request: Request) -> Answer:
        name = f"{request.query['fromImage']}:{request.query.get('tag') or 'latest'}"
        if name not in self.far:  # nothing is far away
            registry = request.query["fromImage"].split("/")[0]
            raise Refused(500, f'Get "https://{registry}/v2/": dial tcp: connect: connection refused')
        lines = list(self.far[name])
        if not any("error" in line for line in lines):
            self.images.add(name)
        return Answer(200, _each(json.dumps(line).encode() + b"\r\n" for line in lines))

    async def _stats(self, box: Box) -> AsyncIterator[bytes]:
        for number in itertools.count():
            if (said := self.readings(box, number)) is not None:
                yield said
            await asyncio.sleep(self.pace)

    async def _events(self, request: Request) -> AsyncIterator[bytes]:
        wanted, since = request.json(), _nanoseconds(request.query.get("since"))
        until, queue = _nanoseconds(request.query.get("until")), asyncio.Queue[Event | None](SLOW)
        past = [] if since is None else [event for event in self._ring if event["timeNano"] >= since]
        if until is None:
            self._readers.add(queue)
        try:
            for event in past:
                if _wanted(event, wanted):
                    for passed in self.events_pass(event):
                        yield self.wire(passed)
            while until is None and (following := await queue.get()) is not None:
                if _wanted(following, wanted):
                    for passed in self.events_pass(following):
                        yield self.wire(passed)
        finally:
            self._readers.discard(queue)


async def _each(pieces: Iterable[bytes]) -> AsyncIterator[bytes]:
    for piece in pieces:
        yield piece
        await asyncio.sleep(0)


async def _order(box: Box, action: str, request: Request) -> Answer:
    grace = float(request.query.get("t") or 10)
    match action:
        case "start":
            return await _start(box)
        case "restart":
            return await _restart(box, grace)
        case "stop" if not box.running:
            return Answer(304)
        case "stop":
            await box.stop(grace)
        case "kill":
            box.signal(_number(request.query.get("signal") or "KILL"))
        case "pause":
            box.freeze()
        case "unpause":
            box.thaw()
        case _:
            raise Refused(404, "page not found")
    return Answer(204)


async def _start(box: Box) -> Answer:
    if box.running:
        return Answer(304)
    if (network := (box.config.get("HostConfig") or {}).get("NetworkMode")) not in (
        None,
        "",
        "none",
        "default",
        "host",
    ):
        raise Refused(404, f"network {network} not found")
    await box.start()
    return Answer(204)


async def _restart(box: Box, grace: float) -> Answer:
    if box.running:
        await box.stop(grace)
    await box.start()
    box._tell("restart")
    return Answer(204)


async def _attached(box: Box, writer: asyncio.StreamWriter, request: Request) -> None:
    if request.flag("logs"):
        for number, data in box.log:
            writer.write(frame(number, data))
    if request.flag("stream"):
        box.writers.add(writer)
        try:
            await asyncio.Event().wait()  # until either side closes; of what has ended already no end comes
        finally:
            box.writers.discard(writer)


async def _logs(box: Box, *, follow: bool) -> AsyncIterator[bytes]:
    said = 0
    while True:
        ended = not box.running
        for number, data in box.log[said:]:
            yield frame(number, data)
            said += 1
        if ended or not follow:
            return
        await asyncio.sleep(0.01)


def _wanted(event: Event, filters: dict[str, list[str]]) -> bool:
    action = event["Action"].split(":")[0]
    return (
        event["Type"] in filters.get("type", ["container"])
        and action in filters.get("event", [action])
        and _labelled(event["Actor"]["Attributes"], filters.get("label", []))
    )


def _labelled(labels: dict[str, str], wanted: Iterable[str]) -> bool:
    pairs = (pair.partition("=") for pair in wanted)
    return all(name in labels and (not equals or labels[name] == value) for name, equals, value in pairs)


def _tagged(name: str) -> str:
    return name if ":" in name.rsplit("/", 1)[-1] else f"{name}:latest"


def _number(name: str) -> int:
    try:
        return int(name) if name.isdecimal() else signal.Signals[f"SIG{name.upper().removeprefix('SIG')}"]
    except KeyError:
        raise Refused(400, f"Invalid signal: {name}") from None


def _nanoseconds(text: str | None) -> int | None:
    if text is None:
        return None
    whole, _, part = text.partition(".")
    return int(whole) * 10**9 + int(part.ljust(9, "0")[:9] or 0)


def socket_file(engine: Engine) -> Path:
    """Where it listens."""
    return Path(engine.url.removeprefix("unix://"))
