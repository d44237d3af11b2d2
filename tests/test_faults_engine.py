"""Rows 13 to 22 of the fault matrix: what an engine does to a call, and what the ledger says then.

Held elsewhere, too:

| row | there |
|---|---|
| 13, 14, 19, 20, 22 | test_faults_real.py, on an engine of its own that is really killed |
| 18 | test_conduct.py::test_what_cannot_be_killed_is_tried_five_times_and_then_given_up_unconfirmed |
| 19, 20 | test_verdicts_engine.py::test_killed_by_somebody_else and the two after it, on a real engine |
| 23 to 25 | test_faults_verdicts.py; test_verdicts_engine.py on a real engine; test_conduct_watch.py on a clock |
| 26, 27, 30 | test_faults_events.py |
| 28, 29 | test_faults_stats.py; test_docker_words.py for each line; test_remote_engine.py on a real engine |
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from engine_http import Act, delay, drop, hang, says, truncate
from faults import IGNORES, LIMIT, WAITS, World, world
from held import Ahead, time_out
from running import until

from calls import conduct, stopping
from driver.docker import container, engine
from machine.units import SECOND

LOST = ("error", "engine-lost", 137, None)
DONE = ("success", "exit", 0, None)


@pytest.fixture
def stage(ledger: Path) -> Iterator[World]:
    """A runner on a scripted engine without live restore."""
    with world(ledger) as stage:
        yield stage


@pytest.fixture
def lasting(ledger: Path) -> Iterator[World]:
    """A runner on a scripted engine with live restore."""
    with world(ledger, live_restore=True) as stage:
        yield stage


# 13, 14: the engine dies.


def test_row_13_what_a_killed_engine_takes_along_is_its_loss(stage: World) -> None:
    future = stage.script(IGNORES)
    stage.engine.kill9()
    stage.until(future, "gap")
    stage.engine.come_back()
    told = stage.end(future)
    assert told.verdict == LOST
    assert len(told.gaps("events")) == 2, "one at the break and one after it, however often it was tried between"


def test_row_13_what_obeys_the_returning_engine_and_exits_with_0_is_no_success(stage: World) -> None:
    stage.engine.grace = LIMIT
    future = stage.script(WAITS)
    stage.engine.kill9()
    stage.until(future, "gap")
    stage.engine.come_back()
    told = stage.end(future)
    assert told.verdict == ("error", "engine-lost", 0, None)
    assert told.evidence["engine_stop"]


def test_row_13_an_end_is_not_judged_before_the_news_of_the_returning_engine(stage: World) -> None:
    """Inspect shows exit code 0 a while before the events say what led to it."""
    stage.engine.grace = LIMIT
    future = stage.script(WAITS)
    box = stage.box(future)
    stage.engine.kill9()
    stage.until(future, "gap")
    fault = stage.engine.lie("GET", "/events", drop, times=4)
    stage.engine.come_back()
    assert not box.running
    told = stage.end(future)
    assert told.verdict == ("error", "engine-lost", 0, None)
    assert fault.met > 4


@pytest.mark.parametrize(("code", "verdict"), [(0, DONE), (5, ("error", "exit", 5, None))])
def test_row_13_what_ended_by_itself_meanwhile_has_its_true_code(
    stage: World, tmp_path: Path, code: int, verdict: tuple[object, ...]
) -> None:
    future = stage.script(f"echo up; while [ ! -e {tmp_path}/go ]; do sleep 0.02; done; echo last; exit {code}")
    box = stage.box(future)
    stage.engine.kill9()
    stage.until(future, "gap")
    (tmp_path / "go").touch()
    until(lambda: not box.running, "its end")
    stage.engine.come_back()
    told = stage.end(future)
    assert told.verdict == verdict
    assert told.gaps("events")
    assert len(told.gaps("output")) == 1, "what it wrote meanwhile is lost, and that is said"
    assert stage.output(future) == b"up\n"


def test_row_13_an_engine_that_never_comes_back_is_no_success(ledger: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stopping, "CONFIRM", SECOND // 20)
    monkeypatch.setattr("calls.watch._RETRIES", (0, SECOND // 20))
    clock = Ahead()
    with world(ledger, left=1, clock=clock) as stage:
        future = stage.script(WAITS, timeout="10m", stop_timeout="100ms")
        stage.engine.kill9()
        time_out(clock, future.id)
        told = stage.end(future)
        assert told.verdict[:2] == ("timeout", "deadline")
        assert told.evidence["unconfirmed"]
        assert not told.of("cleaned")[0]["removed"]


def test_row_14_with_live_restore_nothing_but_a_gap_is_left_of_it(lasting: World, tmp_path: Path) -> None:
    script = f"echo up; while [ ! -e {tmp_path}/go ]; do sleep 0.02; done; echo after; exit 3"
    future = lasting.script(script)
    before = time.time_ns()
    lasting.engine.kill9()
    lasting.until(future, "gap")
    lasting.engine.come_back()
    until(lambda: lasting.kinds(future).count("gap") >= 2, "the end of the gap")
    (tmp_path / "go").touch()
    told, clean = lasting.end(future), lasting.end(lasting.script(script))
    assert (told.verdict, told.kinds()) == (clean.verdict, clean.kinds()) == (("error", "exit", 3, None), told.kinds())
    assert lasting.output(future) == b"up\nafter\n"
    assert all(before < gap["since"] <= gap["until"] for gap in told.of("gap"))
    assert len(told.gaps("output")) == 1
    assert not clean.gaps("events") + clean.gaps("output")


def test_row_14_what_is_cancelled_after_the_restart_is_cancelled(lasting: World) -> None:
    future = lasting.script(WAITS)
    lasting.engine.kill9()
    lasting.until(future, "gap")
    lasting.engine.come_back()
    lasting.runner.cancel(future.id)
    assert lasting.end(future).verdict == ("cancelled", "user", 0, None)


# 15: no engine at the start.


def test_row_15_without_an_engine_a_call_never_ran(stage: World) -> None:
    stage.engine.kill9()
    told = stage.run("true")
    assert (told.verdict, told.never_ran) == (("error", "engine-unavailable", None, None), True)
    assert told.kinds() == ["submitted", "failed", "cleaned"]


def test_row_15_with_a_time_to_prepare_the_engine_is_waited_for(ledger: Path) -> None:
    heard: list[str] = []
    with world(ledger, tell=lambda line, _: heard.append(line)) as stage:
        stage.engine.kill9()
        future = stage.submit("true", prepare_timeout="60s")
        until(lambda: len(heard) >= 2, "the second attempt")
        stage.engine.come_back()
        assert stage.end(future).verdict == DONE
    assert all("trying again" in line for line in heard)


def test_row_15_the_wait_for_an_engine_ends_in_time(stage: World) -> None:
    stage.engine.kill9()
    told = stage.run("true", prepare_timeout="1s")
    assert (told.verdict, told.never_ran) == (("error", "engine-unavailable", None, None), True)
    (preparing,) = stage.query("SELECT preparing_ns FROM call")[0]
    assert SECOND // 2 < preparing < 20 * SECOND


def test_row_15_who_waits_for_an_engine_can_be_cancelled(stage: World) -> None:
    stage.engine.kill9()
    future = stage.submit("true", prepare_timeout="60s")
    stage.runner.cancel(future.id)
    assert stage.end(future).verdict[:2] == ("cancelled", "user")


# 16: slow, and silent after the deed.


@pytest.mark.parametrize(
    ("act", "done"),
    [(drop, True), (drop, False), (says(500), True), (truncate, True), (says(201, b'{"Id": "x'), True), (hang, True)],
)
def test_row_16_a_create_that_times_out_but_succeeds_gives_one_container(
    stage: World, monkeypatch: pytest.MonkeyPatch, act: Act, *, done: bool
) -> None:
    monkeypatch.setattr(engine, "_TIMEOUT", 2)
    stage.engine.lie("POST", "/containers/create", act, done=done)
    future = stage.submit("sleep", "0.2")
    stage.until(future, "prepared")
    assert len(stage.engine.boxes) == 1
    told = stage.end(future)
    assert told.verdict == DONE
    assert stage.engine.asked("POST", "/create") == (1 if done else 2)
    assert stage.engine.asked("POST", "/start") == 1


def test_row_16_a_create_without_an_answer_is_not_asked_for_again_when_its_time_is_over(
    stage: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "_TIMEOUT", 2)
    stage.engine.lie("POST", "/containers/create", hang, times=None)
    told = stage.run("true", prepare_timeout="1s")
    assert (told.verdict[:2], told.never_ran) == (("timeout", "prepare"), True)
    assert stage.engine.asked("POST", "/create") == 1


@pytest.mark.parametrize("act", [drop, hang])
def test_row_16_without_an_attachment_nothing_is_started(
    stage: World, monkeypatch: pytest.MonkeyPatch, act: Act
) -> None:
    monkeypatch.setattr(engine, "_TIMEOUT", 1)
    stage.engine.lie("POST", "/attach", act, times=None)
    told = stage.run("true")
    assert (told.verdict[:2], told.never_ran) == (("error", "start-refused"), True)
    assert stage.engine.asked("POST", "/start") == 0


def test_row_16_a_network_that_is_there_twice_for_a_moment_is_no_refusal(stage: World) -> None:
    """Two calls that lack the same one may both make it; the later of the two is removed again."""
    message = b'{"message": "2 matches found based on name: network mine is ambiguous"}'
    stage.engine.lie("POST", "/containers/create", says(400, message))
    assert stage.run("true").verdict[0] == "success"


def test_row_16_a_create_that_fails_again_and_again_is_refused(stage: World) -> None:
    stage.engine.lie("POST", "/containers/create", says(500, b'{"message": "no space left"}'), times=None)
    told = stage.run("true")
    assert (told.verdict[:2], told.never_ran, told.message) == (("error", "create-refused"), True, "no space left")


@pytest.mark.parametrize("act", [drop, says(500), hang])
def test_row_16_a_start_that_times_out_but_succeeds_is_not_asked_twice(
    stage: World, monkeypatch: pytest.MonkeyPatch, act: Act
) -> None:
    monkeypatch.setattr(engine, "_TIMEOUT", 2)
    stage.engine.lie("POST", "/start$", act, done=True)
    told = stage.run("sh", "-c", "echo once")
    assert (told.verdict, stage.engine.asked("POST", "/start")) == (DONE, 1)
    assert stage.query("SELECT data FROM log") == [(b"once\n",)]


def test_row_16_a_start_of_which_nothing_is_known_is_lost_and_not_asked_twice(
    stage: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(container, "_LOOKS", (0.01, 0.01))
    stage.engine.lie("POST", "/start$", drop)
    told = stage.run("true")
    assert told.verdict[:2] == ("error", "lost")
    assert stage.engine.asked("POST", "/start") == 1


def test_row_16_with_an_engine_that_takes_its_time_the_deadline_is_by_our_clock(stage: World) -> None:
    for method in ("GET", "POST", "DELETE"):
        stage.engine.lie(method, "/containers/", delay(0.3), times=None)
    future = stage.script(IGNORES, timeout="1s", stop_timeout="0")
    told = stage.end(future)
    assert told.verdict == ("timeout", "deadline", 137, None)
    assert 1 <= told.at("signalled") - told.at("started") < 20


# 17, 18: what does not answer, and what does not die.


def test_row_17_a_hanging_inspect_of_one_call_is_no_other_calls_business(
    stage: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "_PROMPT", 0.3)
    monkeypatch.setattr("calls.watch.RECORD", SECOND)
    other = stage.script(WAITS)
    stage.engine.lie("POST", "/start$", delay(0.5))
    stuck = stage.submit("sh", "-c", IGNORES, timeout="1s", stop_timeout="0")
    stage.until(stuck, "prepared")
    fault = stage.engine.lie("GET", f"{stage.box(stuck).id}/json", hang, times=None)
    stage.until(stuck, "started")
    assert stage.run("true").verdict == DONE
    told = stage.end(stuck)
    assert told.verdict == ("timeout", "deadline", 137, None)
    assert fault.met
    assert 1 <= told.at("signalled") - told.at("started") < 20
    stage.runner.cancel(other.id)
    assert stage.end(other).verdict == ("cancelled", "user", 0, None)


def test_row_18_a_kill_that_does_nothing_is_tried_five_times_and_left_to_the_reaper(
    ledger: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stopping, "CONFIRM", SECOND // 20)
    monkeypatch.setattr(conduct, "DRAIN", SECOND // 10)
    monkeypatch.setattr(conduct, "ABANDON", SECOND // 10)
    stuck = says(500, b'{"message": "did not receive an exit event"}')
    with world(ledger, left=1) as stage:
        stage.engine.lie("POST", "/kill$", says(204), times=None)
        stage.engine.lie("DELETE", "/containers/", stuck, times=None)
        future = stage.script(IGNORES, timeout="200ms", stop_timeout="100ms")
        told = stage.end(future)
        assert told.verdict == ("timeout", "deadline", None, None)
        assert told.evidence["unconfirmed"]
        assert [one["signal"] for one in told.of("signalled")] == ["TERM", *["KILL"] * 5]
        assert told.of("cleaned") == [{"removed": False, "error": "did not receive an exit event"}]
        (leftover,) = stage.runner._drivers["docker"].leftovers()
        assert (leftover.uid, leftover.status) == (future.id, "running")


# 19, 20: somebody else.


def test_row_19_what_is_removed_behind_our_back_is_killed(stage: World) -> None:
    future = stage.script(IGNORES)
    client = stage.client()
    client.remove_container(future.id, force=True)
    client.close()
    told = stage.end(future)
    assert told.verdict[:2] + told.verdict[3:] == ("killed", "external", "KILL")


def test_row_19_what_is_removed_and_not_reported_is_lost(stage: World) -> None:
    future = stage.script(IGNORES)
    stage.engine.events_pass = lambda _: []
    client = stage.client()
    client.remove_container(future.id, force=True)
    client.close()
    assert stage.end(future).verdict == ("error", "lost", None, None)


@pytest.mark.parametrize(
    ("action", "verdict"),
    [
        ("stop", ("killed", "external", 0, "TERM")),
        ("kill", ("killed", "external", 137, "KILL")),
        ("restart", ("killed", "external", 0, "TERM")),
    ],
)
def test_row_20_what_somebody_else_ends_is_killed_with_the_signal(
    stage: World, action: str, verdict: tuple[object, ...]
) -> None:
    future = stage.script(WAITS)
    client = stage.client()
    getattr(client, action)(future.id)
    client.close()
    told = stage.end(future)
    assert told.verdict == verdict


@pytest.mark.parametrize("code", [0, 3])
def test_row_20_a_restart_that_nobody_reported_is_an_error(stage: World, tmp_path: Path, code: int) -> None:
    """The second process is not the call's, however well it ends."""
    second = f"[ -e {tmp_path}/second ] && exit {code}; touch {tmp_path}/second; {WAITS}"
    future = stage.script(second)
    until((tmp_path / "second").exists, "its first life")
    time.sleep(1.1)  # within a second a start is taken for the one that is known
    stage.engine.events_pass = lambda _: []
    client = stage.client()
    client.restart(future.id, timeout=0)
    client.close()
    told = stage.end(future)
    assert told.verdict == ("error", "lost", None, None)
    assert told.message == "somebody else started the container again"


