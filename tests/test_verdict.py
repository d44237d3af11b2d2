"""From evidence to verdict: every row of the design's table, and what must hold whatever was seen."""

from __future__ import annotations

import json
from typing import Any, get_args

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from machine.facts import Ended
from machine.signals import signal_number
from machine.states import REASONS, Reason, State
from machine.verdict import Evidence, Verdict, Why, decide, never_ran

SOURCES = ("die", "inspect", "wait4")
WHYS = get_args(Why)
SIGNALS = ("KILL", "TERM", "INT", "HUP", "USR1", "QUIT", "ABRT", "40")
STOPPED = {
    "deadline": (State.TIMEOUT, Reason.DEADLINE),
    "health": (State.TIMEOUT, Reason.HEALTH),
    "unhealthy": (State.ERROR, Reason.UNHEALTHY),
    "cancel": (State.CANCELLED, Reason.USER),
    "kill": (State.KILLED, Reason.USER),
}
CODES = st.sampled_from((0, 1, 3, 125, 126, 127, 128, 129, 130, 137, 143, 255))
TIMES = st.none() | st.just(10)
SEEN = st.builds(
    Evidence,
    exits=st.dictionaries(st.sampled_from((*SOURCES, "rumour")), CODES, max_size=3),
    started_at=TIMES,
    finished_at=TIMES,
    oom=st.sets(st.sampled_from(("event", "inspect", "cgroup"))),
    near_limit=st.booleans(),
    stop=st.none() | st.sampled_from(WHYS),
    stop_signal=st.none() | st.sampled_from(SIGNALS),
    messages=st.sets(st.sampled_from(SIGNALS)),
    unconfirmed=st.booleans(),
    external_signal=st.none() | st.sampled_from(SIGNALS),
    external_stop=st.booleans(),
    death_signal=st.none() | st.integers(1, 64),
    destroyed=st.booleans(),
    engine_lost=st.booleans(),
    engine_stop=st.booleans(),
    awaiting_health=st.booleans(),
    error=st.none() | st.just("what the engine said"),
)


def ran(code: int | None, **seen: Any) -> Evidence:
    """What is seen of a call that started and ended with `code`, and `seen`."""
    exits = {} if code is None else {"die": code, "inspect": code}
    return Evidence(**{"exits": exits, "started_at": 10, "finished_at": 20, **seen})


def end(seen: Evidence) -> tuple[State, Reason, str | None]:
    """State, reason and signal of the verdict."""
    state, ended = decide(seen)
    return state, ended.reason, ended.signal


# The table, a row a case.

