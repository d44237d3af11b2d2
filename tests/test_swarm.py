"""What Docker Swarm tests of its state machine, its controller and the engine, tested here of a call.

SwarmKit's `exec.Do` is a step of `calls.direct.Session`, its controller the docker driver under it. Ours that were
there already are not repeated: ELSEWHERE names them. A `no:` says why there is none. Those of the engine itself are in
`test_swarm_engine.py`.
"""

from __future__ import annotations

import ast
import os
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any
from unittest.mock import patch

import contract
import pytest
from running import until
from scripted_engine import Engine

from calls.direct import Session
from driver.protocol import STDOUT
from driver.scripted import Schedule, Script, ScriptedDriver, Step, exits
from machine.errors import CallEndedError, DriverError
from machine.spec import Spec
from machine.states import TERMINAL, Kind, Reason, State

ELSEWHERE = {
    # The controller's own, and its one test against an engine.
    "TestWaitNodeAttachment": "no: a call is not attached to a cluster's network",
    "TestVolumesAndBinds, TestTmpfsOptions, TestHealthcheck, TestExtraHosts, TestPidLimit, TestStopSignal, TestInit, "
    "TestCapabilityAdd, TestCapabilityDrop, TestUlimits": "no: options are tested with the other options",
    "TestIsolation": "no: Windows only",
    # Waiting.
    "TestWaitConditions": "test_verdicts_engine.py::test_removed_by_somebody_else",
    "TestWaitRestartedContainer": "test_faults_real.py::test_row_20_what_somebody_else_restarts_is_killed",
    # Signals.
    "TestKillStoppedContainer": "test_driver_contract.py::test_no_signal_reaches_what_does_not_run",
    "TestPauseStopPausedContainer": "test_lifecycle_engine.py::test_what_is_paused_is_cancelled_in_good_order",
    # Memory.
    "TestInspectOomKilledTrue": "test_verdicts_engine.py::test_out_of_memory",
    "TestEventsOOMDisableFalse": (
        "test_conduct_watch.py::test_out_of_memory_may_be_reported_until_a_moment_after_the_end"
    ),
    # Events.
    "TestEventsContainerRestart": "no: a call is started once, and no restart policy is ever set",
    "TestEventsNonBlocking": "test_scripted_engine.py::test_events_are_filtered_by_action_and_label",
    "TestEventsUntilInThePast": "test_docker_recover.py::test_what_was_done_to_it_meanwhile_is_reported",
    "TestEventsSinceInTheFuture": "no: events are asked for since what was seen last",
    # Health.
    "TestNoneHealthcheck": "test_verdicts_engine.py::test_the_images_health_check_can_be_ignored",
    "TestHealthStartInterval": "no: engines before 25 do not know it",
    "TestServiceHealthRun": "test_verdicts_engine.py::test_unhealthy",
    "TestServiceHealthStart": "test_verdicts_engine.py::test_healthy_then_done",
    # Samples.
    "TestStats": "test_docker_words.py::test_the_empty_documents_of_a_stopped_container_are_no_samples",
    "TestStatsNetworkStats": "test_remote_engine.py::test_samples_come_from_the_stream",
    "TestAPIStatsStoppedContainerInGoroutines": (
        "test_faults_stats.py::test_row_29_a_stream_that_goes_on_after_the_end_is_not_listened_to"
    ),
    "TestAPIStatsNoStreamGetCpu": (
        "test_docker_words.py::test_a_stats_document_of_version_2_without_percpu_usage_has_its_cpu"
    ),
    # An engine that ends, and begins again.
    "TestDaemonRestartKillContainers": (
        "test_faults_real.py::test_row_13_a_killed_engine_stops_what_it_finds_and_loses_it, "
        "test_faults_real.py::test_row_14_with_live_restore_a_killed_engine_is_only_a_gap"
    ),
    "TestHardRestartWhenContainerIsRunning": (
        "test_conduct_watch.py::test_what_was_killed_while_the_engine_was_out_of_sight_is_its_loss"
    ),
    "TestContainerKillOnDaemonStart": (
        "test_faults_engine.py::test_row_13_what_obeys_the_returning_engine_and_exits_with_0_is_no_success"
    ),
    "TestContainerStartOnDaemonRestart": "no: what has ended is never started again",
    "TestRestartDaemonWithRestartingContainer": "no: no restart policy is ever set",
    "TestRemoveDeadContainersOnDaemonRestart": "no: nothing is removed by the engine: its record is the evidence",
    "TestCreateJob, TestReplicatedJob, TestUpdateReplicatedJob": "no: those are of many calls",
}
"""Their tests, and which of ours each is; the others have their names, here and in test_swarm_engine.py."""


