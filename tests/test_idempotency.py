"""What is asked for twice under one key is run once, and both are told how it ended."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
from running import hear, kinds, shown, under

import calls
from ledger.read import Reader

WAITS = "echo up; until [ -e open ]; do sleep 0.05; done; exit 4"
SLOW = ["sh", "-c", "echo once; sleep 0.3; exit 4"]


def count(ledger: Path) -> int:
    with Reader(ledger) as reader:
        return len(list(reader.calls()))


def test_many_at_once_are_one_call(ledger: Path) -> None:
    with calls.Runner(ledger) as runner:
        futures = [runner.submit(None, SLOW, driver="local", idempotency_key="one") for _ in range(16)]
        results = [future.result(60) for future in futures]
    assert {(call.state, call.exit_code) for call in results} == {("error", 4)}
    assert len({call.id for call in results} | {future.id for future in futures}) == 1
    assert count(ledger) == 1


def test_it_is_not_run_again_after_its_end(ledger: Path) -> None:
    with calls.Runner(ledger) as runner:
        first = runner.run(None, SLOW, driver="local", idempotency_key="one")
    with calls.Runner(ledger) as runner:
        future = runner.submit(None, ["true"], driver="local", idempotency_key="one")
        assert future.id == first.id  # known at once
        assert future.result(60) == first
    assert count(ledger) == 1


def test_another_key_is_another_call_and_none_is_always_another(ledger: Path) -> None:
    with calls.Runner(ledger) as runner:
        for key in ("one", "two", None, None):
            runner.run(None, ["true"], driver="local", idempotency_key=key)
    assert count(ledger) == 4


def test_an_empty_key_is_refused(ledger: Path) -> None:
    with calls.Runner(ledger) as runner, pytest.raises(calls.SpecError, match="--idempotency-key"):
        runner.submit(None, ["true"], driver="local", idempotency_key="")


def test_the_second_command_says_so_and_ends_as_the_first(ledger: Path, command: object) -> None:
    words = ("run", "--driver", "local", "--idempotency-key", "k", "--", *SLOW)
    first, second = command(*words), command(*words)  # type: ignore[operator]
    assert (first.returncode, first.stdout) == (4, "once\n")
    assert (second.returncode, second.stdout) == (4, "")
    assert "is this call already" in second.stderr
    assert count(ledger) == 1


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_ends_the_waiting_and_not_the_call(tmp_path: Path, number: signal.Signals) -> None:
    words = ("run", "--driver", "local", "--idempotency-key", "k", "-w", str(tmp_path), "--", "sh", "-c", WAITS)
    with under(*words) as first:
        first.hear(b"up\n")
        with under(*words) as second:
            assert second.process.stderr is not None
            hear(second.process.stderr.fileno(), b"waiting for its end\n")
            second.send(number)
            said = second.end()
        (tmp_path / "open").touch()
        assert first.end().status == 4
    assert (said.status, said.out) == (130, b"")
    assert said.err == f"calls: no longer waiting for {shown()['id']}, which goes on\n".encode()
    assert "cancel-requested" not in kinds()
