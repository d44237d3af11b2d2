"""Terminals, without an engine: a size on its way to a call, and what becomes of one whose terminal goes."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import running
from held import HeldDriver
from running import LIMIT, kinds, recorder, settled, until
from terminals import opened

import calls
from machine.spec import Spec


def test_a_size_goes_to_the_terminal_of_a_call_that_runs_and_is_not_recorded(ledger: Path) -> None:
    driver = HeldDriver()
    with calls.Runner(ledger, drivers=[driver]) as runner:
        future = runner.submit_spec(Spec(driver="held", name="typed-to", tty=True))
        container = driver.running("typed-to")
        runner.resize(future.id, 20, 50)
        runner.resize("no call of ours", 1, 1)
        container.end()
        future.result(60)
        runner.resize(future.id, 2, 2)
    assert container.sizes == [(20, 50)]
    assert kinds() == ["submitted", "prepared", "started", "succeeded", "cleaned"]


def test_a_call_without_a_terminal_has_no_size(ledger: Path) -> None:
    driver = HeldDriver()
    with calls.Runner(ledger, drivers=[driver]) as runner:
        future = runner.submit_spec(Spec(driver="held", name="plain"))
        container = driver.running("plain")
        runner.resize(future.id, 20, 50)
        container.end()
        future.result(60)
    assert container.sizes == []


def test_the_end_of_a_session_does_not_take_the_successor_of_its_recorder_along(tmp_path: Path) -> None:
    """Whoever is in the session of a terminal is hung up on when its leader ends, as does the `calls` of `ssh -t`."""
    slow = tmp_path / "setsid"  # if anybody needs it for leaving the session
    slow.write_text('#!/bin/sh\nsleep 1\nexec /usr/bin/setsid "$@"\n')
    slow.chmod(0o755)
    words = ("run", "--driver", "local", "--", "sh", "-c", "echo up; exec sleep 60")
    with opened() as terminal, terminal.under(*words, PATH=f"{tmp_path}:{os.environ['PATH']}") as process:
        terminal.hear(b"up\r\n")
        os.kill(recorder(), signal.SIGKILL)
        assert process.wait(LIMIT) == 125
    until(lambda: "adopted" in kinds(), "its successor")
    assert running.calls("kill", "@last").status == 0
    until(settled, "its end")