@cache
def functions_of(name: str) -> frozenset[str]:
    tree = ast.parse((Path(__file__).parent / name).read_text(encoding="utf-8"))
    return frozenset(node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef))


@pytest.mark.parametrize("ours", sorted({each for each in ELSEWHERE.values() if not each.startswith("no: ")}))
def test_every_test_that_is_named_exists(ours: str) -> None:
    for node in ours.split(", "):
        file, _, function = node.partition("::")
        assert function in functions_of(file), node


# The state machine: a step at a time, on a script. Everywhere: no time ever goes backwards.


class Stepped:
    """A session on a script."""

    def __init__(self, *steps: Step, timeout: float | None = None, **script: Any) -> None:
        self.clock = Schedule()
        self.spec = Spec.parse(driver="scripted", **({"timeout": timeout} if timeout else {}))
        self.driver = ScriptedDriver(self.clock, Script(steps, **script))
        self.call = self.again()

    def again(self) -> Session:
        """Another session for the same call."""
        return Session(self.driver, self.spec, "the-call", clock=self.clock)

    def asked(self, what: str) -> int:
        """How often the driver was asked for it."""
        return self.driver.actions.count(what)

    def states(self) -> list[State]:
        """Where the call has been."""
        times = [event.at for event in self.call.events]
        assert times == sorted(times)
        states = [event.state for event in self.call.events]
        return [state for state, before in zip(states, [None, *states], strict=False) if state is not before]


def test_resolve_again_changes_nothing_and_what_has_ended_is_left_alone() -> None:
    stage = Stepped(exits(0, after=1))
    stage.call.prepare()
    before = list(stage.call.events)
    assert (stage.call.prepare(), stage.call.events) == (False, before)
    stage.call.start()
    stage.call.wait()
    ended = list(stage.call.events)
    assert (stage.call.prepare(), stage.call.start(), stage.call.stop().state, stage.call.events) == (
        False, False, "success", ended
    )  # fmt: skip


@pytest.mark.parametrize(
    ("script", "state", "never_ran"),
    [
        ({"refuse_prepare": DriverError(Reason.CREATE_REFUSED, "test error")}, [State.PREPARING, State.ERROR], True),
        (
            {"refuse_start": DriverError(Reason.START_REFUSED, "test error")},
            [State.PREPARING, State.PREPARED, State.ERROR],
            True,
        ),
    ],
)
def test_resolve_an_error_before_the_start_is_a_rejection(
    script: dict[str, Any], state: list[State], *, never_ran: bool
) -> None:
    stage = Stepped(**script)
    with pytest.raises(DriverError, match="test error"):
        stage.call.start()
    assert (stage.states(), stage.call.outcome and stage.call.outcome.never_ran) == (state, never_ran)


def test_accept_prepare() -> None:
    stage = Stepped()
    assert stage.states() == [State.PREPARING]
    assert stage.call.prepare() is True
    assert (stage.states(), stage.asked("prepare")) == ([State.PREPARING, State.PREPARED], 1)


def test_prepare_already() -> None:
    stage = Stepped()
    stage.again().prepare()
    assert stage.call.prepare() is True
    assert (stage.states(), len(stage.driver.containers)) == ([State.PREPARING, State.PREPARED], 1)


def test_prepare_failure() -> None:
    stage = Stepped(refuse_prepare=DriverError(Reason.PULL_MISSING, "test error"))
    with pytest.raises(DriverError):
        stage.call.prepare()
    ended = stage.call.outcome
    assert ended is not None
    assert (ended.state, ended.reason, ended.message, ended.never_ran) == ("error", "pull-missing", "test error", True)
    assert stage.states() == [State.PREPARING, State.ERROR]
    with pytest.raises(CallEndedError):
        stage.call.prepare()


