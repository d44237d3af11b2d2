"""What is seen of a call that runs, late or never or out of order, and what is made of it. On a virtual clock."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from conducting import Stage

from calls.conduct import DRAIN
from calls.watch import GLANCE, SETTLE
from driver.protocol import (
    Destroyed,
    Died,
    ForeignSignal,
    Froze,
    HealthCheck,
    HealthStatus,
    Observation,
    OomKilled,
    Thawed,
    Unwatched,
)
from driver.scripted import Step, exits, happens
from machine.errors import DriverError
from machine.samples import Sample
from machine.states import Kind, Reason, State
from machine.units import SECOND
from machine.verdict import Verdict

MIB = 2**20
CHECK = HealthCheck(interval=SECOND, timeout=SECOND, retries=2, start_period=0)
LIMIT = (1 + 1) * (2 + 1) + 30
"""Seconds that such a check may take at most."""


def end(verdict: Verdict) -> tuple[State, Reason]:
    return verdict.state, verdict.ended.reason


def unanswered(times: float) -> Step:
    """At once, the engine does not answer `inspect` so many times."""

    def cut(container: Any) -> None:
        answer, left = container.inspect, times

        def inspect() -> Observation:
            nonlocal left
            left -= 1
            if left >= 0:
                raise DriverError(Reason.ENGINE_LOST, "engine down")
            return answer()

        container.inspect = inspect

    return Step(0, cut)


# What is lost.


def test_an_end_that_nobody_reported_is_found_by_the_glance(ledger: Path) -> None:
    with Stage(ledger, exits(0, after=3, seen=False), output_ends=False) as stage:
        assert end(stage.conduct()) == (State.SUCCESS, Reason.EXIT)
        assert stage.events(Kind.SUCCEEDED)[0]["t"] == (GLANCE + DRAIN) / SECOND


def test_the_end_of_the_output_is_a_sign_of_the_end(ledger: Path) -> None:
    with Stage(ledger, exits(0, after=3, seen=False)) as stage:
        assert end(stage.conduct()) == (State.SUCCESS, Reason.EXIT)
        assert stage.events(Kind.SUCCEEDED)[0]["t"] == 3 + SETTLE / SECOND


def test_a_container_that_is_gone_without_a_trace_is_lost(ledger: Path) -> None:
    with Stage(ledger, happens(Destroyed, after=3, seen=False)) as stage:
        assert end(stage.conduct()) == (State.ERROR, Reason.LOST)


def test_a_container_that_was_seen_to_be_removed_is_destroyed(ledger: Path) -> None:
    with Stage(ledger, happens(Destroyed, after=3)) as stage:
        assert end(stage.conduct()) == (State.ERROR, Reason.DESTROYED)


def test_a_gap_is_recorded_and_what_goes_on_goes_on(ledger: Path) -> None:
    with Stage(ledger, happens(Unwatched, 7, "restarted", after=1), exits(0, after=3)) as stage:
        assert end(stage.conduct()) == (State.SUCCESS, Reason.EXIT)
        (gap,) = stage.events(Kind.GAP)
        assert (gap["of"], gap["since"], gap["until"], gap["why"]) == ("events", 7, stage.begun + SECOND, "restarted")


@pytest.mark.parametrize("code", [137, 255])
def test_what_was_killed_while_the_engine_was_out_of_sight_is_its_loss(ledger: Path, code: int) -> None:
    steps = exits(code, after=1, seen=False), happens(Unwatched, 0, "restarted", after=2)
    with Stage(ledger, *steps, output_ends=False) as stage:
        assert end(stage.conduct()) == (State.ERROR, Reason.ENGINE_LOST)


def test_what_is_gone_after_the_engine_was_out_of_sight_is_its_loss(ledger: Path) -> None:
    steps = happens(Destroyed, after=1, seen=False), happens(Unwatched, 0, "restarted", after=2)
    with Stage(ledger, *steps, output_ends=False) as stage:
        assert end(stage.conduct()) == (State.ERROR, Reason.ENGINE_LOST)


def test_an_end_that_was_reported_in_spite_of_a_gap_is_not_the_engines_loss(ledger: Path) -> None:
    with Stage(ledger, happens(Unwatched, 0, "restarted", after=1), exits(137, after=2)) as stage:
        assert end(stage.conduct()) == (State.ERROR, Reason.EXIT)


def test_an_engine_that_does_not_answer_is_asked_again(ledger: Path) -> None:
    with Stage(ledger, unanswered(4), happens(OomKilled, after=1, seen=False), exits(137, after=1)) as stage:
        assert end(stage.conduct()) == (State.KILLED, Reason.OOM)


def test_when_the_engine_never_answers_again_what_was_reported_counts(ledger: Path) -> None:
    with Stage(ledger, unanswered(1e9), exits(3, after=1)) as stage:
        verdict = stage.conduct()
        assert (end(verdict), verdict.ended.exit_code) == ((State.ERROR, Reason.EXIT), 3)


def test_sources_that_disagree_are_both_on_record(ledger: Path) -> None:
    steps = exits(1, after=1, seen=False), Step(SECOND, lambda one: one.watcher.fact(Died(0, 2, "die")))
    with Stage(ledger, *steps) as stage:
        evidence = stage.conduct().ended.evidence
        assert (evidence["exits"], evidence["conflict"]) == ({"die": 2, "inspect": 1}, True)


# Memory.


@pytest.mark.parametrize("after", [0.5, 1, 1 + SETTLE / SECOND])
def test_out_of_memory_may_be_reported_until_a_moment_after_the_end(ledger: Path, after: float) -> None:
    with Stage(ledger, exits(137, after=1), happens(OomKilled, after=after)) as stage:
        assert end(stage.conduct()) == (State.KILLED, Reason.OOM)
        assert [event["source"] for event in stage.events(Kind.OOM_SEEN)] == ["event"]


def test_the_engines_flag_alone_says_out_of_memory(ledger: Path) -> None:
    with Stage(ledger, happens(OomKilled, after=1, seen=False), exits(137, after=1)) as stage:
        verdict = stage.conduct()
        assert (end(verdict), verdict.ended.oom) == ((State.KILLED, Reason.OOM), "certain")


def test_the_kernels_counter_read_with_the_totals_says_out_of_memory(ledger: Path) -> None:
    def counts(container: Any) -> None:
        def totals() -> None:
            container.watcher.fact(OomKilled(0, "cgroup"))

        container.totals = totals

    with Stage(ledger, Step(0, counts), exits(137, after=1)) as stage:
        verdict = stage.conduct()
        assert (end(verdict), verdict.ended.oom) == ((State.KILLED, Reason.OOM), "certain")


def test_137_close_to_the_limit_is_most_likely_out_of_memory(ledger: Path) -> None:
    with Stage(ledger, exits(137, after=1.5), samples=[Sample(mem_rss_bytes=62 * MIB)]) as stage:
        verdict = stage.conduct(memory="64m")
        assert (end(verdict), verdict.ended.oom) == ((State.KILLED, Reason.OOM), "likely")


def test_a_sample_of_what_the_kernel_left_does_not_hide_that_it_was_close_to_the_limit(ledger: Path) -> None:
    samples = [Sample(mem_rss_bytes=62 * MIB), Sample(mem_rss_bytes=7 * MIB), Sample(mem_rss_bytes=0, pids=0)]
    with Stage(ledger, exits(137, after=2.5), samples=samples) as stage:
        verdict = stage.conduct(memory="64m")
        assert (end(verdict), verdict.ended.oom) == ((State.KILLED, Reason.OOM), "likely")


def test_close_to_the_limit_long_ago_is_not_close_to_it(ledger: Path) -> None:
    samples = [Sample(mem_rss_bytes=62 * MIB), *[Sample(mem_rss_bytes=7 * MIB)] * 5]
    with Stage(ledger, exits(137, after=5.5), samples=samples) as stage:
        verdict = stage.conduct(memory="64m")
        assert (end(verdict), verdict.ended.oom) == ((State.ERROR, Reason.EXIT), None)


def test_137_when_the_highest_memory_has_just_reached_the_limit_is_too(ledger: Path) -> None:
    samples = [Sample(mem_peak_bytes=62 * MIB), Sample(mem_peak_bytes=64 * MIB)]
    with Stage(ledger, exits(137, after=1.5), samples=samples) as stage:
        verdict = stage.conduct(memory="64m")
        assert (end(verdict), verdict.ended.oom) == ((State.KILLED, Reason.OOM), "likely")


def test_137_when_it_was_cache_that_has_reached_the_limit_is_the_programs_own(ledger: Path) -> None:
    samples = [Sample(mem_peak_bytes=9 * MIB), Sample(mem_peak_bytes=64 * MIB, mem_cache_bytes=60 * MIB)]
    with Stage(ledger, exits(137, after=1.5), samples=samples) as stage:
        verdict = stage.conduct(memory="64m")
        assert (end(verdict), verdict.ended.oom) == ((State.ERROR, Reason.EXIT), None)


def test_137_when_what_is_in_use_has_reached_the_limit_is_too(ledger: Path) -> None:
    """Files in memory (tmpfs) are counted as cache, but no kernel can take them back."""
    full = Sample(mem_peak_bytes=64 * MIB, mem_usage_bytes=64 * MIB, mem_cache_bytes=60 * MIB)
    with Stage(ledger, exits(137, after=1.5), samples=[Sample(mem_peak_bytes=9 * MIB), full]) as stage:
        verdict = stage.conduct(memory="64m")
        assert (end(verdict), verdict.ended.oom) == ((State.KILLED, Reason.OOM), "likely")


def test_the_highest_memory_of_long_ago_says_nothing_of_the_end(ledger: Path) -> None:
    samples = [Sample(mem_peak_bytes=64 * MIB)] * 6
    with Stage(ledger, exits(137, after=5.5), samples=samples) as stage:
        verdict = stage.conduct(memory="64m")
        assert (end(verdict), verdict.ended.oom) == ((State.ERROR, Reason.EXIT), None)


def test_a_child_out_of_memory_does_not_end_the_call(ledger: Path) -> None:
    with Stage(ledger, happens(OomKilled, after=1), happens(OomKilled, after=2), exits(0, after=3)) as stage:
        verdict = stage.conduct()
        assert (end(verdict), verdict.ended.oom) == ((State.SUCCESS, Reason.EXIT), "certain")
        assert stage.kinds().count(Kind.OOM_SEEN) == 1


# Others.


@pytest.mark.parametrize(("signal", "stop", "code"), [("KILL", False, 137), ("TERM", True, 143), ("TERM", True, 0)])
def test_somebody_elses_kill_or_stop_is_external_with_the_signal(
    ledger: Path, signal: str, stop: bool, code: int  # noqa: FBT001
) -> None:  # fmt: skip
    kill = happens(ForeignSignal, signal, stop, after=1)
    with Stage(ledger, kill, on_signal={signal: exits(code, after=0.1)}) as stage:
        verdict = stage.conduct()
        assert (end(verdict), verdict.ended.signal) == ((State.KILLED, Reason.EXTERNAL), signal)


def test_a_signal_of_somebody_else_that_changes_nothing_is_no_end(ledger: Path) -> None:
    with Stage(ledger, happens(ForeignSignal, "HUP", after=1), exits(0, after=3), on_signal={"HUP": None}) as stage:
        assert end(stage.conduct()) == (State.SUCCESS, Reason.EXIT)


def test_what_somebody_removes_by_force_is_killed(ledger: Path) -> None:
    with Stage(ledger, happens(ForeignSignal, "KILL", after=1), happens(Destroyed, after=1)) as stage:
        assert end(stage.conduct()) == (State.KILLED, Reason.EXTERNAL)


# Health.


def test_a_call_with_a_health_check_waits_until_it_is_healthy(ledger: Path) -> None:
    with Stage(ledger, happens(HealthStatus, "healthy", after=4), exits(0, after=90), health=CHECK) as stage:
        assert end(stage.conduct()) == (State.SUCCESS, Reason.EXIT)
        seconds = stage.call()["seconds"]
        assert (seconds["health-wait"], seconds["running"]) == (4, 86)


@pytest.mark.parametrize(("code", "state"), [(0, State.SUCCESS), (3, State.ERROR)])
def test_what_ends_while_its_health_is_awaited_ends_by_its_code(ledger: Path, code: int, state: State) -> None:
    with Stage(ledger, exits(code, after=4), health=CHECK) as stage:
        assert end(stage.conduct()) == (state, Reason.EXIT)


@pytest.mark.parametrize("before", ["starting", "healthy"])
def test_what_turns_unhealthy_is_stopped_and_the_probe_is_quoted(ledger: Path, before: str) -> None:
    steps = happens(HealthStatus, before, after=2), happens(HealthStatus, "unhealthy", after=4)
    with Stage(ledger, *steps, health=CHECK, health_output="no route") as stage:
        assert end(stage.conduct()) == (State.ERROR, Reason.UNHEALTHY)
        assert stage.events(Kind.HEALTH_CHANGED)[-1]["output"] == "no route"
        assert stage.signals() == [("TERM", 4)]


def test_what_does_not_become_healthy_in_time_is_stopped(ledger: Path) -> None:
    with Stage(ledger, health=CHECK) as stage:
        assert end(stage.conduct()) == (State.TIMEOUT, Reason.HEALTH)
        assert stage.signals() == [("TERM", LIMIT)]


def test_health_that_nobody_reported_is_found_when_its_time_is_over(ledger: Path) -> None:
    steps = happens(HealthStatus, "healthy", after=1, seen=False), exits(0, after=60)
    with Stage(ledger, *steps, health=CHECK) as stage:
        assert end(stage.conduct(health_timeout=5)) == (State.SUCCESS, Reason.EXIT)
        assert (stage.signals(), stage.call()["seconds"]["health-wait"]) == ([], 5)


def test_how_long_health_may_take_can_be_said(ledger: Path) -> None:
    with Stage(ledger, health=CHECK) as stage:
        stage.conduct(health_timeout=5)
        assert (stage.signals(), stage.events(Kind.HEALTH_AWAITED)[0]["limit"]) == ([("TERM", 5)], 5 * SECOND)


def test_what_is_removed_while_its_health_is_awaited_is_destroyed(ledger: Path) -> None:
    steps = happens(ForeignSignal, "KILL", after=1), happens(Destroyed, after=1.1)
    with Stage(ledger, *steps, health=CHECK) as stage:
        assert end(stage.conduct()) == (State.ERROR, Reason.DESTROYED)


def test_health_that_nobody_reported_is_found_by_the_glance(ledger: Path) -> None:
    steps = happens(HealthStatus, "healthy", after=4, seen=False), exits(0, after=900)
    with Stage(ledger, *steps, health=CHECK) as stage:
        assert end(stage.conduct(health_timeout=600)) == (State.SUCCESS, Reason.EXIT)
        assert stage.call()["seconds"]["health-wait"] == GLANCE / SECOND


# Pauses.


def test_a_pause_is_recorded_and_measured(ledger: Path) -> None:
    with Stage(ledger, happens(Froze, after=1), happens(Thawed, after=4), exits(0, after=6)) as stage:
        assert end(stage.conduct()) == (State.SUCCESS, Reason.EXIT)
        seconds = stage.call()["seconds"]
        assert (seconds["paused"], seconds["running"]) == (3, 3)


def test_the_deadline_goes_on_while_paused(ledger: Path) -> None:
    with Stage(ledger, happens(Froze, after=1)) as stage:
        assert end(stage.conduct(timeout=5)) == (State.TIMEOUT, Reason.DEADLINE)
        assert stage.signals() == [("TERM", 5)]


def test_after_a_pause_health_is_awaited_as_before(ledger: Path) -> None:
    steps = happens(Froze, after=1), happens(Thawed, after=4), exits(0, after=9)
    with Stage(ledger, *steps, happens(HealthStatus, "healthy", after=5), health=CHECK) as stage:
        stage.conduct()
        assert stage.call()["seconds"] | {"total": 0} == {
            "preparing": 0, "prepared": 0, "running": 4, "health-wait": 2, "paused": 3, "total": 0
        }  # fmt: skip


def test_what_became_healthy_while_paused_is_not_waited_for_again(ledger: Path) -> None:
    steps = happens(Froze, after=1), happens(HealthStatus, "healthy", after=2), happens(Thawed, after=4)
    with Stage(ledger, *steps, exits(0, after=9), health=CHECK) as stage:
        assert end(stage.conduct()) == (State.SUCCESS, Reason.EXIT)
        assert stage.call()["seconds"] | {"total": 0} == {
            "preparing": 0, "prepared": 0, "running": 5, "health-wait": 1, "paused": 3, "total": 0
        }  # fmt: skip


def test_nothing_ends_well_while_frozen_so_the_thaw_that_was_not_seen_is_recorded(ledger: Path) -> None:
    with Stage(ledger, happens(Froze, after=1), happens(Thawed, after=2, seen=False), exits(0, after=3)) as stage:
        assert end(stage.conduct()) == (State.SUCCESS, Reason.EXIT)
        assert stage.kinds()[-4:] == [Kind.PAUSED, Kind.RESUMED, Kind.SUCCEEDED, Kind.CLEANED]


@pytest.mark.parametrize(("seen", "missed", "state"), [((), Froze, "paused"), ((Froze,), Thawed, "running")])
def test_a_pause_that_was_missed_in_a_gap_is_found_by_looking(
    ledger: Path, seen: tuple[Any, ...], missed: Any, state: str
) -> None:
    known = [happens(kind, after=1) for kind in seen]
    gap = happens(missed, after=2, seen=False), happens(Unwatched, 0, "restarted", after=3)
    with Stage(ledger, *known, *gap, exits(137, after=9)) as stage:
        stage.conduct()
        assert str(stage.events()[-3]["state"]) == state
