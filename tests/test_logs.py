"""`calls logs` beyond printing: since when, how fast, with nobody reading, and without a runner."""

from __future__ import annotations

import os
import signal
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ledgers import Call
from running import IMAGE, calls, kinds, run, settled, shown, under, until, verdict

from calls.cli import logs
from calls.cli.group import run as command_line
from calls.pace import Pace
from ledger.ledger import Ledger
from ledger.read import Reader
from ledger.sqlite import connect_writer, scalar
from machine.states import Reason, State

MIB = 2**20
SECONDS = "2025-10-09T08:54:{}Z"
"""A time in the minute of call 1, which starts to run at 20.5 s."""


def spoken(ledger: Path) -> None:
    """Five lines on both streams, half a second apart from 20.5 s on; the third is written in two pieces."""
    with Ledger(ledger) as writing:
        call = Call(writing, 1).start().write(1, 0, b"one\n").later(0.5).write(2, 0, b"two\n")
        call.later(0.5).write(1, 4, b"th").later(0.5).write(1, 6, b"ree\nfour\n").later(0.5).write(2, 4, b"five\n")
        call.end(State.SUCCESS, Reason.EXIT)


@pytest.mark.parametrize(
    ("options", "out", "err"),
    [
        ((SECONDS.format("20.5"),), b"one\nthree\nfour\n", b"two\nfive\n"),
        ((SECONDS.format("21"),), b"three\nfour\n", b"two\nfive\n"),
        ((SECONDS.format("21.001"),), b"three\nfour\n", b"five\n"),
        ((SECONDS.format("22"),), b"ree\nfour\n", b"five\n"),
        ((SECONDS.format("22").replace("Z", ""),), b"ree\nfour\n", b"five\n"),
        (("2025-10-09T10:54:22+02:00",), b"ree\nfour\n", b"five\n"),
        (("2025-10-10",), b"", b""),
        (("10m",), b"", b""),
        (("36500d",), b"one\nthree\nfour\n", b"two\nfive\n"),
        ((SECONDS.format("21"), "--stdout"), b"three\nfour\n", b""),
        ((SECONDS.format("21"), "--tail", "2"), b"four\n", b"five\n"),
        ((SECONDS.format("22"), "--tail", "9"), b"ree\nfour\n", b"five\n"),
        ((SECONDS.format("22"), "--tail", "0"), b"", b""),
        ((SECONDS.format("22"), "-f"), b"ree\nfour\n", b"five\n"),
    ],
)
def test_since_a_time_or_for_so_long(ledger: Path, options: tuple[str, ...], out: bytes, err: bytes) -> None:
    spoken(ledger)
    assert calls("logs", "@last", "--since", *options) == (0, out, err)


def test_a_time_that_was_shown_includes_what_it_was_shown_with(ledger: Path) -> None:
    with Ledger(ledger) as writing:
        call = Call(writing, 1).start().write(1, 0, b"before\n")
        call.at += 1_000_000_400
        call.write(1, 7, b"then\n").end(State.SUCCESS, Reason.EXIT)
    stamp = calls("logs", "-t", "@last").out.splitlines()[1].split()[0].decode()
    assert calls("logs", "@last", "--since", stamp).out == b"then\n"


@pytest.mark.parametrize("text", ["soon", "1700000000", "1700000000.5", "", "12:61", "10 minutes ago", "-5m"])
def test_what_is_no_moment_is_refused_by_its_option(ledger: Path, text: str) -> None:
    spoken(ledger)
    status, out, err = calls("logs", "@last", f"--since={text}")
    assert (status, out) == (2, b"")
    assert err.decode() == (
        f"calls: --since: {text!r} is no moment: write 10m, 90s, or a time (2025-10-09T08:54:21.5Z, UTC)\n"
    )


def test_a_hole_before_the_time_is_not_spoken_of_and_one_after_it_is(ledger: Path) -> None:
    with Ledger(ledger) as writing:
        call = Call(writing, 1).start().write(1, 0, b"a\n").later(1).write(1, 100, b"b\n")
        call.later(1).write(1, 200, b"c\n").end(State.SUCCESS, Reason.EXIT)
    assert calls("logs", "@last", "--since", SECONDS.format("22")).err.count(b"98 bytes of stdout are missing") == 1
    assert calls("logs", "@last").err.count(b"98 bytes of stdout are missing") == 2


# How fast.


class Wrist:
    """A clock that goes on when somebody sleeps."""

    def __init__(self) -> None:
        self.now = 0.0

    def sleep(self, seconds: float) -> None:
        assert seconds > 0
        self.now += seconds


@given(st.lists(st.tuples(st.integers(0, 200_000), st.floats(0, 0.2)), max_size=100))
def test_never_more_than_a_burst_above_the_rate_and_never_slower_than_it(pieces: list[tuple[int, float]]) -> None:
    wrist = Wrist()
    pace = Pace(1_000_000, 300_000, lambda: wrist.now, wrist.sleep)
    sent: list[tuple[float, int]] = []
    for size, rest in pieces:
        wrist.now += rest
        asked, idle = wrist.now, not sent or wrist.now - sent[-1][0] >= 0.3
        pace.spend(size)
        waited = wrist.now - asked
        assert waited <= size / 1_000_000 + 1e-6  # whatever was sent before: it was waited for then
        assert not (idle and waited)
        sent.append((wrist.now, size))
    for first, (begun, _) in enumerate(sent):
        for last in range(first, len(sent)):
            came = sum(size for _, size in sent[first : last + 1])
            assert came <= 300_000 + (sent[last][0] - begun) * 1_000_000 + sent[first][1] + 1e-3