ROWS: list[tuple[str, Evidence, tuple[State, Reason, str | None]]] = [
    ("exit 0, by a named source, really started", ran(0), (State.SUCCESS, Reason.EXIT, None)),
    ("exit 3 by itself", ran(3), (State.ERROR, Reason.EXIT, None)),
    ("exit 137 by itself", ran(137), (State.ERROR, Reason.EXIT, None)),
    ("exit 255 by itself", ran(255), (State.ERROR, Reason.EXIT, None)),
    ("deadline, ended by TERM", ran(143, stop="deadline", stop_signal="TERM"), (State.TIMEOUT, Reason.DEADLINE, None)),
    ("deadline, ended by KILL", ran(137, stop="deadline", stop_signal="KILL"), (State.TIMEOUT, Reason.DEADLINE, None)),
    ("deadline, answered with exit 0", ran(0, stop="deadline"), (State.TIMEOUT, Reason.DEADLINE, None)),
    ("never confirmed", ran(None, stop="deadline", unconfirmed=True), (State.TIMEOUT, Reason.DEADLINE, None)),
    ("not healthy in time", ran(143, stop="health", stop_signal="TERM"), (State.TIMEOUT, Reason.HEALTH, None)),
    ("unhealthy", ran(143, stop="unhealthy", stop_signal="TERM"), (State.ERROR, Reason.UNHEALTHY, None)),
    ("cancelled", ran(143, stop="cancel", stop_signal="TERM"), (State.CANCELLED, Reason.USER, None)),
    ("calls kill", ran(137, stop="kill", stop_signal="KILL"), (State.KILLED, Reason.USER, "KILL")),
    ("calls kill -s TERM", ran(0, stop="kill", stop_signal="TERM"), (State.KILLED, Reason.USER, "TERM")),
    ("calls kill -s HUP, died of it", ran(129, stop="kill", stop_signal="HUP"), (State.KILLED, Reason.USER, "HUP")),
    ("calls kill -s HUP, went on", ran(0, stop="kill", stop_signal="HUP"), (State.SUCCESS, Reason.EXIT, None)),
    ("calls signal TERM, ended well", ran(0, messages={"TERM"}), (State.SUCCESS, Reason.EXIT, None)),
    ("calls signal TERM, died of it", ran(143, messages={"HUP", "TERM"}), (State.KILLED, Reason.USER, "TERM")),
    ("calls signal TERM, ended otherwise", ran(1, messages={"TERM"}), (State.ERROR, Reason.EXIT, None)),
    (
        "calls signal KILL, memory short",
        ran(137, messages={"KILL"}, oom={"event"}),
        (State.KILLED, Reason.USER, "KILL"),
    ),
    ("calls signal TERM, no exit code", ran(None, messages={"TERM"}), (State.ERROR, Reason.LOST, None)),
    (
        "calls signal TERM, then docker stop",
        ran(143, messages={"TERM"}, external_signal="TERM", external_stop=True),
        (State.KILLED, Reason.EXTERNAL, "TERM"),
    ),
    ("out of memory by the engine's flag", ran(137, oom={"inspect"}), (State.KILLED, Reason.OOM, "KILL")),
    ("out of memory by the engine's event", ran(137, oom={"event"}), (State.KILLED, Reason.OOM, "KILL")),
    ("out of memory by the kernel's counter", ran(137, oom={"cgroup"}), (State.KILLED, Reason.OOM, "KILL")),
    ("out of memory most likely", ran(137, near_limit=True), (State.KILLED, Reason.OOM, "KILL")),
    ("only a child was out of memory", ran(0, oom={"inspect"}), (State.SUCCESS, Reason.EXIT, None)),
    ("docker kill", ran(137, external_signal="KILL"), (State.KILLED, Reason.EXTERNAL, "KILL")),
    (
        "docker stop, answered with exit 0",
        ran(0, external_signal="TERM", external_stop=True),
        (State.KILLED, Reason.EXTERNAL, "TERM"),
    ),
    ("docker kill -s HUP, went on", ran(0, external_signal="HUP"), (State.SUCCESS, Reason.EXIT, None)),
    ("docker rm -f", ran(None, external_signal="KILL", destroyed=True), (State.KILLED, Reason.EXTERNAL, "KILL")),
    ("a process killed from outside", ran(137, death_signal=9), (State.KILLED, Reason.EXTERNAL, "KILL")),
    ("a process that crashed", ran(139, death_signal=11), (State.KILLED, Reason.EXTERNAL, "SEGV")),
    ("removed, nobody saw how", ran(None, destroyed=True), (State.ERROR, Reason.DESTROYED, None)),
    (
        "removed while waiting for health",
        ran(137, external_signal="KILL", destroyed=True, awaiting_health=True),
        (State.ERROR, Reason.DESTROYED, "KILL"),
    ),
    ("the engine died with it", ran(137, engine_lost=True), (State.ERROR, Reason.ENGINE_LOST, None)),
    ("the engine stopped it as it came back", ran(0, engine_stop=True), (State.ERROR, Reason.ENGINE_LOST, None)),
    ("the engine lost track of it", ran(255, engine_lost=True), (State.ERROR, Reason.ENGINE_LOST, None)),
    ("the engine died, the container is gone", ran(None, engine_lost=True), (State.ERROR, Reason.ENGINE_LOST, None)),
    ("gone, nobody knows", ran(None), (State.ERROR, Reason.LOST, None)),
    ("exit 0 of what never started", ran(0, started_at=None), (State.ERROR, Reason.LOST, None)),
    ("exit 0 by hearsay", ran(None, exits={"rumour": 0}), (State.ERROR, Reason.LOST, None)),
    ("nothing at all", Evidence(), (State.ERROR, Reason.LOST, None)),
]


@pytest.mark.parametrize(("seen", "expected"), [row[1:] for row in ROWS], ids=[row[0] for row in ROWS])
def test_each_row_of_the_table(seen: Evidence, expected: tuple[State, Reason, str | None]) -> None:
    assert end(seen) == expected


@pytest.mark.parametrize(
    ("seen", "grade"),
    [
        (ran(137, oom={"event"}, near_limit=True), "certain"),
        (ran(137, near_limit=True), "likely"),
        (ran(0, oom={"event"}), "certain"),
        (ran(1, near_limit=True), None),
        (ran(137, near_limit=True, stop="cancel", stop_signal="KILL"), None),
        (ran(137, near_limit=True, external_signal="KILL"), None),
        (ran(137, near_limit=True, messages={"KILL"}), None),
        (ran(137, near_limit=True, messages={"TERM"}), "likely"),
        (ran(137), None),
    ],
)
def test_out_of_memory_is_graded(seen: Evidence, grade: str | None) -> None:
    assert decide(seen).ended.oom == grade


# Whatever was seen.


@given(SEEN)
def test_every_evidence_has_a_verdict_with_a_reason_of_its_state(seen: Evidence) -> None:
    state, ended = decide(seen)
    assert ended.reason in REASONS[state]


@given(SEEN)
def test_never_a_success_without_exit_0_by_a_named_source_and_a_start(seen: Evidence) -> None:
    if decide(seen).state is State.SUCCESS:
        named = {source: code for source, code in seen.exits.items() if source in SOURCES}
        assert 0 in named.values()
        assert seen.exit_code == 0
        assert seen.started_at is not None


