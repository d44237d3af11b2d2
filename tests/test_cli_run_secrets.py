"""A secret given to `calls run` is in no byte of what is recorded or said, wherever it turns up."""

from __future__ import annotations

import base64
import json
import os
import re
import signal
import uuid
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import docker
import pytest
import running
from running import IMAGE, calls, kept, run, shown

from ledger.read import Reader

pytestmark = pytest.mark.engine

TOKEN, FILE, PASSWORD, COMMAND = "tok-5f1d77c0a9", "from the file\nin two lines", "pass«wörd»1234", "cmd-99aa88bb77"
SECRETS = (TOKEN, FILE, PASSWORD, COMMAND)
MARK = "‹redacted›"
PRINT = r"""
    printf '%s|%s|%s|%s\n' "$TOKEN" "$T" "$MY_PASSWORD" "$C"
    printf %s "${TOKEN%77c0a9}"; sleep 0.3; printf '%s\n' 77c0a9
    i=0; while [ $i -lt 3000 ]; do printf %s "$TOKEN"; i=$((i + 1)); done
"""


@pytest.fixture(autouse=True)
def nothing_left(engine: docker.APIClient) -> Iterator[None]:
    with running.nothing_left(engine):
        yield


@pytest.fixture
def options(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A secret from each source, and one that is known by its name."""
    (tmp_path / "given").write_text(f"{FILE}\n")
    monkeypatch.setenv("TOKEN", TOKEN)
    given = ["TOKEN", f"T=file:{tmp_path}/given", f"C=cmd:echo {COMMAND[:5]}''{COMMAND[5:]}"]
    return [*(word for secret in given for word in ("--secret", secret)), "-e", f"MY_PASSWORD={PASSWORD}"]


@pytest.fixture
def reader(ledger: Path) -> Iterator[Reader]:
    """Keeps the ledger open, so that whoever closes it last does not tidy its write-ahead log away."""
    assert calls("run", "--driver", "local", "--", "true").status == 0
    with Reader(ledger) as reader:
        yield reader


def leaks(folder: Path) -> list[tuple[str, str]]:
    """The files below `folder`, byte by byte, that have a secret."""
    files = [path for path in folder.rglob("*") if path.is_file() and path.name != "given"]
    return [(path.name, secret) for path in files for secret in SECRETS if secret.encode() in content(path)]


def content(path: Path) -> bytes:
    """What is in a file, which somebody may remove now."""
    with suppress(FileNotFoundError):
        return path.read_bytes()
    return b""


def test_printed_by_the_container(options: list[str], reader: Reader, tmp_path: Path) -> None:
    printed = f"{TOKEN}|{FILE}|{PASSWORD}|{COMMAND}\n{TOKEN}\n{TOKEN * 3000}"
    said = run(*options, "--label", f"label={TOKEN}", IMAGE, "sh", "-c", PRINT, "sh", TOKEN)
    assert said == (0, printed.encode(), b"")
    assert (tmp_path / "ledger.db-wal").stat().st_size > 0
    assert leaks(tmp_path) == []
    for secret in SECRETS:
        printed = printed.replace(secret, MARK)
    assert kept(1).decode() == printed
    assert calls("logs", "@last").out.decode() == printed


def test_printed_to_stderr_and_cut_by_the_limit(options: list[str], reader: Reader, tmp_path: Path) -> None:
    said = run(*options, "--log-limit", "999", IMAGE, "sh", "-c", f"({PRINT}) >&2")
    assert said.err.count(TOKEN.encode()) == 3002
    assert leaks(tmp_path) == []
    assert len(kept(2)) == 999


def test_what_is_shown_instead(options: list[str], reader: Reader) -> None:
    said = run(*options, "-e", "PLAIN=plain", "--json", IMAGE, "echo", f"is {TOKEN}, really")
    described = json.loads(said.err)
    assert not [secret for secret in SECRETS if secret in said.err.decode()]
    assert described == shown()
    assert {**described, "orphan": False} == json.loads(calls("show", "--json", "@last").out)
    spec = described["spec"]
    assert (spec["env"], spec["command"]) == ({"PLAIN": "plain"}, ["echo", f"is {MARK}, really"])
    assert sorted(spec["secret"]) == ["C", "MY_PASSWORD", "T", "TOKEN"]
    assert all(re.fullmatch(r"hmac-sha256:[0-9a-f]{32}", mark) for mark in spec["secret"].values())
    for name in ("show", "events", "ps"):
        told = calls(name, *(["@last"] if name != "ps" else [])).out.decode()
        assert not [secret for secret in SECRETS if secret in told]


def test_a_fingerprint_tells_equal_from_different(options: list[str], reader: Reader) -> None:
    marks = []
    for password in (PASSWORD, PASSWORD, PASSWORD + "5"):
        assert run("-e", f"MY_PASSWORD={password}", IMAGE, "true").status == 0
        marks.append(shown()["spec"]["secret"]["MY_PASSWORD"])
    assert marks[0] == marks[1] != marks[2]


def test_in_the_engines_own_words(options: list[str], reader: Reader, tmp_path: Path) -> None:
    said = run(*options, IMAGE, COMMAND)
    assert (said.status, said.out) == (127, b"")
    assert f'exec: "{MARK}": executable file not found' in said.err.decode()
    assert leaks(tmp_path) == []


def test_in_the_middle_of_an_emergency(
    options: list[str], reader: Reader, tmp_path: Path, engine: docker.APIClient
) -> None:
    """The recorder is killed: what it had written by then has no secret either."""
    script = "echo up; while :; do printf '%s\n' \"$TOKEN\"; sleep 0.01; done"
    with running.under(*running.RUN, *options, IMAGE, "sh", "-c", script) as call:
        call.hear(b"up\n")
        running.until(lambda: kept(1).count(MARK.encode()) > 9, "some output in the ledger")
        os.kill(running.recorder(), signal.SIGKILL)
        assert call.end().status == 125
    assert leaks(tmp_path) == []
    running.until(lambda: "adopted" in running.kinds(), "its successor")
    assert calls("kill", "@last").status == 0
    running.until(running.settled, "its end")
    assert leaks(tmp_path) == []


def test_what_the_image_sets(reader: Reader, tmp_path: Path, engine: docker.APIClient) -> None:
    """Printed by a call that is watched to its end, and by one whose recorder is killed; and in a command beside it."""
    name = f"test-secret-{os.getpid()}-{uuid.uuid4().hex[:8]}"
    made = engine.create_container(IMAGE, ["true"])
    image = engine.commit(made, repository=name, conf={"Env": [f"DB_PASSWORD={TOKEN}"]})["Id"]
    engine.remove_container(made)
    try:
        assert run(name, "sh", "-c", "echo $DB_PASSWORD; echo $DB_PASSWORD >&2") == (
            0,
            f"{TOKEN}\n".encode(),
            f"{TOKEN}\n".encode(),
        )
        assert (kept(1), kept(2)) == (f"{MARK}\n".encode(), f"{MARK}\n".encode())
        with running.under(
            *running.RUN,
            name,
            "sh",
            "-c",
            "echo up; trap 'echo $DB_PASSWORD; exit 0' TERM; while :; do sleep 0.05; done",
        ) as call:
            call.hear(b"up\n")
            assert calls("exec", "@last", "echo", TOKEN).out == f"{TOKEN}\n".encode()
            os.kill(running.recorder(), signal.SIGKILL)
            assert call.end().status == 125
        running.until(lambda: "adopted" in running.kinds(), "its successor")
        assert calls("cancel", "@last").status == 0
        running.until(running.settled, "its end")
        assert kept(1) == f"up\n{MARK}\n".encode()
        assert leaks(tmp_path) == []
    finally:
        engine.remove_image(image, force=True)


def test_what_is_not_promised(options: list[str], reader: Reader) -> None:
    """An encoded form is not recognised, and a value of three bytes is not looked for."""
    said = run(*options, "-e", "PIN_KEY=123", IMAGE, "sh", "-c", 'printf %s "$TOKEN" | base64; echo "$PIN_KEY"')
    assert said.out.split() == [base64.b64encode(TOKEN.encode()), b"123"]
    assert kept(1) == said.out
