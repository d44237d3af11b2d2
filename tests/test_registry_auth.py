"""Where credentials are looked for, and for which registry they are: by its whole host."""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from driver.docker.auth import Credentials, find, of_call
from driver.docker.engine import _check_context, connect
from machine.errors import DriverError
from machine.states import Reason

HUB = "docker.io"
Config = Callable[[dict[str, Any]], Path]

pytestmark = pytest.mark.usefixtures("no_credentials")


def coded(user: str, password: str) -> dict[str, str]:
    return {"auth": base64.b64encode(f"{user}:{password}".encode()).decode()}


def password(found: Credentials) -> str | None:
    return dict(found.fields).get("password")


@pytest.fixture
def config(tmp_path: Path) -> Config:
    """Writes a configuration file."""

    def write(document: dict[str, Any]) -> Path:
        (tmp_path / "docker").mkdir(exist_ok=True)
        path = tmp_path / "docker" / "config.json"
        path.write_text(json.dumps(document), encoding="utf-8")
        return path

    return write


@pytest.fixture
def helper(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], Path]:
    """Makes a credential helper of a shell script; it notes what it is asked for in the file that is returned."""
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")

    def make(name: str, script: str) -> Path:
        program, asked = tmp_path / f"docker-credential-{name}", tmp_path / f"{name}.asked"
        program.write_text(f'#!/bin/sh\nhost=$(cat)\necho "$1 $host" >>{asked}\n{script}\n', encoding="utf-8")
        program.chmod(0o755)
        return asked

    return make


def refusal(host: str = "r.example") -> str:
    with pytest.raises(DriverError) as refused:
        find(host)
    assert refused.value.reason is Reason.PULL_DENIED
    return str(refused.value)


def test_nothing_anywhere() -> None:
    assert find("r.example") == Credentials()
    assert json.loads(base64.urlsafe_b64decode(find("r.example").header["X-Registry-Auth"])) == {}


def test_a_configuration_file(config: Config) -> None:
    path = config({"auths": {"r.example:5000": coded("user", "pass:word")}})
    found = find("r.example:5000")
    assert dict(found.fields) == {"username": "user", "password": "pass:word", "serveraddress": "r.example:5000"}
    assert found.source == str(path)
    assert json.loads(base64.urlsafe_b64decode(found.header["X-Registry-Auth"])) == dict(found.fields)


@pytest.mark.parametrize(
    ("key", "host", "matches"),
    [
        ("r.example", "r.example", True),
        ("https://r.example", "r.example", True),
        ("http://r.example/v2/", "r.example", True),
        ("https://r.example/v1/", "r.example", True),
        ("r.example", "my-r.example", False),
        ("my-r.example", "r.example", False),
        ("sub.r.example", "r.example", False),
        ("r.example", "sub.r.example", False),
        ("r.example", "r.example:5000", False),
        ("r.example:5000", "r.example", False),
        ("r.example/team", "r.example", False),
        ("https://index.docker.io/v1/", HUB, True),
        ("index.docker.io", HUB, True),
        ("docker.io", HUB, True),
        ("docker.io", "registry-1.docker.io", False),
        ("r.example", HUB, False),
        ("", HUB, False),
    ],
)
def test_a_registry_is_matched_by_its_whole_host(config: Config, key: str, host: str, *, matches: bool) -> None:
    config({"auths": {key: coded("user", "word")}})
    assert (password(find(host)) == "word") == matches


def test_the_host_itself_goes_before_its_address(config: Config) -> None:
    config({"auths": {"http://r.example": coded("user", "address"), "r.example": coded("user", "host")}})
    assert password(find("r.example")) == "host"


def test_tokens_and_plain_fields(config: Config) -> None:
    entries = {"a": {"identitytoken": "T"}, "b": {"username": "u", "password": "p"}, "c": {"registrytoken": "R"}}
    config({"auths": {f"{name}.example": entry for name, entry in entries.items()}})
    for name, entry in entries.items():
        assert entry.items() < dict(find(f"{name}.example").fields).items()


@pytest.mark.parametrize("variable", ["DOCKER_AUTH_CONFIG", "DOCKER_AUTH"])
@pytest.mark.parametrize("wrapped", [True, False])
def test_a_variable_goes_before_the_file(
    monkeypatch: pytest.MonkeyPatch, config: Config, variable: str, *, wrapped: bool
) -> None:
    config({"auths": {"r.example": coded("user", "file"), "other.example": coded("user", "other")}})
    auths = {"r.example": coded("user", "variable")}
    monkeypatch.setenv(variable, json.dumps({"auths": auths} if wrapped else auths))
    assert (password(find("r.example")), find("r.example").source) == ("variable", variable)
    assert password(find("other.example")) == "other"


def test_a_store_goes_before_auths_and_is_asked_for_the_host(
    config: Config, helper: Callable[[str, str], Path]
) -> None:
    asked = helper("fake", """echo '{"ServerURL": "x", "Username": "user", "Secret": "stored"}'""")
    config({"credsStore": "fake", "auths": {"r.example": coded("user", "file")}})
    found = find("r.example")
    assert (password(found), found.source) == ("stored", "docker-credential-fake")
    assert password(find(HUB)) == "stored"
    assert asked.read_text() == "get r.example\nget https://index.docker.io/v1/\n"


