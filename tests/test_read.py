"""Reading a ledger: which call is meant, what it looks like, which calls are listed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ledgers import DIGEST, MIB, START, Call, uid

from ledger.account import iso
from ledger.ledger import Ledger
from ledger.read import Reader
from ledger.sqlite import sqlite3
from machine.errors import AmbiguousCallError, LedgerError, UnknownCallError, UsageError
from machine.states import Reason, State
from machine.units import SECOND

NOW = START + 3600 * SECOND
SHOWN = {
    "id": uid(1),
    "name": "ok",
    "image": "busybox:1",
    "image_digest": DIGEST,
    "driver": "docker",
    "state": "success",
    "reason": "exit",
    "exit_code": 0,
    "signal": None,
    "oom": None,
    "never_ran": False,
    "created_at": "2025-10-09T08:54:20.000Z",
    "started_at": "2025-10-09T08:54:20.500Z",
    "ended_at": "2025-10-09T08:54:22.000Z",
    "seconds": {
        "preparing": 0.25,
        "prepared": 0.25,
        "running": 1.5,
        "health-wait": 0.0,
        "paused": 0.0,
        "total": 2.0,
    },
    "waited_seconds": None,
    "lacking": [],
    "cpu_seconds": 0.5,
    "mem_peak_bytes": 4 * MIB,
    "samples": 2,
    "gaps": 0,
    "pruned": [],
    "evidence": {"exits": {"die": 0, "inspect": 0}},
    "message": None,
    "container": "c" * 64,
    "image_id": DIGEST,
    "network": None,
    "ports": {},
    "spec": {
        "image": "busybox:1",
        "command": ["sh", "-c", "echo out; echo err >&2"],
        "timeout": 90 * SECOND,
        "name": "ok",
    },
    "events": 5,
}


@pytest.fixture
def reader(path: Path) -> Iterator[Reader]:
    """A reader of it, one hour after its start."""
    with Reader(path, now=lambda: NOW) as reader:
        yield reader


def uids(reader: Reader, **options: object) -> list[int]:
    """The numbers of the calls that are listed."""
    return [int(call["id"][-12:], 16) for call in reader.calls(**options)]  # type: ignore[arg-type]


class TestResolve:
    """A CALL is an id, a name, a part of an id, @last or @last-failed."""

    @pytest.mark.parametrize(
        ("text", "number"),
        [
            (uid(3), 3),
            (uid(10).upper(), 10),
            (uid(3)[-12:], 3),
            ("000a", 10),
            ("8000-000000000002", 2),
            ("three", 2),
            ("ok", 7),
            ("@last", 10),
            ("@last-failed", 8),
        ],
    )
    def test_one_call_is_meant(self, reader: Reader, text: str, number: int) -> None:
        assert reader.show(reader.resolve(text))["id"] == uid(number)

    def test_a_prefix_is_enough_where_it_is_unique(self, ledger: Path) -> None:
        with Ledger(ledger) as writing:
            Call(writing, 1)
        with Reader(ledger) as reader:
            assert reader.resolve("0199") == 1

    def test_an_exact_name_goes_before_a_part_of_an_id(self, ledger: Path) -> None:
        with Ledger(ledger) as writing:
            Call(writing, 0xBEEF)
            named = Call(writing, 1, "beef").id
        with Reader(ledger) as reader:
            assert reader.resolve("beef") == named

    @pytest.mark.parametrize("text", ["nope", "99999999", "%", "____", "*", "0199c841_"])
    def test_nothing_matches(self, reader: Reader, text: str) -> None:
        with pytest.raises(UnknownCallError, match="no call") as raised:
            reader.resolve(text)
        assert raised.value.no

    def test_a_part_of_three_characters_is_too_short(self, reader: Reader) -> None:
        with pytest.raises(UnknownCallError, match="4 characters or more"):
            reader.resolve("00a")

    def test_several_match_and_three_are_named(self, reader: Reader) -> None:
        with pytest.raises(AmbiguousCallError) as raised:
            reader.resolve("0199")
        named = "00000000000a (live), 000000000009 (cut), 000000000008 (stopped) and 7 more"
        assert str(raised.value) == f"'0199' matches 10 calls: {named}"
        assert not raised.value.no

    def test_an_unknown_word_with_an_at(self, reader: Reader) -> None:
        with pytest.raises(UsageError, match="@last or @last-failed"):
            reader.resolve("@first")

    def test_an_empty_ledger_has_no_last_call(self, ledger: Path) -> None:
        Ledger(ledger).close()
        with Reader(ledger) as reader, pytest.raises(UnknownCallError, match="no call is recorded yet"):
            reader.resolve("@last")

    def test_no_ledger(self, ledger: Path) -> None:
        with pytest.raises(LedgerError, match="no ledger at"):
            Reader(ledger)
        assert not ledger.exists()


class TestShow:
    """A call as one object."""

    def test_an_ended_call(self, reader: Reader) -> None:
        assert list(reader.show(uid(1)).items()) == list(SHOWN.items())

    def test_a_live_call_counts_up_to_now_and_uses_what_its_latest_samples_say(self, reader: Reader) -> None:
        call = reader.show("live")
        paused = (NOW - START) / SECOND - 600 - 2.5
        assert call["seconds"]["paused"] == paused
        assert call["seconds"]["total"] == paused + 2.5
        assert (call["samples"], call["cpu_seconds"], call["mem_peak_bytes"]) == (2, 1.25, 5 * MIB)
        assert (call["evidence"], call["ended_at"], call["exit_code"]) == ({}, None, None)

    def test_a_peak_kept_by_the_kernel_is_believed(self, ledger: Path) -> None:
        with Ledger(ledger) as writing:
            Call(writing, 1).start().sample(0, 3 * MIB, 7 * MIB).sample(0, 2 * MIB, 9 * MIB)
        with Reader(ledger) as reader:
            assert reader.show("@last")["mem_peak_bytes"] == 9 * MIB

    def test_a_clock_that_was_set_back_takes_no_time_away(self, path: Path) -> None:
        with Reader(path, now=lambda: START) as reader:
            assert reader.show("live")["seconds"]["total"] == 2.5

    @given(st.integers(min_value=0, max_value=2**61))
    def test_times_read_as_in_the_views(self, at: int) -> None:
        view = "SELECT strftime('%Y-%m-%dT%H:%M:%fZ', ? / 1e9, 'unixepoch')"
        at -= at % 1_000_000  # a view goes through a float: within a millisecond it may round the other way
        assert iso(at) == sqlite3.connect(":memory:").execute(view, (at,)).fetchone()[0]


class TestCalls:
    """Which calls are listed."""

    def test_newest_first(self, reader: Reader) -> None:
        assert uids(reader) == [10, 9, 8, 7, 6, 5, 4, 3, 2, 1]

    def test_the_last_ones_and_those_that_live(self, reader: Reader, ledger: Path) -> None:
        assert uids(reader, last=2) == [10, 9]
        with Ledger(ledger) as writing:
            Call(writing, 1).start()
            for number in (2, 3, 4):
                Call(writing, number).start().end(State.SUCCESS, Reason.EXIT)
        with Reader(ledger) as other:
            assert uids(other, last=2) == [4, 3]
            assert uids(other, last=2, live=True) == [4, 3, 1]

    @pytest.mark.parametrize(
        ("only", "found"),
        [
            ([("state", "success")], [9, 7, 5, 1]),
            ([("state", "error"), ("state", "killed")], [6, 4, 2]),
            ([("reason", "exit"), ("state", "error")], [2]),
            ([("name", "ok")], [7, 1]),
            ([("name", "s*")], [8, 3]),
            ([("image", "busybox")], [10, 9, 8, 7, 5, 4, 2, 1]),
            ([("image", "registry")], []),
            ([("image", "registry:5000/app")], [3]),
            ([("image", "nosuch:1")], [6]),
            ([("label", "team")], [3, 2]),
            ([("label", "team=a,b")], [2]),
            ([("label", "team"), ("label", "tier=1")], [2]),
            ([("label", "team=a")], []),
            ([("name", "' OR 1=1 --")], []),
        ],
    )
    def test_filters(self, reader: Reader, only: list[tuple[str, str]], found: list[int]) -> None:
        assert uids(reader, only=only) == found

    def test_the_last_ones_are_counted_among_those_that_match(self, reader: Reader) -> None:
        assert uids(reader, last=2, only=[("state", "success")]) == [9, 7]
