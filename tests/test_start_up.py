"""How `calls run` begins: each of its two processes loads what it needs, and nothing else: it all takes its time."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from conducting import Stage
from hypothesis import given
from hypothesis import strategies as st

import calls
from calls.cli.lean import _FOR_ELSEWHERE, _OPTIONAL, _UNUSED
from driver.scripted import exits
from machine.request import value
from machine.spec import Spec
from machine.validation import PLAIN, is_plain

ROOT = Path(__file__).parent.parent
TEXT = st.text(max_size=9)
PLAIN_VALUES: dict[type, st.SearchStrategy[Any]] = {
    str: TEXT,
    bool: st.booleans(),
    tuple: st.lists(TEXT, max_size=3).map(tuple),
    dict: st.dictionaries(TEXT, TEXT, max_size=3),
}
RECORDER = "from calls.cli.lean import load_client; load_client(); import calls.cli.conductor\n"
REQUEST = """
import calls.cli.launch
from calls.cli.group import run
class Child:
    def carry_out(self, order):
        return 0
calls.cli.launch.Child = Child
"""


SOCKET_FILE = "unix:///run/no-engine.sock"


def python(code: str, *words: str, engine: str = SOCKET_FILE) -> Any:
    """What a process of its own prints, as JSON; `words` are its command line, `engine` is where one would be."""
    command = [sys.executable, "-c", code, *words]
    env = {**os.environ, "DOCKER_HOST": engine}
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=env, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    return json.loads(done.stdout)


def loaded(code: str, *names: str, words: tuple[str, ...] = ()) -> list[str]:
    """Which of these modules are loaded after `code`: they, and not what stands in for them."""
    there = f"[name for name in {names!r} if getattr(sys.modules.get(name), '__spec__', None)]"
    return python(f"import json, sys\n{code}\nprint(json.dumps({there}))", *words)


HEAVY = ("pydantic", "rich", "sqlite_utils", "tenacity", "psutil", "prometheus_client", "transitions", "inspect")
OURS = {
    "calls": (
        *(
            "watch",
            "measure",
            "stopping",
            "recover",
            "takeover",
            "orphans",
            "options",
            "metrics",
            "cleaner",
            "cleaning",
        ),
        *("follow",),
    ),
    "driver": ("local", "docker.auth", "docker.pulling", "docker.stored", "docker.stats", "docker.hot", "docker.pool"),
    "ledger": ("read", "migrations", "replay", "verify", "retention"),
    "machine": ("validation", "request", "notation", "history"),
}


def test_the_recorder_waits_for_nothing_that_it_can_do_without() -> None:
    late = [f"{room}.{name}" for room, names in OURS.items() for name in names]
    theirs = {*_UNUSED, *_OPTIONAL, *_FOR_ELSEWHERE, "bz2", "certifi", "csv", "getpass", "lzma", "subprocess"}
    theirs -= {"hashlib"}  # the ledger needs it
    assert loaded(RECORDER, *HEAVY, "click", *late, *theirs, "docker") == ["docker"]


def test_a_plain_request_waits_for_no_validation() -> None:
    code = f"{REQUEST}run(['run', '--network', 'none', '-e', 'A=1', '-v', '/a:/b', 'busybox', 'true'])"
    others = ("docker", "requests", "ledger.sqlite", "machine.request", "tempfile", "hashlib", "subprocess")
    assert loaded(code, *HEAVY[:-1], *others) == []


def test_what_must_be_understood_is_validated() -> None:
    assert loaded(f"{REQUEST}run(['run', '--timeout', '9s', 'busybox', 'true'])", "pydantic") == ["pydantic"]


def test_nor_does_transitions_later() -> None:
    assert loaded(f"{RECORDER}import transitions", "transitions", "inspect", "ast") == ["transitions"]


@pytest.mark.parametrize(
    ("words", "found"),
    [
        ("--driver local true", []),
        ("--driver=local true", []),
        ("--driver docker --driver other busybox", []),  # its own urllib3 is to have TLS
        ("--driver other busybox --driver docker", []),
        ("--driver=docker busybox true", ["docker"]),
    ],
)
def test_a_call_of_another_driver_waits_for_no_docker_py(words: str, found: list[str]) -> None:
    assert loaded(RECORDER, "docker", words=("run", *words.split())) == found


# What stands in for a module is as good as the module.


def test_what_is_taken_out_of_a_module_by_name_is_there() -> None:
    for module, names in _UNUSED.items():
        found = importlib.import_module(module)
        assert all(callable(getattr(found, name)) for name in names), module


def test_what_was_spared_is_there_when_it_is_used() -> None:
    code = f"""{RECORDER}
import json, importlib.metadata, inspect, ssl, tarfile, zipfile, urllib.request
import docker.client, docker.models.containers, docker.utils.build, requests.utils, urllib3.http2
print(json.dumps([
    requests.utils.zipfile.ZipFile is zipfile.ZipFile,
    docker.utils.build.tarfile.TarFile is tarfile.TarFile,
    urllib3.http2.version("docker") == importlib.metadata.version("docker"),
    requests.utils.getproxies() == urllib.request.getproxies(),
    type(docker.client.ContainerCollection(client=None)) is docker.models.containers.ContainerCollection,
    inspect.isfunction(inspect.isfunction),
    ssl.create_default_context() is not None,
]))"""
    assert python(code) == [True] * 7


def test_a_pattern_is_as_good_before_it_is_compiled() -> None:
    code = f"""{RECORDER}
