"""Debian's registry with htpasswd: who gets in, what is said to who does not, and where no password turns up."""

from __future__ import annotations

import base64
import contextlib
import json
from collections.abc import Iterator
from pathlib import Path

import docker
import docker.errors
import pytest
from registry import PASSWORD, USER, Distribution, distribution

import calls
from calls.conduct import Auth
from ledger.read import Reader

pytestmark = [pytest.mark.engine, pytest.mark.usefixtures("no_credentials")]

NONE = {"network": "none"}
RIGHT, WRONG = {"username": USER, "password": PASSWORD}, {"username": USER, "password": "Not-" + PASSWORD}


@pytest.fixture
def far(tmp_path: Path, engine: docker.APIClient) -> Iterator[Distribution]:
    """The registry, with busybox as team/app:1."""
    folder = tmp_path / "registry"
    folder.mkdir()
    with distribution(folder) as registry:
        name = f"{registry.host}/team/app"
        engine.tag("busybox", name, "1")
        said = engine.push(name, "1", auth_config=RIGHT)
        assert '"error"' not in said, said
        engine.remove_image(f"{name}:1")
        yield registry
        with contextlib.suppress(docker.errors.ImageNotFound):
            engine.remove_image(f"{name}:1")


def verdict(ledger: Path, image: str, auth: Auth = None) -> tuple[str, str]:
    """The reason and the message of a call's end; no password is anywhere in its ledger."""
    with calls.Runner(ledger) as runner:
        call = runner.run(image, ["true"], auth=auth, **NONE)
    for file in ledger.parent.glob(f"{ledger.name}*"):
        assert PASSWORD.encode() not in file.read_bytes()
        assert base64.b64encode(f"{USER}:{PASSWORD}".encode()) not in file.read_bytes()
    return call.reason, call.message or ""


def test_who_has_the_password_gets_in(far: Distribution, ledger: Path) -> None:
    assert verdict(ledger, f"{far.host}/team/app:1", RIGHT) == ("exit", "")
    with Reader(ledger) as reader:
        call = reader.show("@last")
    assert call["state"] == "success"
    assert call["image_digest"].startswith("sha256:")


def test_a_hook_is_asked_for_the_host(far: Distribution, ledger: Path) -> None:
    asked: list[str] = []

    def hook(host: str) -> dict[str, str]:
        asked.append(host)
        return RIGHT

    assert verdict(ledger, f"{far.host}/team/app:1", hook) == ("exit", "")
    assert asked == [far.host]


def test_a_hook_that_knows_nothing_leaves_it_to_the_configuration(
    far: Distribution, ledger: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOCKER_AUTH", json.dumps({far.host: RIGHT}))
    assert verdict(ledger, f"{far.host}/team/app:1", lambda _: None) == ("exit", "")


def test_a_hook_that_fails_fails_the_call_before_anything_is_pulled(far: Distribution, ledger: Path) -> None:
    def hook(host: str) -> dict[str, str]:
        raise ValueError(PASSWORD)

    before = far.log.read_bytes().count(b'"GET ')
    reason, message = verdict(ledger, f"{far.host}/team/app:1", hook)
    assert (reason, message) == (
        "pull-denied",
        f"no credentials for {far.host}: asked for them, the caller raised ValueError",
    )
    assert far.log.read_bytes().count(b'"GET ') == before


def test_what_is_wrong_is_told_apart(far: Distribution, ledger: Path) -> None:
    image = f"{far.host}/team/app:1"
    port = far.host.partition(":")[2]
    found = {
        "nobody": verdict(ledger, image),
        "password": verdict(ledger, image, WRONG),
        "tag": verdict(ledger, f"{far.host}/team/app:nosuch", RIGHT),
        "name": verdict(ledger, f"{far.host}/nosuch:1", RIGHT),
        "host": verdict(ledger, f"nosuch.invalid:{port}/team/app:1", RIGHT),
    }
    assert {what: reason for what, (reason, _) in found.items()} == {
        "nobody": "pull-denied",
        "password": "pull-denied",
        "tag": "pull-missing",
        "name": "pull-missing",
        "host": "pull-unreachable",
    }
    messages = {what: message for what, (_, message) in found.items()}
    assert messages["nobody"].endswith(f"(no credentials for {far.host})")
    assert messages["password"].endswith("(with the credentials from the call)")
    assert "nosuch not found" in messages["tag"]
    assert "lookup nosuch.invalid" in messages["host"]  # and then: no such host, or no network to ask in
    assert len(set(messages.values())) == len(messages)
    assert not [message for message in messages.values() if PASSWORD in message or "\n" in message]


def test_the_same_for_calls_run(
    far: Distribution, ledger: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from running import run

    folder = tmp_path / "docker"
    folder.mkdir()
    auth = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
    (folder / "config.json").write_text(json.dumps({"auths": {far.host: {"auth": auth}}}), encoding="utf-8")
    said = run(f"{far.host}/team/app:1", "echo", "in")
    assert said == (0, b"in\n", b"")
    said = run("--pull", "always", f"{far.host}/team/app:2", "true")
    assert (said.status, b"error/pull-missing" in said.err) == (125, True)
    assert PASSWORD.encode() not in ledger.read_bytes()
