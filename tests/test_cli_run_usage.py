"""`calls run` where nothing can be run: wrong options, no engine. One line on stderr says which and why."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from running import IMAGE, kinds, run, shown, told

NO_ENGINE = "unix:///nowhere/docker.sock"


@pytest.fixture(autouse=True)
def no_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is wrong is said without asking one."""
    monkeypatch.setenv("DOCKER_HOST", NO_ENGINE)


@pytest.mark.parametrize("words", [["--nosuch", IMAGE], ["--env"], ["--init=yes", IMAGE]])
def test_no_such_option(words: list[str], ledger: Path) -> None:
    status, out, err = run(*words)
    assert (status, out) == (125, b"")
    assert err.startswith(b"calls: ")
    assert err.count(b"\n") == 1
    assert words[0].partition("=")[0].encode() in err
    assert not ledger.exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "IMAGE: no image given: calls run [OPTIONS] IMAGE [COMMAND] [ARG]..."),
        ([""], "IMAGE: no image given"),
        (["--memory", "1k", IMAGE], "--memory: the engine's minimum is 6m"),
        (["--memory", "lots", IMAGE], "--memory: 'lots' is not a size (write 65536, 64m or 1.5g)"),
        (["--cpus", "0", IMAGE], "--cpus: the engine's minimum is 0.01"),
        (["--cpus", "nan", IMAGE], "--cpus: 'nan' is not a number of CPUs (write 2 or 0.5)"),
        (["--pids-limit", "0", IMAGE], "--pids-limit: input should be greater than or equal to 1"),
        (["--timeout", "0", IMAGE], "--timeout: must be more than zero"),
        (["--timeout", "soon", IMAGE], "--timeout: 'soon' is not a duration (write 90s, 5m, 1h30m or 250ms)"),
        (["--sample", "1ms", IMAGE], "--sample: at least 100ms between samples (or off)"),
        (["--pull", "sometimes", IMAGE], "--pull: input should be 'missing', 'always', 'never' or 'newer'"),
        (["--stop-signal", "FOO", IMAGE], "--stop-signal: 'FOO' is not a signal (write TERM, SIGTERM or 15)"),
        (["--name", "a b", IMAGE], "--name: 'a b' is not a name (letters, digits, _ . - and a letter or digit first)"),
        (["--label", "=x", IMAGE], "--label: a label needs a name (write NAME=value)"),
        (["--env", "=x", IMAGE], "--env: a variable without a name (write NAME=value)"),
        (["--env-file", "/nowhere", IMAGE], "--env-file: cannot read /nowhere: No such file or directory"),
        (["--secret", "NOSUCH", IMAGE], "--secret: NOSUCH: NOSUCH is not set in the environment"),
        (["--no-healthcheck", "--health-cmd", "true", IMAGE], "--no-healthcheck: contradicts --health-cmd"),
        (["-d", "-i", IMAGE], "--detach: contradicts --interactive: nobody would be there to type"),
    ],
)
def test_a_wrong_option(words: list[str], message: str, ledger: Path) -> None:
    assert run(*words) == (125, b"", f"calls: {message}\n".encode())
    assert not ledger.exists()


def test_a_secret_given_as_a_value_is_not_repeated() -> None:
    said = run("--secret", "TOKEN=the-value-itself", IMAGE)
    assert said.status == 125
    assert said.err.startswith(b"calls: --secret: TOKEN: write TOKEN=env:VAR")
    assert b"the-value-itself" not in said.err


def test_what_is_not_text_is_refused() -> None:
    line = b"calls: COMMAND: contains bytes that are not UTF-8: neither engine nor ledger can take them\n"
    assert run(IMAGE, "echo", os.fsdecode(b"\xff")) == (125, b"", line)


def test_no_such_driver(ledger: Path) -> None:
    assert run("--driver", "podman", IMAGE) == (
        125,
        b"",
        b"calls: --driver: there is no driver 'podman' (there are docker, local)\n",
    )
    assert not ledger.exists()


@pytest.mark.parametrize("words", [[], ["-d"]])
def test_no_engine(words: list[str]) -> None:
    said = run(*words, IMAGE, "true")
    assert said[:2] == (125, b"")
    assert told(said) == (
        f"error/engine-unavailable: no Docker Engine at {NO_ENGINE} (no such file or directory). Start it, set "
        "DOCKER_HOST, or run a command of this host with: calls run --driver local -- CMD"
    )
    assert kinds() == ["submitted", "failed", "cleaned"]
    assert shown()["never_ran"]
