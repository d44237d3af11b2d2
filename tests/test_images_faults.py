"""Pulls from an engine that does not play its part: it says nothing, breaks off, goes, or talks nonsense."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from engine_http import Answer, Hijack, drop, hang, says
from faults import Told, World
from running import until
from scripted_engine import Engine

import calls
from driver.docker import pulling, transfer

IMAGE = "r.example/app:1"
DONE = {"status": "Status: Downloaded newer image for r.example/app:1"}
LINES: list[dict[str, Any]] = [
    {"status": "Pulling from app", "id": "1"},
    {"status": "Downloading", "id": "a", "progressDetail": {"current": 10, "total": 100}},
    {"status": "Downloading", "id": "b", "progressDetail": {"current": 10, "total": 20}},
    {"status": "Download complete", "id": "a", "progressDetail": {}},
    DONE,
]


@pytest.fixture(autouse=True)
def no_backoff(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(transfer, "BACKOFF", 0)
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "docker"))


@pytest.fixture
def world(ledger: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    with Engine() as engine:
        engine.far[IMAGE] = LINES
        monkeypatch.setenv("DOCKER_HOST", engine.url)
        with calls.Runner(ledger) as runner:
            yield World(engine, runner, ledger)


def pull(world: World, **options: Any) -> Told:
    return world.end(world.runner.submit(IMAGE, ["true"], network="none", **options))


def streams(*pieces: bytes, then: str) -> Any:
    """Answers with some of a pull, and breaks off (`drop`) or says nothing more (`hang`)."""

    async def body() -> AsyncIterator[bytes]:
        for piece in pieces:
            yield piece
        if then == "hang":
            await asyncio.Event().wait()
        if then == "drop":
            raise ConnectionResetError

    async def act(_: Answer | Hijack | None) -> Answer:
        return Answer(200, body())

    return act


def wire(*lines: dict[str, Any]) -> bytes:
    return b"".join(json.dumps(line).encode() + b"\r\n" for line in lines)


def error(message: str) -> bytes:
    return wire({"errorDetail": {"message": message}, "error": message})


def test_a_pull(world: World) -> None:
    told = pull(world)
    assert told.verdict[:2] == ("success", "exit")
    assert world.engine.asked("POST", "images/create") == 1
    (pulled,) = told.of("pulled")
    assert (pulled["image"], pulled.get("fallback")) == (IMAGE, None)


@pytest.mark.parametrize("act", [drop, streams(wire(*LINES[:2]), then="drop"), says(503, b'{"message": "HTTP 503"}')])
def test_a_connection_that_breaks_is_made_again(world: World, act: Any) -> None:
    world.engine.lie("POST", "images/create", act, times=2)
    assert pull(world).verdict[:2] == ("success", "exit")
    assert world.engine.asked("POST", "images/create") == 3


def test_but_not_for_ever(world: World) -> None:
    world.engine.lie("POST", "images/create", drop, times=None)
    told = pull(world)
    assert told.verdict[:2] == ("error", "pull-failed")
    assert world.engine.asked("POST", "images/create") == transfer.ATTEMPTS


@pytest.mark.parametrize(
    ("message", "reason", "attempts"),
    [
        ("received unexpected HTTP status: 502 Bad Gateway", "pull-failed", 5),
        ('Get "https://r.example/v2/": net/http: TLS handshake timeout', "pull-unreachable", 5),
        ('Get "https://r.example/v2/": EOF', "pull-unreachable", 5),
        ("read tcp 10.0.0.1:1->10.0.0.2:2: read: connection reset by peer", "pull-failed", 5),
        ("dial tcp 10.0.0.2:443: connect: connection refused", "pull-unreachable", 5),
        ("toomanyrequests: slow down", "pull-failed", 5),
        ("dial tcp: lookup r.example on 10.0.0.53:53: no such host", "pull-unreachable", 1),
        ("x509: certificate signed by unknown authority", "pull-unreachable", 1),
        ("unauthorized: authentication required", "pull-denied", 1),
        ("pull access denied for r.example/app, repository does not exist", "pull-denied", 1),
        ("manifest for r.example/app:1 not found: manifest unknown", "pull-missing", 1),
        ("write /var/lib/docker/tmp/x: no space left on device", "pull-failed", 1),
        ("manifest for r.example/homeofficial/eof-tls-denied:1 not found: manifest unknown", "pull-missing", 1),
        ('Get "https://r.example/v2/unauthorized/manifests/1": EOF', "pull-unreachable", 5),
    ],
)
@pytest.mark.parametrize("early", [True, False])
def test_what_the_engine_says_decides(world: World, message: str, reason: str, attempts: int, *, early: bool) -> None:
    refusal = says(500, json.dumps({"message": message}).encode())
    late = streams(wire(LINES[0]) + error(message), then="end")
    world.engine.lie("POST", "images/create", refusal if early else late, times=None)
    told = pull(world)
    assert told.verdict[:2] == ("error", reason)
    assert str(told.message).startswith(message)
    assert world.engine.asked("POST", "images/create") == attempts


@pytest.mark.parametrize("act", [hang, streams(wire(LINES[0]), then="hang")])
def test_silence_has_a_limit(world: World, act: Any) -> None:
    world.engine.lie("POST", "images/create", act)
    told = pull(world, pull_idle_timeout="200ms")
    assert told.verdict[:2] == ("error", "pull-failed")
    assert told.message == f"pulling {IMAGE}: nothing came for 0.20s"


def test_progress_is_no_silence(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    async def body() -> AsyncIterator[bytes]:
        for number in range(25):
            yield wire({"status": "Downloading", "id": "a", "progressDetail": {"current": number, "total": 25}})
            await asyncio.sleep(0.1)
        yield wire(DONE)

    async def act(_: Answer | Hijack | None) -> Answer:
        world.engine.images.add(IMAGE)
        return Answer(200, body())

    world.engine.lie("POST", "images/create", act)
    told = pull(world, pull_idle_timeout="2s")
    assert told.verdict[:2] == ("success", "exit")
    steps = told.of("pull-progressed")
    assert all(step["total"] == 25 for step in steps)
    assert 1 <= len(steps) <= 1 / pulling.RECORD_SHARE


def test_nonsense_between_the_lines_is_passed_over(world: World) -> None:
    async def act(_: Answer | Hijack | None) -> Answer:
        world.engine.images.add(IMAGE)
        return await streams(b"{\r\n[]\r\n" + wire(*LINES, {"progressDetail": 7, "id": 3}, {}), then="end")(None)

    world.engine.lie("POST", "images/create", act)
    assert pull(world).verdict[:2] == ("success", "exit")


def test_calls_share_a_transfer_and_its_failure(world: World) -> None:
    world.engine.lie("POST", "images/create", streams(wire(LINES[0]), then="hang"), times=None)
    futures = [world.runner.submit(IMAGE, ["true"], network="none", pull_idle_timeout="1s") for _ in range(10)]
    told = [world.end(future) for future in futures]
    assert {one.verdict[:2] for one in told} == {("error", "pull-failed")}
    assert world.engine.asked("POST", "images/create") < 10


def test_a_call_with_less_patience_leaves_the_transfer_to_the_others(world: World) -> None:
    gate = asyncio.Event()

    async def act(_: Answer | Hijack | None) -> None:
        await gate.wait()

    world.engine.lie("POST", "images/create", act)
    patient = world.runner.submit(IMAGE, ["true"], network="none")
    until(lambda: world.engine.asked("POST", "images/create") == 1, "the pull")
    assert pull(world, pull_idle_timeout="200ms").verdict[:2] == ("error", "pull-failed")
    assert pull(world, prepare_timeout="200ms").verdict[:2] == ("timeout", "prepare")
    world.engine.call(gate.set)
    assert world.end(patient).verdict[:2] == ("success", "exit")
    assert world.engine.asked("POST", "images/create") == 1


def test_other_credentials_are_another_transfer(world: World) -> None:
    gate = asyncio.Event()

    async def act(_: Answer | Hijack | None) -> None:
        await gate.wait()

    world.engine.lie("POST", "images/create", act, times=None)
    auths = [{"username": "one", "password": "word"}, {"username": "two", "password": "word"}]
    pulls = [
        world.runner.submit(IMAGE, ["true"], network="none", auth=auth, prepare_timeout="60s") for auth in auths * 2
    ]
    until(lambda: world.engine.asked("POST", "images/create") == 2, "both transfers")
    until(lambda: _waiting(world) == [2, 2], "all four waiting")
    world.engine.call(gate.set)
    assert {world.end(pull).verdict[0] for pull in pulls} == {"success"}
    assert world.engine.asked("POST", "images/create") == 2


def _waiting(world: World) -> list[int]:
    """How many wait for each transfer."""
    driver: Any = world.runner.driver("docker")
    return [transfer.waiting for transfer in driver.images._pulls()._transfers.values()]


def test_an_engine_that_dies_during_a_pull_and_comes_back(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transfer, "BACKOFF", 0.25)  # it needs a moment
    world.engine.lie("POST", "images/create", streams(wire(LINES[0]), then="hang"))
    future = world.runner.submit(IMAGE, ["true"], network="none", prepare_timeout="60s")
    until(lambda: world.engine.asked("POST", "images/create") == 1, "the pull")
    world.engine.kill9()
    world.engine.come_back()
    told = world.end(future)
    assert (told.verdict[:2], told.message) == (("success", "exit"), None)


def test_closing_a_driver_abandons_its_pulls(world: World) -> None:
    world.engine.lie("POST", "images/create", streams(wire(LINES[0]), then="hang"))
    future = world.runner.submit(IMAGE, ["true"], network="none")
    until(lambda: world.engine.asked("POST", "images/create") == 1, "the pull")
    world.runner.driver("docker").close()
    assert world.end(future).verdict[0] == "error"


def test_an_image_that_is_removed_after_its_pull_is_pulled_again(world: World) -> None:
    async def act(answer: Answer | Hijack | None) -> Answer:
        world.engine.images.discard(IMAGE)
        return Answer(404, json.dumps({"message": f"No such image: {IMAGE}"}).encode())

    world.engine.lie("POST", "containers/create", act)
    told = pull(world, pull="always")
    assert told.verdict[:2] == ("success", "exit")
    assert world.engine.asked("POST", "images/create") == 2
