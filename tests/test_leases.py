"""Which runner lives: a pid alone is never believed, and where no process can be seen the heartbeat decides."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from contract import Ear
from invariants import invariants
from ledgers import OWNER, Call
from recovering import Succession
from running import LIMIT, until

import calls
from calls import identity
from calls.cli import common
from calls.identity import STALE, alive
from calls.orphans import orphans
from calls.recover import Recovery
from driver.protocol import Labels
from driver.scripted import Script, ScriptedDriver, exits
from ledger import lease
from ledger.lease import Lease
from ledger.ledger import Ledger
from ledger.read import Reader
from ledger.sqlite import connect_reader, connect_writer
from machine import facts
from machine.spec import Spec
from machine.states import Kind
from machine.units import SECOND

NOW = time.time_ns()


def lease_of(pid: int, **changes: object) -> Lease:
    """The lease of a process of this host, as it would stand in a ledger."""
    mine = identity.owner("runner")
    made = Lease("runner", mine.host, mine.boot, pid, identity.started(pid), mine.pid_namespace, NOW)
    return made._replace(**changes)  # type: ignore[arg-type]


@pytest.fixture
def process() -> Iterator[subprocess.Popen[bytes]]:
    """A process that lives until the test has ended it."""
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        yield process
        process.kill()


def test_a_process_that_is_there_lives_however_old_its_heartbeat(process: subprocess.Popen[bytes]) -> None:
    assert alive(lease_of(process.pid, beat_at=0), NOW)


def test_a_stopped_process_lives(process: subprocess.Popen[bytes]) -> None:
    """It is not taken over: it goes on as soon as it is woken."""
    process.send_signal(signal.SIGSTOP)
    assert alive(lease_of(process.pid, beat_at=0), NOW)
    process.send_signal(signal.SIGCONT)


def test_row_42_another_process_with_the_same_pid_is_not_taken_for_it(process: subprocess.Popen[bytes]) -> None:
    before = identity.started(process.pid) - 1
    assert not alive(lease_of(process.pid, pid_started=before), NOW)


def test_a_process_that_is_gone_or_only_its_zombie_does_not_live(process: subprocess.Popen[bytes]) -> None:
    held = lease_of(process.pid)
    process.kill()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # it stays a zombie
    assert not alive(held, NOW)
    process.wait()
    assert not alive(held, NOW)


def test_row_45_a_boot_that_is_over_took_its_processes_along() -> None:
    assert not alive(lease_of(os.getpid(), boot="the one before"), NOW)


@pytest.mark.parametrize("elsewhere", [{"host": "another", "boot": "its own"}, {"pid_namespace": 1}])
def test_where_its_process_cannot_be_seen_the_heartbeat_decides(elsewhere: dict[str, object]) -> None:
    far = lease_of(os.getpid(), **elsewhere)
    assert alive(far, NOW + STALE - 1)
    assert not alive(far, NOW + STALE)


def test_a_runner_holds_its_lease_from_its_first_call_to_its_end(ledger: Path) -> None:
    def leases() -> list[str]:
        with closing(connect_reader(ledger)) as connection:
            return [row[0] for row in connection.execute("SELECT runner FROM lease")]

    with calls.Runner(ledger) as runner:
        assert leases() == []
        runner.run(None, ["true"], driver="local")
        assert leases() == [runner.id]
    assert leases() == []


def test_the_heartbeat_is_renewed(ledger: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "BEAT", 0.0)
    owner = identity.owner("runner")
    with Ledger(ledger, owner=owner) as open_ledger:
        Call(open_ledger, 1)
        first = open_ledger.unsettled()[0].lease
        assert first is not None
        until(lambda: open_ledger.unsettled()[0].lease != first, "another heartbeat")
        seen = open_ledger.unsettled()[0].lease
        assert seen is not None
        assert seen.beat_at > first.beat_at


def test_all_calls_of_a_runner_that_is_gone_are_orphans(ledger: Path) -> None:
    with Ledger(ledger, owner=OWNER) as open_ledger:
        for number in range(3):
            Call(open_ledger, number)
        unsettled = open_ledger.unsettled()
    assert [call.call_id for call in orphans(unsettled, time.time_ns() + STALE)] == [1, 2, 3]


def test_row_37_two_runners_of_one_ledger_leave_each_others_calls_alone(ledger: Path, tmp_path: Path) -> None:
    script = f"while [ ! -e {tmp_path}/open ]; do sleep 0.05; done"
    with calls.Runner(ledger) as one, calls.Runner(ledger) as other:
        mine = one.submit(None, ["sh", "-c", script], driver="local")
        its = other.submit(None, ["sh", "-c", script], driver="local")
        until(lambda: len(one.ledger.unsettled()) == 2, "both in the ledger")
        assert list(Recovery(one).settle()) == []
        (tmp_path / "open").touch()
        assert [future.result(LIMIT).state for future in (mine, its)] == ["success", "success"]
    with Reader(ledger) as reader:
        kinds = [event["kind"] for call in (1, 2) for event in reader.events(call)]
    assert "adopted" not in kinds


def test_row_39_containers_of_another_ledger_are_never_touched(ledger: Path) -> None:
    with Succession(ledger, exits(0, after=60)) as stage:
        stage.die(3, written=True)
        stage.driver.away = False
        labels = Labels("another-ledger", "runner")
        other = ScriptedDriver(stage.clock, Script(), containers=stage.driver.containers, labels=labels)
        strange = other.prepare("theirs", stage.conductor.spec, stage.conductor)
        stage.recover(600)
        assert strange.inspect().status == "created"
        assert stage.call()["state"] == "success"


@pytest.mark.parametrize(("code", "verdict"), [(255, "engine-lost"), (137, "engine-lost"), (3, "exit")])
def test_row_45_after_a_reboot_what_the_engine_lost_sight_of_is_lost(ledger: Path, code: int, verdict: str) -> None:
    with Succession(ledger, exits(code, after=5, seen=False)) as stage:
        stage.die(3, written=True)
        stage.recover(600)
        assert (stage.call()["state"], stage.call()["reason"]) == ("error", verdict)
        assert stage.call()["evidence"]["exits"] == {"inspect": code}
        invariants(ledger)


def test_row_41_a_runner_that_was_stopped_for_a_minute_goes_on_and_nobody_takes_over(
    ledger: Path, tmp_path: Path
) -> None:
    """By its process, not by its heartbeat: the signal is real, the minute is not."""
    words = [
        sys.executable,
        "-m",
        "calls.cli",
        "run",
        "--driver",
        "local",
        "--",
        "sh",
        "-c",
        f"echo up; while [ ! -e {tmp_path}/open ]; do sleep 0.05; done; exit 4",
    ]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as front:
        assert front.stdout is not None
        assert front.stdout.readline() == b"up\n"
        with Reader(ledger) as reader:
            # A process that is stopped while it writes holds the ledger.
            until(lambda: "started" in [event["kind"] for event in reader.events(1)], "the start to be recorded")
            (call,) = reader.unsettled()
            assert call.lease is not None
            os.kill(call.lease.pid, signal.SIGSTOP)
            try:
                assert orphans(reader.unsettled(), time.time_ns() + 60 * SECOND) == []
                with calls.Runner(ledger, recover=False) as other:
                    assert list(Recovery(other).settle()) == []
            finally:
                os.kill(call.lease.pid, signal.SIGCONT)
            (tmp_path / "open").touch()
        assert front.wait(LIMIT) == 4
    with Reader(ledger) as reader:
        assert Kind.ADOPTED not in [event["kind"] for event in reader.events(1)]


def test_who_waits_for_a_call_without_a_runner_looks_after_it_once_and_not_at_every_news(
    ledger: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    summoned: list[Path] = []
    monkeypatch.setattr("calls.orphans.summon", summoned.append)
    with Ledger(ledger, owner=OWNER) as gone:
        call = Call(gone, 1).start()
    with Reader(ledger) as reader, Ledger(ledger) as other:
        call.ledger = other
        for _, _ in zip(range(5), common.attended(reader, call.id), strict=False):
            call.note(facts.Gap(of="events", since=1, until=2, why="somebody writes"))
    assert summoned == [ledger]


def test_in_a_copy_of_a_ledger_the_later_calls_of_a_runner_that_lives_are_left_alone(ledger: Path) -> None:
    with Succession(ledger) as stage:
        stage.driver.prepare("later", Spec(), Ear(stage.clock)).start()
        stage.clock.advance(600 * SECOND)
        stage.ledger.close()
        with calls.Runner(ledger, drivers=(stage.driver,), clock=stage.clock, recover=False) as runner:
            with closing(connect_writer(ledger)) as db, db:
                lease.take(db, identity.owner(stage.driver.labels.runner), time.time_ns())
            assert list(Recovery(runner).reap()) == []
            with closing(connect_writer(ledger)) as db:
                lease.end(db, stage.driver.labels.runner)
            assert [told.action for told in Recovery(runner).reap()] == ["reaped"]
