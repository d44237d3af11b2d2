"""A fault of our own: the call is not left open, its process not left running, and the caller is told."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest
from running import LIMIT, until

import calls
from calls.conduct import Conductor
from ledger.read import Reader
from machine.errors import DriverError


class Mishap(Exception):  # noqa: N818
    """What nobody thought of."""


def test_an_error_nobody_thought_of_ends_the_call_as_our_fault(ledger: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise Mishap("no idea")

    monkeypatch.setattr(Conductor, "_drain", fail)
    with calls.Runner(ledger) as runner:
        future = runner.submit(None, ["sleep", "0"], driver="local")
        with pytest.raises(Mishap):
            future.result(60)
    with Reader(ledger) as reader:
        shown = reader.show(future.id)
    assert (shown["state"], shown["reason"], shown["message"]) == ("error", "runner-fault", "Mishap: no idea")


def test_without_a_thread_for_it_a_call_is_refused_and_never_carried_out(
    ledger: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none_left(_: object) -> None:
        raise RuntimeError("can't start new thread")

    words = ["sh", "-c", f"echo ran >> {tmp_path}/ran"]
    with calls.Runner(ledger) as runner:
        with monkeypatch.context() as poor:
            poor.setattr(ThreadPoolExecutor, "_adjust_thread_count", none_left)
            with pytest.raises(DriverError, match="no thread for the call"):
                runner.submit(None, words, driver="local")
        assert runner.run(None, words, driver="local").state == "success"
    assert (tmp_path / "ran").read_text() == "ran\n"
    with Reader(ledger) as reader:
        assert len(list(reader.calls())) == 1


def test_a_call_that_another_thread_has_taken_is_carried_out_and_not_refused(
    ledger: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin = ThreadPoolExecutor._adjust_thread_count

    def none_left(pool: ThreadPoolExecutor) -> None:
        begin(pool)
        until(pool._work_queue.empty, "somebody to take it")
        raise RuntimeError("can't start new thread")

    with calls.Runner(ledger) as runner:
        monkeypatch.setattr(runner.slots._threads, "_adjust_thread_count", partial(none_left, runner.slots._threads))
        assert runner.submit(None, ["sleep", "0.2"], driver="local").result(LIMIT).state == "success"