import json, re, urllib3.util.url
pattern = urllib3.util.url._IPV6_ADDRZ_RE
print(json.dumps([
    type(pattern) is not re.Pattern,
    isinstance(pattern, re.Pattern),
    bool(pattern.match("[::1]")),
    re.sub(pattern, "x", "[::1]"),
    re.compile(pattern) is pattern,
    type(re.compile("new")) is re.Pattern,
]))"""
    assert python(code) == [True, True, True, "x", True, True]


TLS = f"{RECORDER}\nimport json, requests, urllib3.util.ssl_ as found\n"


@pytest.mark.parametrize("engine", ["tcp://127.0.0.1:2376", "tcp://unix:1", "https://127.0.0.1", "ssh://somewhere"])
def test_an_engine_elsewhere_is_reached_by_tls(engine: str) -> None:
    code = f"{TLS}print(json.dumps([found.SSLContext is not None, requests.certs.where() != '']))"
    assert python(code, engine=engine) == [True, True]


@pytest.mark.parametrize(
    ("file", "text", "variables", "by_tls"),
    [
        ("home/.docker/config.json", '{"auths": {}}', (), False),
        ("home/.docker/config.json", '{"auths": {}}', ("DOCKER_CONTEXT",), True),
        ("home/.docker/config.json", '{"currentContext": "there"}', (), True),
        ("home/.docker/config.json", r'{"\u0063urrentContext": "there"}', (), True),
        ("home/.dockercfg", '{"currentContext": "there"}', (), True),
        ("config.json", '{"currentContext": "there"}', (), False),
        ("config.json", '{"currentContext": "there"}', ("DOCKER_CONFIG",), True),
    ],
)
def test_so_is_the_one_of_a_context(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file: str, text: str, variables: tuple[str, ...], *, by_tls: bool
) -> None:
    for variable in ("DOCKER_CONTEXT", "DOCKER_CONFIG"):
        monkeypatch.delenv(variable, raising=False)
    for variable in variables:
        monkeypatch.setenv(variable, str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / file).write_text(text)
    assert python(f"{TLS}print(json.dumps(found.SSLContext is not None))", engine="") == by_tls


@pytest.mark.parametrize("engine", [SOCKET_FILE, "tcp://[::1]:2375"])
def test_an_address_of_version_6_is_understood(engine: str) -> None:
    code = f"{RECORDER}import json, urllib.parse\nprint(json.dumps(urllib.parse.urlsplit('tcp://[::1]:2375').port))"
    assert python(code, engine=engine) == 2375


def test_a_text_of_unknown_encoding_is_taken_for_utf_8() -> None:
    code = f"""{RECORDER}
import json, requests
answer = requests.Response()
answer._content = "größer".encode()
print(json.dumps([answer.encoding, answer.text]))"""
    assert python(code) == [None, "größer"]


@pytest.mark.parametrize(
    ("where", "missed"), [("requests", "charset_normalizer"), ("requests.adapters", "ssl"), ("docker.api", "ssl")]
)
def test_where_nothing_can_be_spared_all_is_loaded(where: str, missed: str) -> None:
    """As with a requests that insists on a guesser, or on TLS."""
    code = f"""
import sys
class Insists:
    def find_spec(self, name, path=None, target=None):
        if name == {where!r} and sys.modules.get({missed!r}, "") is None:
            raise RuntimeError("it cannot do without")
sys.meta_path.insert(0, Insists())
{RECORDER}import driver.docker, http.client, urllib3
assert urllib3.util.ssl_.SSLContext and http.client.HTTPSConnection
"""
    names = ("docker", "charset_normalizer", "ssl", "zipfile", "idna")
    assert loaded(code, *names) == list(names)


# What is of its type already.


@pytest.mark.parametrize("option", PLAIN)
def test_a_plain_value_is_what_validating_makes_of_it(option: str) -> None:
    @given(PLAIN_VALUES[PLAIN[option]])
    def same(plain: Any) -> None:
        assert is_plain(option, plain)
        made = value(option, plain)
        assert (type(made), made) == (type(plain), plain)

    same()


@pytest.mark.parametrize(
    ("option", "given_value"),
    [
        ("image", 1),
        ("init", 1),
        ("init", "yes"),
        ("command", ["true"]),
        ("command", ("true", 1)),
        ("env", {"A": 1}),
        ("env", {1: "A"}),
        ("network", ("a", "b")),
        ("name", "a"),
        ("pull", "always"),
    ],
)
def test_any_other_value_is_validated(option: str, given_value: object) -> None:
    assert not is_plain(option, given_value)


def test_only_what_a_spec_has_can_be_plain() -> None:
    assert PLAIN.keys() <= set(Spec._fields)


# What is loaded while the engine makes the container.


def test_without_a_thread_to_be_had_it_is_loaded_when_it_is_needed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin, refused = threading.Thread.start, []

    def start(thread: threading.Thread) -> None:
        if thread.name == "loader":
            refused.append(thread)
            raise RuntimeError("can't start new thread")
        begin(thread)

    with Stage(tmp_path / "ledger.db", exits(3, after=1)) as stage:
        monkeypatch.delitem(sys.modules, "calls.watch", raising=False)
        monkeypatch.delattr(calls, "watch", raising=False)  # else there would be two of it from now on
        monkeypatch.setattr(threading.Thread, "start", start)
        assert (stage.conduct().ended.exit_code, len(refused)) == (3, 1)


def test_who_is_to_stay_can_be_ended_whatever_its_parent_held_back() -> None:
    code = """
import os, signal
from calls.cli.launch import detached
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGHUP})
print(detached(lambda answers: os.write(answers, repr(signal.pthread_sigmask(signal.SIG_BLOCK, ())).encode())))
"""
    assert subprocess.run([sys.executable, "-c", code], check=True, capture_output=True).stdout == b"set()\n"
