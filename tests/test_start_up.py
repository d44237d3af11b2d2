"""How `calls run` begins: each of its two processes loads what it needs, and nothing else: it all takes its time."""

from __future__ import annotations

import json
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


def python(code: str) -> Any:
    """What a process of its own prints, as JSON."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    return json.loads(done.stdout)


def loaded(code: str, *names: str) -> list[str]:
    """Which of these modules are loaded after `code`."""
    return python(f"import json, sys\n{code}\nprint(json.dumps([name for name in {names!r} if name in sys.modules]))")


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
    theirs = ("bz2", "charset_normalizer", "chardet", "csv", "encodings.idna", "getpass", "idna", "importlib.metadata")
    theirs += ("lzma", "subprocess", "tarfile", "traceback", "zipfile")
    assert loaded(RECORDER, *HEAVY, "click", *late, *theirs) == []


def test_a_plain_request_waits_for_no_validation() -> None:
    code = f"{REQUEST}run(['run', '--network', 'none', '-e', 'A=1', '-v', '/a:/b', 'busybox', 'true'])"
    others = ("docker", "requests", "ledger.sqlite", "machine.request", "tempfile", "hashlib", "subprocess")
    assert loaded(code, *HEAVY[:-1], *others) == []


def test_what_must_be_understood_is_validated() -> None:
    assert loaded(f"{REQUEST}run(['run', '--timeout', '9s', 'busybox', 'true'])", "pydantic") == ["pydantic"]


# What stands in for a module is as good as the module.


def test_what_was_spared_is_there_when_it_is_used() -> None:
    code = f"""{RECORDER}
import json, importlib.metadata, tarfile, zipfile
import docker.utils.build, requests.utils, urllib3.http2
print(json.dumps([
    requests.utils.zipfile.ZipFile is zipfile.ZipFile,
    docker.utils.build.tarfile.TarFile is tarfile.TarFile,
    urllib3.http2.version("docker") == importlib.metadata.version("docker"),
]))"""
    assert python(code) == [True, True, True]


def test_a_text_of_unknown_encoding_is_taken_for_utf_8() -> None:
    code = f"""{RECORDER}
import json, requests
answer = requests.Response()
answer._content = "größer".encode()
print(json.dumps([answer.encoding, answer.text]))"""
    assert python(code) == [None, "größer"]


def test_where_nothing_can_be_spared_all_is_loaded() -> None:
    """As with a requests that insists on a guesser."""
    code = """
import sys
class Insists:
    def find_spec(self, name, path=None, target=None):
        if name == "requests" and sys.modules.get("charset_normalizer", "") is None:
            raise RuntimeError("You need either charset_normalizer or chardet installed")
sys.meta_path.insert(0, Insists())
"""
    names = ("docker", "charset_normalizer", "zipfile", "idna")
    assert loaded(code + RECORDER, *names) == list(names)


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
