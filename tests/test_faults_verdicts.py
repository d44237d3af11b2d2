"""Rows 23 to 25 of the fault matrix on the scripted engine: health, memory, and the many ways to 137."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from faults import IGNORES, WAITS, World, world

from machine.units import SECOND

HEALTH: dict[str, Any] = {"health_interval": "50ms", "health_retries": 2, "stop_timeout": 0}
OOM = ("killed", "oom", 137, "KILL")


@pytest.fixture
def stage(ledger: Path) -> Iterator[World]:
    """A runner on a scripted engine."""
    with world(ledger) as stage:
        yield stage


def test_row_23_what_is_unhealthy_is_stopped(stage: World) -> None:
    told = stage.end(stage.script(IGNORES, health_cmd="echo broken; false", **HEALTH))
    assert told.verdict == ("error", "unhealthy", 137, None)
    assert told.of("health-changed") == [{"status": "unhealthy", "output": "broken"}]


@pytest.mark.parametrize(("code", "verdict"), [(0, ("success", "exit")), (1, ("error", "exit"))])
def test_row_23_what_ends_before_it_is_healthy_ends_by_its_code(
    stage: World, code: int, verdict: tuple[str, str]
) -> None:
    told = stage.run("sh", "-c", f"exit {code}", health_cmd="true", **{**HEALTH, "health_interval": "60s"})
    assert told.verdict == (*verdict, code, None)


def test_row_23_what_is_never_healthy_runs_out_of_time(stage: World) -> None:
    options = {**HEALTH, "health_retries": 10_000, "health_timeout": "300ms"}
    assert stage.end(stage.script(IGNORES, health_cmd="false", **options)).verdict == ("timeout", "health", 137, None)


def test_row_23_what_is_removed_before_it_is_healthy_is_destroyed(stage: World) -> None:
    future = stage.script(IGNORES, health_cmd="true", **{**HEALTH, "health_interval": "60s"})
    client = stage.client()
    client.remove_container(future.id, force=True)
    client.close()
    assert stage.end(future).verdict[:2] == ("error", "destroyed")


def test_row_24_out_of_memory_of_the_first_process_is_killed_for_certain(stage: World) -> None:
    future = stage.script(IGNORES)
    stage.engine.call(lambda: stage.box(future).oom(fatal=True))
    told = stage.end(future)
    assert (told.verdict, told.evidence["oom"]) == (OOM, ["event", "inspect"])


def test_row_24_out_of_memory_of_a_child_ends_nothing(stage: World) -> None:
    future = stage.script(WAITS)
    stage.engine.call(lambda: stage.box(future).oom(fatal=False))
    stage.until(future, "oom-seen")
    stage.client().kill(future.id, "TERM")
    told = stage.end(future)
    assert told.verdict == ("success", "exit", 0, None)
    assert told.evidence["oom"] == ["event", "inspect"]


def test_row_24_an_event_that_comes_after_the_end_still_counts(stage: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("calls.watch.SETTLE", 3 * SECOND)
    future = stage.script(IGNORES)
    box = stage.box(future)

    def late(event: dict[str, Any]) -> list[dict[str, Any]]:
        if event["Action"] == "die":  # the engine had set no flag yet, either
            threading.Timer(0.1, stage.engine.emit, (box, "oom")).start()
        return [event]

    stage.engine.events_pass = late
    stage.engine.call(lambda: box._all(9))
    told = stage.end(future)
    assert (told.verdict, told.evidence["oom"]) == (OOM, ["event"])


def test_row_24_without_any_sign_137_is_no_out_of_memory(stage: World) -> None:
    future = stage.script(IGNORES)
    stage.engine.call(lambda: stage.box(future)._all(9))
    assert stage.end(future).verdict == ("error", "exit", 137, None)


def test_row_25_four_ways_to_137_are_four_verdicts(stage: World) -> None:
    timeout, cancel, external, oom = (
        stage.script(IGNORES, stop_timeout="0", **options) for options in ({"timeout": "500ms"}, {}, {}, {})
    )
    stage.runner.cancel(cancel.id)
    stage.client().kill(external.id)
    stage.engine.call(lambda: stage.box(oom).oom(fatal=True))
    own = stage.submit("sh", "-c", "exit 137")
    assert [stage.end(future).verdict for future in (timeout, cancel, external, oom, own)] == [
        ("timeout", "deadline", 137, None),
        ("cancelled", "user", 137, None),
        ("killed", "external", 137, "KILL"),
        OOM,
        ("error", "exit", 137, None),
    ]