def test_ready_running() -> None:
    stage = Stepped(exits(0, after=5))
    stage.call.start()
    assert (stage.call.wait(timeout=1), stage.call.state) == (None, State.RUNNING)
    ended = stage.call.wait()
    assert ended is not None
    assert (ended.state, ended.exit_code, stage.asked("start")) == ("success", 0, 1)
    assert stage.states() == [State.PREPARING, State.PREPARED, State.RUNNING, State.SUCCESS]


def test_ready_running_exit_failure() -> None:
    stage = Stepped(exits(1, after=5))
    stage.call.start()
    ended = stage.call.wait()
    assert ended is not None
    assert (ended.state, ended.reason, ended.exit_code, ended.never_ran) == ("error", "exit", 1, False)


def test_already_started() -> None:
    stage = Stepped(exits(1, after=5))
    assert (stage.call.start(), stage.call.start(), stage.asked("start")) == (True, False, 1)
    assert stage.call.wait(timeout=1) is None
    ended = stage.call.wait()
    assert ended is not None
    assert (ended.state, ended.exit_code, stage.driver.containers["the-call"].starts) == ("error", 1, 1)


def test_already_started_by_another_runner_is_not_started_twice() -> None:
    stage = Stepped(exits(1, after=5))
    stage.again().start()
    stage.call.start()
    assert stage.driver.containers["the-call"].starts == 1


@pytest.mark.parametrize("prepared", [False, True])
def test_shutdown_before_the_start(*, prepared: bool) -> None:
    stage = Stepped()
    if prepared:
        stage.call.prepare()
    assert (stage.call.stop().state, stage.call.stop().state) == ("cancelled", "cancelled")
    assert [event.kind for event in stage.call.events].count(Kind.CANCELLED) == 1
    assert "start" not in stage.driver.actions


def test_shutdown_of_what_runs_is_asked_for_once() -> None:
    stage = Stepped(exits(0, after=600))
    stage.call.start()
    assert (stage.call.stop().state, stage.call.stop().state, stage.asked("signal TERM")) == ("cancelled",) * 2 + (1,)


def test_desired_state_remove_is_a_shutdown_first() -> None:
    stage = Stepped(exits(0, after=600))
    stage.call.start()
    stage.call.remove()
    assert stage.states()[-1] is State.CANCELLED
    assert stage.driver.actions[-2:] == ["signal TERM", "remove"]


ENDS: dict[State, tuple[dict[str, float], Callable[[Session], object]]] = {
    State.SUCCESS: ({"code": 0}, Session.wait),
    State.ERROR: ({"code": 1}, Session.wait),
    State.TIMEOUT: ({"code": 0, "timeout": 1}, Session.wait),
    State.KILLED: ({"code": 0}, Session.terminate),
    State.CANCELLED: ({"code": 0}, Session.stop),
}


@pytest.mark.parametrize("state", sorted(TERMINAL))
def test_desired_state_remove_only_nonterminal(state: State) -> None:
    how, act = ENDS[state]
    stage = Stepped(exits(int(how["code"]), after=9), timeout=how.get("timeout"))
    stage.call.start()
    act(stage.call)
    assert stage.call.state is state
    before = list(stage.driver.actions)
    stage.call.remove()
    assert stage.driver.actions == [*before, "remove"]
    assert stage.states()[-1] is state


# The controller: which requests reach an engine, that of `tests/scripted_engine.py`.


class Controlled:
    """Sessions on a scripted engine."""

    def __init__(self, engine: Engine, stage: contract.Stage) -> None:
        self.engine, self.stage = engine, stage

    def session(self, *command: str, **options: Any) -> Session:
        """A session for the call."""
        given = {**self.stage.options, **options}
        return Session(self.stage.driver, Spec.parse(command=command, **given), "the-call")

    def asked(self, method: str, path: str) -> int:
        """How many such requests came."""
        return self.engine.asked(method, path)


@pytest.fixture
def controlled() -> Iterator[Controlled]:
    """An engine, and a driver that uses it; nothing is left."""
    with Engine() as engine, patch.dict(os.environ, DOCKER_HOST=engine.url), contract.docker() as stage:
        yield Controlled(engine, stage)


