"""The output of calls given to a function of the caller's, which may do with it what it likes."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

import calls
from ledger.read import Reader


@pytest.mark.parametrize("kind", [RuntimeError, ValueError, OSError, SystemExit])
def test_a_function_that_fails_harms_no_call(
    ledger: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, kind: type[BaseException]
) -> None:
    """Neither the one whose output it gets, of which it gets no more, nor any other of the runner."""
    told: list[threading.ExceptHookArgs] = []
    monkeypatch.setattr(threading, "excepthook", told.append)
    heard: list[tuple[int, bytes]] = []
    given: list[bytes] = []

    def fail(_: int, data: bytes) -> None:
        given.append(data)
        (tmp_path / "given").touch()
        raise kind("not mine")

    with calls.Runner(ledger) as runner:
        words = ["sh", "-c", f"echo one; until [ -e {tmp_path}/given ]; do sleep 0.05; done; echo two"]
        first = runner.run(None, words, driver="local", output=fail)
        other = runner.run(None, ["echo", "three"], driver="local", output=lambda *piece: heard.append(piece))
    assert (first.state, other.state) == ("success", "success")
    assert (given, heard) == ([b"one\n"], [(1, b"three\n")])
    assert [(hooked.exc_type, str(hooked.exc_value)) for hooked in told] == [(kind, "not mine")]
    with Reader(ledger) as reader:
        kept = [b"".join(chunk.data for chunk in reader.output(reader.resolve(call.id))) for call in (first, other)]
        assert kept == [b"one\ntwo\n", b"three\n"]
        assert reader.show(first.id)["gaps"] == 0
