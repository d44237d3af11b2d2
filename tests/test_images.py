"""Fetching images, on a real engine and from a registry that does as it is told."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import docker
import docker.errors
import pytest
from registry import Registry, serving
from running import LIMIT, until

import calls
from calls.slots import CallFuture
from driver.docker import transfer
from ledger.read import Reader
from machine.errors import SpecError

pytestmark = pytest.mark.engine

NONE = {"network": "none"}


@pytest.fixture(autouse=True)
def no_backoff(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transfer, "BACKOFF", 0)


@pytest.fixture
def far(engine: docker.APIClient) -> Iterator[Registry]:
    """A registry with an image that the engine has not got."""
    with serving() as registry:
        yield registry
        for image in engine.images():
            for name in [*(image["RepoTags"] or ()), *(image["RepoDigests"] or ())]:
                if name.startswith(f"{registry.host}/"):
                    with contextlib.suppress(docker.errors.ImageNotFound):
                        engine.remove_image(name)


def shown(ledger: Path, call: CallFuture | calls.Call) -> dict[str, Any]:
    with Reader(ledger) as reader:
        return reader.show(call.id)


def events(ledger: Path, call: CallFuture | calls.Call, kind: str) -> list[dict[str, Any]]:
    with Reader(ledger) as reader:
        return [event["data"] for event in reader.events(reader.resolve(call.id)) if event["kind"] == kind]


def under_way(ledger: Path, *futures: CallFuture) -> bool:
    """Whether all of them wait for a transfer of which something is recorded."""
    with Reader(ledger) as reader:
        found = reader.query("SELECT count(DISTINCT call_id) FROM events WHERE kind = 'pull-progressed'")[1]
        return next(iter(found))[0] == len(futures)


def test_calls_that_want_one_image_at_once_share_its_transfer(
    runner: calls.Runner, ledger: Path, far: Registry
) -> None:
    far.gate.clear()
    futures = [runner.submit(far.image, **NONE) for _ in range(10)]
    until(lambda: under_way(ledger, *futures), "all of them waiting")
    far.gate.set()
    assert {future.result(LIMIT).reason for future in futures} == {"start-not-found"}  # it has no command
    assert far.count("GET", "manifests") <= 1  # after a HEAD the engine may know enough
    assert far.count("GET", "blobs") == 2
    assert far.count("HEAD", "manifests") == 1
    assert all(len(events(ledger, future, "pulled")) == 1 for future in futures)
    assert {shown(ledger, future)["image_digest"] for future in futures} == {far.digest}


def test_a_transfer_outlives_one_who_waits_for_it(runner: calls.Runner, ledger: Path, far: Registry) -> None:
    far.gate.clear()
    first, second = runner.submit(far.image, **NONE), runner.submit(far.image, **NONE)
    until(lambda: under_way(ledger, first, second), "both waiting")
    runner.cancel(first.id)
    assert first.result(LIMIT).state == "cancelled"
    far.gate.set()
    assert second.result(LIMIT).reason == "start-not-found"
    assert far.count("GET", "blobs") == 2
    assert events(ledger, first, "pulled") == []


def test_when_nobody_waits_any_more_a_transfer_is_abandoned(
    runner: calls.Runner, ledger: Path, far: Registry, engine: docker.APIClient
) -> None:
    far.gate.clear()
    futures = [runner.submit(far.image, **NONE) for _ in range(2)]
    until(lambda: under_way(ledger, *futures), "both waiting")
    runner.cancel_all()
    assert {future.result(LIMIT).state for future in futures} == {"cancelled"}
    far.gate.set()
    again = runner.run(far.image, pull="never", **NONE)
    assert again.reason == "pull-missing"


def test_the_time_to_prepare_ends_a_pull_that_stands_still(runner: calls.Runner, far: Registry) -> None:
    far.gate.clear()
    assert runner.run(far.image, prepare_timeout="1s", **NONE)[1:3] == ("timeout", "prepare")


def test_a_pull_that_stands_still_too_long_has_failed(runner: calls.Runner, far: Registry) -> None:
    far.gate.clear()
    call = runner.run(far.image, pull_idle_timeout="1s", **NONE)
    assert (call.state, call.reason) == ("error", "pull-failed")
    assert call.message == f"pulling {far.image}: nothing came for 1.00s"


def test_progress_is_recorded_in_steps(runner: calls.Runner, ledger: Path, far: Registry) -> None:
    far.gate.clear()
    future = runner.submit(far.image, **NONE)
    until(lambda: under_way(ledger, future), "progress")
    far.gate.set()
    future.result(LIMIT)
    steps = events(ledger, future, "pull-progressed")
    assert 1 <= len(steps) <= 4
    assert all(step["image"] == far.image for step in steps)
    assert all(0 < step["current"] < step["total"] for step in steps)
    assert [step["current"] for step in steps] == sorted({step["current"] for step in steps})


@pytest.mark.parametrize("status", [500, 502, 503, 504, 429])
def test_what_is_temporary_is_tried_again(runner: calls.Runner, far: Registry, status: int) -> None:
    far.failing = [status] * 4  # one for a HEAD and one for a GET, twice
    assert runner.run(far.image, **NONE).reason == "start-not-found"
    assert far.failing == []


def test_but_not_for_ever(runner: calls.Runner, far: Registry) -> None:
    far.failing = [503] * 100
    call = runner.run(far.image, **NONE)
    assert call.reason == "pull-failed"
    assert "503" in str(call.message)
    asked = far.count("HEAD", "manifests")
    assert asked == transfer.ATTEMPTS


@pytest.mark.parametrize(("status", "reason"), [(401, "pull-denied"), (403, "pull-denied"), (404, "pull-missing")])
def test_what_is_refused_is_not_tried_again(runner: calls.Runner, far: Registry, status: int, reason: str) -> None:
    far.failing = [status] * 100
    assert runner.run(far.image, **NONE).reason == reason
    assert far.count("HEAD", "manifests") == 1


def test_always_pulls_what_is_here(runner: calls.Runner, far: Registry) -> None:
    for _ in range(2):
        assert runner.run(far.image, pull="always", **NONE).reason == "start-not-found"
    assert far.count("HEAD", "manifests") + far.count("GET", "manifests") >= 2
    asked = len(far.asked)
    assert runner.run(far.image, **NONE).reason == "start-not-found"
    assert len(far.asked) == asked  # it was here


def test_newer_does_with_what_is_here_when_the_pull_fails_and_says_so(ledger: Path, far: Registry) -> None:
    told: list[str] = []
    with calls.Runner(ledger, tell=lambda line, stay: told.append(line) if stay else None) as runner:
        assert runner.run(far.image, pull="newer", **NONE).reason == "start-not-found"
        far.failing = [403] * 10
        call = runner.run(far.image, pull="newer", **NONE)
    assert call.reason == "start-not-found"
    (pulled,) = events(ledger, call, "pulled")
    assert "no credentials for" in pulled["fallback"]
    (prepared,) = events(ledger, call, "prepared")
    warning = f"{far.image} could not be pulled, and the local image serves: {pulled['fallback']}"
    assert prepared["warnings"] == [warning]
    assert told == [f"warning: {warning}"]
    assert prepared["image_digest"] == far.digest


def test_always_fails_when_the_pull_fails(runner: calls.Runner, ledger: Path, far: Registry) -> None:
    runner.run(far.image, **NONE)
    far.failing = [403] * 10
    call = runner.run(far.image, pull="always", **NONE)
    assert (call.reason, call.never_ran) == ("pull-denied", True)
    assert events(ledger, call, "pulled") == []


def test_newer_fails_when_there_is_nothing_here(runner: calls.Runner, far: Registry) -> None:
    far.failing = [403] * 10
    assert runner.run(far.image, pull="newer", **NONE).reason == "pull-denied"


def test_a_digest_is_honoured(runner: calls.Runner, ledger: Path, far: Registry) -> None:
    call = runner.run(f"{far.host}/image@{far.digest}", **NONE)
    assert call.reason == "start-not-found"
    assert shown(ledger, call)["image_digest"] == far.digest
    assert all(path.endswith(far.digest) for _, path in far.asked if "/manifests/" in path)
    asked = len(far.asked)
    call = runner.run(f"{far.host}/image:nosuch@{far.digest}", **NONE)  # a digest goes before a tag
    assert call.reason == "start-not-found"
    assert shown(ledger, call)["image_digest"] == far.digest
    assert len(far.asked) == asked


def test_another_digest_is_another_image(runner: calls.Runner, far: Registry) -> None:
    runner.run(far.image, **NONE)
    call = runner.run(f"{far.host}/image@sha256:{'0' * 64}", **NONE)
    assert call.reason == "pull-missing"


def test_an_image_by_its_id(runner: calls.Runner, ledger: Path, far: Registry, engine: docker.APIClient) -> None:
    runner.run(far.image, **NONE)
    image_id = engine.inspect_image(far.image)["Id"]
    for name in (image_id, image_id.removeprefix("sha256:"), image_id.removeprefix("sha256:")[:12]):
        call = runner.run(name, **NONE)
        assert call.reason == "start-not-found"
        assert shown(ledger, call)["image_digest"] == far.digest


def test_an_id_that_is_not_here_is_asked_of_no_registry(runner: calls.Runner) -> None:
    call = runner.run("sha256:" + "0" * 64, **NONE)
    assert call.reason == "pull-missing"
    assert "no registry knows it" in str(call.message)


@pytest.mark.parametrize("pull", ["always", "newer"])
def test_an_id_cannot_be_pulled(runner: calls.Runner, pull: str) -> None:
    with pytest.raises(SpecError, match=r"--pull: .* contradicts"):
        runner.submit("0" * 64, pull=pull)


@pytest.mark.parametrize("image", ["Busybox", "busybox:", "http://localhost/x", "busybox@sha256:12", ":tag", "a b"])
def test_what_is_no_name_is_refused_before_anything_is_done(runner: calls.Runner, ledger: Path, image: str) -> None:
    with pytest.raises(SpecError) as refused:
        runner.submit(image)
    assert refused.value.option == "image"
    with Reader(ledger) as reader:
        assert list(reader.calls()) == []