def test_controller_prepare(controlled: Controlled) -> None:
    controlled.engine.far["registry/image:1"] = [{"status": "Pulling"}, {"status": "Done"}]
    call = controlled.session("true", image="registry/image:1")
    call.prepare()
    (box,) = controlled.engine.boxes.values()
    assert (box.name, box.config["Image"], box.config["Cmd"]) == ("the-call", "registry/image:1", ["true"])
    assert (controlled.asked("POST", "/images/create"), box.status) == (1, "created")
    call.remove()


def test_controller_prepare_already_prepared(controlled: Controlled) -> None:
    first, second = controlled.session("true"), controlled.session("true")
    first.prepare()
    assert second.prepare() is True
    assert (controlled.asked("POST", "/containers/create"), len(controlled.engine.boxes)) == (2, 1)
    first.remove()
    second.close()


def test_controller_start(controlled: Controlled) -> None:
    call = controlled.session("sleep", "60")
    call.start()
    assert (controlled.asked("POST", "/start"), controlled.engine.box("the-call").running) == (1, True)
    call.terminate()
    call.remove()


def test_controller_start_already_started(controlled: Controlled) -> None:
    call = controlled.session("sleep", "60")
    assert (call.start(), call.start(), controlled.asked("POST", "/start")) == (True, False, 1)
    call.terminate()
    call.remove()


@pytest.mark.parametrize(("code", "state"), [(0, "success"), (1, "error")])
def test_controller_wait_and_wait_exit_error(controlled: Controlled, code: int, state: str) -> None:
    call = controlled.session("sh", "-c", f"sleep 0.2; exit {code}")
    call.start()
    ended = call.wait()
    assert ended is not None
    assert (ended.state, ended.reason, ended.exit_code) == (state, "exit", code)
    call.remove()


def test_controller_wait_unhealthy(controlled: Controlled, tmp_path: Path) -> None:
    probe = f"until [ -e {tmp_path}/up ]; do sleep 0.01; done; false"
    checked = {"health_cmd": probe, "health_interval": "20ms", "health_retries": 1, "stop_timeout": "3m"}
    script = f"trap 'exit 0' TERM; touch {tmp_path}/up; while :; do sleep 0.02; done"
    call = controlled.session("sh", "-c", script, **checked)
    call.start()
    ended = call.wait()
    assert ended is not None
    assert (ended.state, ended.reason, controlled.asked("POST", "/kill")) == ("error", "unhealthy", 1)
    call.remove()


@pytest.mark.parametrize(("code", "state"), [(0, "success"), (1, "error")])
def test_controller_wait_exited_clean_and_exited_error(controlled: Controlled, code: int, state: str) -> None:
    call = controlled.session("sh", "-c", f"exit {code}")
    call.start()
    until(lambda: controlled.engine.box("the-call").status == "exited", "its end")
    controlled.engine.cut_events()
    ended = call.wait()
    assert ended is not None
    assert (ended.state, ended.exit_code) == (state, code)
    call.remove()


def test_controller_shutdown(controlled: Controlled) -> None:
    call = controlled.session("sh", "-c", "trap 'exit 7' TERM; echo up; while :; do sleep 0.02; done")
    call.start()
    assert next(call.logs()) == (STDOUT, b"up\n")
    ended = call.stop(grace=20)
    assert (ended.state, ended.exit_code) == ("cancelled", 7)
    assert [controlled.asked("POST", path) for path in ("/kill", "/stop")] == [1, 0]  # signals of our own
    call.remove()


def test_controller_terminate(controlled: Controlled) -> None:
    call = controlled.session("sleep", "60")
    call.start()
    ended = call.terminate()
    assert (ended.state, ended.exit_code, ended.signal, controlled.asked("POST", "/kill")) == ("killed", 137, "KILL", 1)
    call.remove()


def test_controller_remove(controlled: Controlled) -> None:
    call = controlled.session("sleep", "60", stop_timeout=0)
    call.start()
    call.remove()
    call.remove()
    assert (controlled.asked("POST", "/kill"), controlled.asked("DELETE", "")) == (1, 1)
    assert controlled.engine.boxes == {}
