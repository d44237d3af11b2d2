"""A fault of our own: the call is not left open, its process not left running, and the caller is told."""

from __future__ import annotations

from pathlib import Path

import pytest

import calls
from calls.conduct import Conductor
from ledger.read import Reader


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