@given(SEEN)
def test_never_a_success_of_what_we_stopped(seen: Evidence) -> None:
    assume(seen.stop not in {None, "kill"})
    assert decide(seen).state is not State.SUCCESS


@given(SEEN)
def test_137_alone_is_never_out_of_memory(seen: Evidence) -> None:
    alone = seen.replace(oom=set(), near_limit=False)
    ended = decide(alone).ended
    assert (ended.reason is Reason.OOM, ended.oom) == (False, None)


@given(SEEN)
def test_out_of_memory_never_kills_what_exited_otherwise(seen: Evidence) -> None:
    assume(seen.exit_code != 137)
    assert decide(seen).ended.reason is not Reason.OOM


@given(SEEN)
def test_our_stop_wins_over_all_else_that_was_seen(seen: Evidence) -> None:
    assume(seen.stop not in {None, "kill"})
    assert seen.stop is not None
    state, ended = decide(seen)
    assert (state, ended.reason) == STOPPED[seen.stop]


@given(SEEN, st.sampled_from(("KILL", "TERM", "INT", "QUIT", "ABRT")))
def test_a_signal_of_the_user_that_asks_for_the_end_wins_and_is_named(seen: Evidence, signal: str) -> None:
    assert end(seen.replace(stop="kill", stop_signal=signal)) == (State.KILLED, Reason.USER, signal)


@given(SEEN)
def test_a_message_of_the_user_is_nobodys_end_unless_the_code_says_so(seen: Evidence) -> None:
    message = seen.replace(stop="kill", stop_signal="HUP")
    assume(message.exit_code not in {None, 129})
    state, reason, signal = end(message)
    assert (state, reason, signal) != (State.KILLED, Reason.USER, "HUP")


@given(SEEN)
def test_messages_alone_end_nothing_unless_the_code_names_one(seen: Evidence) -> None:
    assume(seen.exit_code not in {128 + signal_number(name) for name in seen.messages})
    assume("KILL" not in seen.messages)
    told, untold = decide(seen), decide(seen.replace(messages=set()))
    assert (told.state, told.ended.reason, told.ended.signal) == (
        untold.state,
        untold.ended.reason,
        untold.ended.signal,
    )


@given(SEEN)
def test_somebody_elses_kill_needs_a_signal_and_names_it(seen: Evidence) -> None:
    _, reason, signal = end(seen)
    if reason is Reason.EXTERNAL:
        named = {seen.external_signal and signal_number(seen.external_signal), seen.death_signal} - {None}
        assert signal_number(signal or "") in named


@given(SEEN)
def test_what_vanished_is_never_a_success(seen: Evidence) -> None:
    assert decide(seen.replace(exits={})).state is not State.SUCCESS


@given(SEEN)
def test_what_ran_is_never_said_not_to_have_run(seen: Evidence) -> None:
    assert decide(seen).ended.never_ran is False


@given(SEEN)
def test_the_verdict_depends_on_the_evidence_alone(seen: Evidence) -> None:
    assert decide(seen) == decide(seen.replace())


@given(SEEN)
def test_deciding_changes_no_evidence(seen: Evidence) -> None:
    before = seen.replace(exits=dict(seen.exits), oom=set(seen.oom))
    decide(seen)
    assert seen == before


# What goes into the event.


@given(SEEN)
def test_the_exit_code_is_kept_whatever_the_verdict(seen: Evidence) -> None:
    assert decide(seen).ended.exit_code == seen.exit_code


@pytest.mark.parametrize(
    ("exits", "code"),
    [
        ({"die": 1, "inspect": 2, "wait4": 3}, 3),
        ({"die": 1, "inspect": 2}, 2),
        ({"die": 1}, 1),
        ({"rumour": 1}, None),
    ],
)
def test_the_best_source_gives_the_exit_code(exits: dict[str, int], code: int | None) -> None:
    assert Evidence(exits=exits).exit_code == code


def test_sources_that_disagree_are_a_conflict_on_record() -> None:
    dumped = ran(0, exits={"inspect": 0, "die": 137}).dump()
    assert (dumped["exits"], dumped["conflict"]) == ({"die": 137, "inspect": 0}, True)


def test_what_was_not_seen_is_not_in_the_record() -> None:
    assert Evidence().dump() == {"exits": {}}


@given(SEEN)
def test_the_evidence_is_recorded_and_can_be_written_as_json(seen: Evidence) -> None:
    ended = decide(seen).ended
    assert ended.evidence == seen.dump()
    assert json.loads(ended.dump())["reason"] == str(ended.reason)


def test_what_the_engine_said_is_the_message() -> None:
    assert decide(ran(1, error="no space left")).ended.message == "no space left"


def test_a_call_that_never_ran_has_no_evidence_of_running() -> None:
    verdict = never_ran(State.ERROR, Reason.PULL_MISSING, "no such image")
    expected = Ended(reason=Reason.PULL_MISSING, message="no such image", never_ran=True)
    assert verdict == Verdict(State.ERROR, expected)