def test_a_helper_of_its_own_goes_before_the_store(config: Config, helper: Callable[[str, str], Path]) -> None:
    helper("one", """echo '{"Username": "<token>", "Secret": "token"}'""")
    store = helper("store", "echo credentials not found in native keychain; exit 1")
    config({"credsStore": "store", "credHelpers": {"r.example": "one"}, "auths": {"x.example": coded("u", "file")}})
    assert dict(find("r.example").fields) == {"identitytoken": "token", "serveraddress": "r.example"}
    assert not store.exists()
    assert password(find("x.example")) == "file"  # which the store has not
    assert find("y.example") == Credentials()


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ("echo my-secret-word; exit 3", "has failed with status 3"),
        ("echo my-secret-word", "gave no answer that can be read"),
        ('echo \'{"Username": "my-secret-word"}\'', "gave no answer that can be read"),
    ],
)
def test_a_helper_that_fails_is_named_and_not_quoted(
    config: Config, helper: Callable[[str, str], Path], script: str, words: str
) -> None:
    helper("bad", script)
    config({"credsStore": "bad"})
    assert refusal() == f"no credentials: docker-credential-bad {words}"


def test_a_helper_that_is_not_there(config: Config) -> None:
    config({"credHelpers": {"r.example": "nosuch"}})
    assert refusal() == "no credentials: docker-credential-nosuch cannot be started: No such file or directory"
    assert find("other.example") == Credentials()


@pytest.mark.parametrize(
    "text",
    [
        "{'my-secret-word'",
        "[]",
        '{"auths": []}',
        '{"auths": {"r.example": "my-secret-word"}}',
        '{"auths": {"r.example": {"auth": "my-secret-word"}}}',
        '{"auths": {"r.example": {"auth": "bXktc2VjcmV0"}}}',  # without a colon
    ],
)
@pytest.mark.parametrize("where", ["file", "DOCKER_AUTH_CONFIG", "DOCKER_AUTH"])
def test_what_is_malformed_is_named_and_not_quoted(
    monkeypatch: pytest.MonkeyPatch, config: Config, text: str, where: str
) -> None:
    path = config({})
    if where == "file":
        path.write_text(text, encoding="utf-8")
    else:
        monkeypatch.setenv(where, text)
    words = refusal()
    assert (str(path) if where == "file" else where) in words
    assert "my-s" not in words


def test_credentials_that_docker_py_stumbles_over_are_not_taken_for_an_engine_that_is_not_there(
    config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = config({"auths": {"r.example": {"auth": "bXktc2VjcmV0"}}})
    with pytest.raises(DriverError) as refused:
        connect()
    assert str(refused.value) == f"no credentials: {path}: auth of r.example is not USER:PASSWORD in base64"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[]", "no credentials: {path} is not a JSON object"),
        ('{"auths": 3}', "no credentials: {path}: auths is not a JSON object"),
        ('{"HttpHeaders": null}', "no credentials: {path}: HttpHeaders is not a JSON object"),
        ('{"proxies": 3}', "no credentials: {path}: proxies is not a JSON object"),
        ('{"proxies": {"default": 3}}', "Docker's configuration file cannot be used: "),
    ],
)
def test_so_is_whatever_else_docker_py_takes_for_an_object(config: Config, text: str, words: str) -> None:
    path = config({})
    path.write_text(text, encoding="utf-8")
    with pytest.raises(DriverError) as refused:
        connect()
    assert words.format(path=path) in str(refused.value)


@pytest.mark.parametrize("way", ["DOCKER_CONTEXT", "currentContext"])
def test_a_context_that_is_not_there_is_not_replaced_by_another(
    config: Config, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    monkeypatch.delenv("DOCKER_HOST", raising=False)
    monkeypatch.delenv("DOCKER_CONTEXT", raising=False)
    config({way: "gone"})
    if way == "DOCKER_CONTEXT":
        monkeypatch.setenv(way, "gone")
    with pytest.raises(DriverError, match="there is no docker context named gone") as refused:
        connect()
    assert refused.value.reason is Reason.ENGINE_UNAVAILABLE


@pytest.mark.parametrize("name", ["", None, "default"])
def test_a_context_of_no_name_is_the_default(config: Config, monkeypatch: pytest.MonkeyPatch, name: str | None) -> None:
    for variable in ("DOCKER_HOST", "DOCKER_CONTEXT"):
        monkeypatch.delenv(variable, raising=False)
    config({"currentContext": name})
    _check_context()


@pytest.mark.parametrize("host", ["npipe://", "npipe:////./pipe/docker_engine"])
def test_a_named_pipe_is_refused(monkeypatch: pytest.MonkeyPatch, host: str) -> None:
    monkeypatch.setenv("DOCKER_HOST", host)
    with pytest.raises(DriverError, match="Windows") as refused:
        connect()
    assert refused.value.reason is Reason.ENGINE_UNAVAILABLE


def test_a_file_that_cannot_be_read(config: Config) -> None:
    path = config({})
    path.write_bytes(b"\xff\xfe")
    assert refusal() == f"no credentials: {path} cannot be read: it is not text"


@pytest.mark.parametrize(
    ("given", "fields"),
    [
        ({"username": "u", "password": "p"}, {"username": "u", "password": "p"}),
        (coded("u", "p"), {"username": "u", "password": "p"}),
        ({"identitytoken": "t", "serveraddress": "elsewhere"}, {"identitytoken": "t"}),
    ],
)
def test_what_a_call_brings(given: dict[str, str], fields: dict[str, str]) -> None:
    assert dict(of_call(given, "r.example").fields) == {**fields, "serveraddress": "r.example"}


@pytest.mark.parametrize("given", [{}, {"user": "x"}, "my-secret-word", {"auth": "my-secret-word"}])
def test_what_a_call_brings_in_vain(given: Any) -> None:
    with pytest.raises(DriverError, match="no credentials: the call") as refused:
        of_call(given, "r.example")
    assert "my-s" not in str(refused.value)