def test_a_long_stream_takes_as_long_as_the_rate_says() -> None:
    wrist = Wrist()
    pace = Pace(logs.RATE, logs.RATE, lambda: wrist.now, wrist.sleep)
    for _ in range(1000):
        pace.spend(MIB)
    assert wrist.now == pytest.approx((1000 - 10) / 10)  # and not eleven days, at a byte a second


@pytest.mark.parametrize(
    ("words", "paced", "printed"),
    [
        ((), 0, 25_000),
        (("-f",), 25_000, 25_000),
        (("-f", "--stderr"), 0, 0),
        (("-f", "--tail", "0"), 0, 0),
        (("-f", "--since", "2025-10-10"), 0, 0),
    ],
)
def test_what_is_followed_is_paced_and_nothing_else(
    ledger: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    words: tuple[str, ...],
    paced: int,
    printed: int,
) -> None:
    spent = []

    class Counting(Pace):
        def spend(self, count: int) -> None:
            spent.append(count)
            super().spend(count)

    with Ledger(ledger) as writing:
        call = Call(writing, 1).start()
        for number in range(25):
            call.write(1, number * 1000, b"x" * 1000)
        call.end(State.SUCCESS, Reason.EXIT)
    monkeypatch.setattr(logs, "Pace", Counting)
    assert command_line(["logs", *words, "@last"]) == 0
    assert (sum(spent), len(capfd.readouterr().out)) == (paced, printed)


# Who reads, and who writes.


def test_a_reader_that_stops_reading_slows_neither_the_call_nor_the_ledger(ledger: Path) -> None:
    script = "echo up; while [ ! -e go ]; do sleep 0.05; done; head -c 8000000 /dev/zero; echo end"
    here = ("--driver", "local", "--log-limit", "32m", "-w", str(ledger.parent))
    with under("run", *here, "--", "sh", "-c", script) as call:
        call.hear(b"up\n")
        with under("logs", "-f", "@last") as reader:
            reader.hear(b"up\n")
            (ledger.parent / "go").touch()
            assert len(call.end().out) == 8_000_007
            assert verdict() == ("success", "exit", 0)
            until(settled, "its last word")
            assert reader.process.poll() is None  # it has more to say than a pipe holds
            with closing(connect_writer(ledger)) as writing:
                assert scalar(writing, "PRAGMA wal_checkpoint(TRUNCATE)") == 0  # nor does it hold the past in place
            assert reader.end().out == b"up\n" + bytes(8_000_000) + b"end\n"


def test_what_a_call_writes_is_followed_while_it_runs(ledger: Path) -> None:
    script = "echo up; while [ ! -e go ]; do sleep 0.05; done; echo done"
    with under("run", "--driver", "local", "-w", str(ledger.parent), "--", "sh", "-c", script) as call:
        call.hear(b"up\n")
        with under("logs", "-f", "@last") as reader:
            reader.hear(b"up\n")
            (ledger.parent / "go").touch()
            assert reader.end() == (0, b"up\ndone\n", b"")
        call.end()


def orphan(said: object) -> str:
    """The id of the detached call that was begun by `said`; its runner is killed."""
    uid: str = said.out.decode().strip()  # type: ignore[attr-defined]
    with Reader(Path(os.environ["CALLS_LEDGER"])) as reader:
        (mine,) = (call for call in reader.unsettled() if call.uid == uid)
    assert mine.lease is not None
    os.kill(mine.lease.pid, signal.SIGKILL)
    return uid


def test_following_a_call_whose_runner_died_ends_when_the_call_ends(ledger: Path) -> None:
    wait = "while [ ! -e go ]; do sleep 0.05; done"
    uid = orphan(calls("run", "-d", "--driver", "local", "-w", str(ledger.parent), "--", "sh", "-c", wait))
    with under("logs", "-f", uid) as reader:
        until(lambda: "adopted" in kinds(uid), "somebody to take it over")
        (ledger.parent / "go").touch()
        assert reader.end()[:2] == (0, b"")  # (if it waits long for an heir, it says so)
    assert (verdict(uid), kinds(uid)[-1]) == (("error", "lost", None), "cleaned")


@pytest.mark.engine
def test_following_a_call_whose_runner_died_brings_what_it_writes_after(ledger: Path, tmp_path: Path) -> None:
    (tmp_path / "gate").mkdir()
    script = "echo one; while [ ! -e /gate/go ]; do sleep 0.05; done; echo two; exit 3"
    uid = orphan(run("-d", "-v", f"{tmp_path}/gate:/gate", IMAGE, "sh", "-c", script))
    with under("logs", "-f", uid) as reader:
        reader.hear(b"one\n")
        until(lambda: "adopted" in kinds(uid), "somebody to take it over")
        (tmp_path / "gate" / "go").touch()
        assert reader.end()[:2] == (0, b"one\ntwo\n")
    assert (verdict(uid), shown(uid)["evidence"]["recovered"]) == (("error", "exit", 3), True)