def test_row_20_a_pause_by_somebody_else_is_recorded(stage: World) -> None:
    future = stage.script(WAITS)
    client = stage.client()
    client.pause(future.id)
    stage.until(future, "paused")
    client.unpause(future.id)
    stage.until(future, "resumed")
    client.kill(future.id, "TERM")
    client.close()
    told = stage.end(future)
    assert told.kinds()[2:-2] == ["started", "paused", "resumed"]
    assert told.verdict[0] == "success", "a signal to which it answers by ending well is not its end"


# 21, 22: the shortest lives.


def test_row_21_what_was_only_said_to_be_started_never_succeeds(stage: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("calls.watch.GLANCE", SECOND // 2)
    monkeypatch.setattr(conduct, "DRAIN", SECOND // 10)
    monkeypatch.setattr(conduct, "ABANDON", SECOND // 10)
    stage.engine.lie("POST", "/start$", says(204))
    told = stage.run("true")
    assert told.verdict == ("error", "lost", None, None)


def test_row_21_an_exit_code_of_what_never_started_is_no_success(stage: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conduct, "DRAIN", SECOND // 10)
    monkeypatch.setattr(conduct, "ABANDON", SECOND // 10)
    stage.engine.lie("POST", "/start$", says(204))
    future = stage.submit("true")
    stage.until(future, "prepared")
    stage.engine.emit(stage.box(future), "die", exitCode="0")
    told = stage.end(future)
    assert told.verdict == ("error", "lost", 0, None)


def test_row_22_a_thousand_calls_that_end_before_we_look_all_succeed(ledger: Path) -> None:
    with world(ledger, max_calls=16) as stage:
        futures = [stage.submit("true", sample="off") for _ in range(1000)]
        ended = {future.result(10 * LIMIT).state for future in futures}
        assert ended == {"success"}
        rows = stage.query(
            "SELECT evidence ->> '$.started_at', evidence ->> '$.finished_at', gaps FROM call WHERE state = 'success'"
        )
    assert len(rows) == 1000
    assert all(started <= finished for started, finished, _ in rows)
    assert sum(gaps for *_, gaps in rows) == 0


def test_row_44_threads_return_to_their_number(stage: World) -> None:
    before = threading.active_count()
    for _ in range(3):
        stage.run("true")
    first = threading.active_count()
    for _ in range(10):
        stage.run("true", sample="100ms")
    assert first >= before
    until(lambda: threading.active_count() <= first, "the end of the threads of calls")
