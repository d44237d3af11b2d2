"""Output, samples and cleaning up; and what remains true when the ledger cannot be written at any moment."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import pytest
from chain import breaks
from conducting import Stage
from hypothesis import given, settings
from hypothesis import strategies as st

from calls.conduct import ABANDON, DRAIN, Asked, Conductor
from driver.protocol import (
    STDERR,
    STDOUT,
    Destroyed,
    ForeignSignal,
    Froze,
    HealthCheck,
    HealthStatus,
    OomKilled,
    OutputEnded,
    Thawed,
    Unwatched,
)
from driver.scripted import ScriptedContainer, Step, exits, happens, writes
from machine.errors import DriverError, LedgerError
from machine.samples import Sample
from machine.secrets import MARK
from machine.states import Kind, Reason, State
from machine.table import VERDICTS, fold
from machine.units import SECOND

MIB = 2**20
CHECK = HealthCheck(interval=SECOND, timeout=SECOND, retries=2, start_period=0)


# Output.


def test_output_is_passed_on_and_kept_stream_by_stream(ledger: Path) -> None:
    with Stage(ledger, writes(b"out"), writes(b"err", STDERR), writes(b"put", after=1), exits(0, after=2)) as stage:
        stage.conduct()
        assert stage.passed_on == [(STDOUT, b"out"), (STDERR, b"err"), (STDOUT, b"put")]
        assert stage.rows("SELECT stream, offset_bytes, data FROM log ORDER BY seq") == [
            (STDOUT, 0, b"out"),
            (STDERR, 0, b"err"),
            (STDOUT, 3, b"put"),
        ]


def test_the_middle_of_long_output_is_cut_and_the_cut_is_recorded(ledger: Path) -> None:
    with Stage(ledger, writes(b"head" + b"-" * 90 + b"tail"), exits(0, after=1)) as stage:
        stage.conduct(log_limit=8)
        (cut,) = stage.events(Kind.OUTPUT_CUT)
        assert (cut["stream"], cut["offset"], cut["lost"]) == ("stdout", 4, 90)
        assert stage.rows("SELECT offset_bytes, data FROM log ORDER BY seq") == [(0, b"head"), (94, b"tail")]


def test_a_limit_of_0_is_a_limit_of_which_all_that_was_lost_is_recorded(ledger: Path) -> None:
    with Stage(ledger, writes(b"out"), writes(b"put", after=1), exits(0, after=2)) as stage:
        stage.conduct(log_limit=0)
        (cut,) = stage.events(Kind.OUTPUT_CUT)  # nothing was lost of the other stream
        assert (cut["stream"], cut["offset"], cut["lost"]) == ("stdout", 0, 6)
        assert stage.rows("SELECT * FROM log") == []


def test_output_that_is_not_to_be_kept_is_passed_on_all_the_same(ledger: Path) -> None:
    with Stage(ledger, writes(b"out"), exits(0, after=1)) as stage:
        stage.conduct(log_limit="off")
        assert (stage.passed_on, stage.rows("SELECT * FROM log")) == ([(STDOUT, b"out")], [])


def test_a_secret_is_passed_on_but_not_kept_even_when_it_comes_in_pieces(ledger: Path) -> None:
    with Stage(ledger, writes(b"a hun"), writes(b"ter2 b", after=0.1), exits(0, after=1)) as stage:
        stage.conduct(env={"TOKEN": "hunter2"})
        assert b"".join(data for _, data in stage.passed_on) == b"a hunter2 b"
        assert b"".join(data for (data,) in stage.rows("SELECT data FROM log ORDER BY seq")).decode() == f"a {MARK} b"


def test_a_secret_in_what_the_engine_says_is_not_recorded(ledger: Path) -> None:
    with Stage(ledger, refuse_start=DriverError(Reason.START_REFUSED, "bad option hunter2")) as stage:
        stage.conduct(env={"TOKEN": "hunter2"})
        assert stage.call()["message"] == f"bad option {MARK}"


def test_a_stream_that_does_not_end_holds_up_neither_verdict_nor_removal_for_long(ledger: Path) -> None:
    with Stage(ledger, exits(0, after=3), output_ends=False) as stage:
        stage.conduct()
        times = {event["kind"]: event["t"] for event in stage.events()}
        drained = 3 + DRAIN / SECOND
        assert (times[Kind.SUCCEEDED], times[Kind.CLEANED]) == (drained, drained + ABANDON / SECOND)
        assert [gap["of"] for gap in stage.events(Kind.GAP)] == ["output"]


def test_what_is_written_between_end_and_removal_is_still_kept(ledger: Path) -> None:
    late = Step(5 * SECOND, lambda one: one.watcher.output(STDOUT, b"late"))
    ends = Step(6 * SECOND, lambda one: one.watcher.fact(OutputEnded(0)))
    with Stage(ledger, exits(0, after=1), late, ends, output_ends=False) as stage:
        stage.conduct()
        assert stage.rows("SELECT data FROM log") == [(b"late",)]
        assert stage.events(Kind.GAP) == []


# Samples.


def test_samples_are_recorded_as_they_come(ledger: Path) -> None:
    with Stage(ledger, exits(0, after=2.5), samples=[Sample(pids=number) for number in range(9)]) as stage:
        stage.conduct(sample="500ms")
        assert stage.rows("SELECT pids FROM sample ORDER BY seq") == [(number,) for number in range(5)]


def test_without_sampling_there_are_no_samples(ledger: Path) -> None:
    with Stage(ledger, exits(0, after=3), samples=[Sample(pids=1)] * 3, totals=Sample(pids=2)) as stage:
        stage.conduct(sample="off")
        assert stage.rows("SELECT * FROM sample") == []


def test_the_totals_are_in_the_verdict_however_short_the_call(ledger: Path) -> None:
    with Stage(ledger, exits(0), totals=Sample(cpu_total_ns=7, mem_peak_bytes=MIB)) as stage:
        ended = stage.conduct().ended
        assert (ended.cpu_ns, ended.mem_peak_bytes) == (7, MIB)


def test_samples_that_did_not_come_are_a_gap(ledger: Path) -> None:
    with Stage(ledger, exits(0, after=9), samples=[Sample(pids=1)], totals=Sample(pids=1)) as stage:
        stage.conduct()
        (gap,) = stage.events(Kind.GAP)
        assert (gap["of"], gap["until"] - gap["since"]) == ("samples", pytest.approx(9 * SECOND, abs=SECOND // 10))


def test_samples_that_did_not_come_and_never_do_are_a_gap(ledger: Path) -> None:
    with Stage(ledger, exits(0, after=9), samples=[Sample(pids=1)] * 3) as stage:
        stage.conduct()
        (gap,) = stage.events(Kind.GAP)
        assert (gap["of"], gap["until"] - gap["since"]) == ("samples", pytest.approx(7 * SECOND, abs=SECOND // 10))


def test_samples_that_cannot_come_oftener_are_no_gaps(ledger: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    observe = ScriptedContainer.observe
    monkeypatch.setattr(ScriptedContainer, "observe", lambda one, of, _, sink: observe(one, of, SECOND, sink))
    with Stage(ledger, exits(0, after=3), samples=[Sample(pids=1)] * 3) as stage:
        stage.conduct(sample="100ms")
        assert stage.rows("SELECT samples, gaps FROM call") == [(3, 0)]


def test_a_first_sample_that_did_not_come_is_a_gap(ledger: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ScriptedContainer, "observe", lambda *_: SECOND)
    with Stage(ledger, exits(0, after=9)) as stage:
        stage.conduct()
        (gap,) = stage.events(Kind.GAP)
        assert (gap["of"], gap["until"] - gap["since"]) == ("samples", pytest.approx(9 * SECOND, abs=SECOND // 10))


def test_the_last_sample_is_of_the_end_however_long_the_output_takes(ledger: Path) -> None:
    script: dict[str, Any] = {"samples": [Sample(pids=1)] * 2, "totals": Sample(cpu_total_ns=7)}
    ends = Step(4 * SECOND, lambda one: one.watcher.fact(OutputEnded(0)))
    with Stage(ledger, exits(0, after=1), ends, output_ends=False, **script) as stage:
        stage.conduct()
        (last,) = stage.rows("SELECT max(at) FROM sample")[0]
        assert (last - stage.begun, stage.events(Kind.GAP)) == (SECOND, [])


# Cleaning up.


def test_a_container_that_cannot_be_removed_is_cleaned_with_the_error(ledger: Path) -> None:
    refused = DriverError(Reason.ENGINE_LOST, "device is busy")
    with Stage(ledger, exits(0, after=1), refuse_remove=refused) as stage:
        assert stage.conduct().state is State.SUCCESS
        cleaned = stage.events()[-1]
        assert (cleaned["kind"], cleaned["removed"], cleaned["error"]) == (Kind.CLEANED, False, "device is busy")
        (warning,) = stage.told
        assert warning.startswith("warning: the call's container is left behind")


def test_a_container_that_is_to_be_kept_is_not_removed(ledger: Path) -> None:
    with Stage(ledger, exits(0, after=1)) as stage:
        stage.conduct(keep=True)
        assert ("remove" in stage.actions, stage.events()[-1]["removed"]) == (False, False)


# When the ledger cannot be written.


def test_when_prepared_cannot_be_recorded_the_container_is_never_started(ledger: Path) -> None:
    with Stage(ledger, exits(0), refuse=Kind.PREPARED) as stage:
        with pytest.raises(LedgerError):
            stage.conduct()
        assert "start" not in stage.actions


def test_when_the_submission_cannot_be_recorded_nothing_is_done(ledger: Path) -> None:
    with Stage(ledger, exits(0), refuse=Kind.SUBMITTED) as stage:
        with pytest.raises(LedgerError):
            stage.conduct()
        assert stage.actions == []


def test_when_the_verdict_cannot_be_recorded_the_container_is_kept(ledger: Path) -> None:
    with Stage(ledger, exits(0, after=1), refuse=Kind.SUCCEEDED) as stage:
        with pytest.raises(LedgerError):
            stage.conduct()
        assert "remove" not in stage.actions


LIVES: dict[str, tuple[list[Step], dict[str, Any], dict[str, Any], list[Kind]]] = {
    "success": (
        [
            happens(HealthStatus, "healthy", after=1),
            happens(Froze, after=2),
            happens(Thawed, after=3),
            writes(b"-" * 99, after=4),
            exits(0, after=5),
        ],
        {"pulls": 1, "health": CHECK},
        {"log_limit": 10},
        [
            *(Kind.SUBMITTED, Kind.PULLED, Kind.PREPARED, Kind.STARTED, Kind.HEALTH_AWAITED, Kind.HEALTHY),
            *(Kind.PAUSED, Kind.RESUMED, Kind.OUTPUT_CUT, Kind.SUCCEEDED, Kind.CLEANED),
        ],
    ),
    "timeout": (
        [happens(Unwatched, 0, "restarted", after=1)],
        {"on_signal": {"TERM": None}},
        {"timeout": 5},
        [
            *(Kind.SUBMITTED, Kind.PREPARED, Kind.STARTED, Kind.GAP),
            *(Kind.SIGNALLED, Kind.SIGNALLED, Kind.TIMED_OUT, Kind.CLEANED),
        ],
    ),
}
FAULTS = [(life, number) for life, (_, _, _, kinds) in LIVES.items() for number in range(1, len(kinds) + 1)]


@pytest.mark.parametrize("life", LIVES)
def test_the_lives_that_are_broken_off_below(ledger: Path, life: str) -> None:
    steps, script, options, kinds = LIVES[life]
    with Stage(ledger, *steps, **script) as stage:
        stage.conduct(**options)
        assert stage.kinds() == kinds


@pytest.mark.parametrize(("life", "number"), FAULTS)
def test_whichever_event_cannot_be_recorded_the_record_ends_there(ledger: Path, life: str, number: int) -> None:
    steps, script, options, kinds = LIVES[life]
    with Stage(ledger, *steps, fail_at=number, **script) as stage:
        with pytest.raises(LedgerError, match=r"^the disk is full$"):
            stage.conduct(**options)
        assert (stage.kinds(), breaks(ledger)) == (kinds[: number - 1], [])


@pytest.mark.parametrize(("life", "number"), FAULTS)
def test_whichever_event_cannot_be_recorded_nothing_is_started_twice_or_runs_on(
    ledger: Path, life: str, number: int
) -> None:
    steps, script, options, _ = LIVES[life]
    with Stage(ledger, *steps, fail_at=number, **script) as stage:
        with pytest.raises(LedgerError):
            stage.conduct(**options)
        stage.clock.advance(SECOND)  # a signal takes its time
        for container in stage.driver.containers.values():
            assert container.starts <= 1
            assert container.inspect().status not in {"running", "paused"}


# Whatever happens.

AFTER = st.integers(0, 40).map(lambda quarters: quarters / 4)
SIGNAL = st.sampled_from(("KILL", "TERM", "HUP"))


def asking(why: Any, signal: str, after: float) -> Step:
    def ask(container: Any) -> None:
        if isinstance(container.watcher, Conductor):
            container.watcher.ask(Asked(why, signal))

    return Step(round(after * SECOND), ask)


def happening(kind: Any, *details: st.SearchStrategy[Any]) -> st.SearchStrategy[Step]:
    return st.builds(
        lambda after, seen, *told: happens(kind, *told, after=after, seen=seen), AFTER, st.booleans(), *details
    )


STEPS = st.lists(
    happening(Froze)
    | happening(Thawed)
    | happening(OomKilled)
    | happening(Destroyed)
    | happening(HealthStatus, st.sampled_from(("starting", "healthy", "unhealthy")))
    | happening(ForeignSignal, SIGNAL, st.booleans())
    | happening(Unwatched, st.just(0), st.just("restarted"))
    | st.builds(exits, st.sampled_from((0, 1, 137, 255)), after=AFTER, seen=st.booleans())
    | st.builds(writes, st.binary(max_size=9), after=AFTER)
    | st.builds(asking, st.sampled_from(("cancel", "kill")), SIGNAL, AFTER),
    max_size=8,
)
ANSWERS = st.dictionaries(SIGNAL, st.none() | st.builds(exits, st.sampled_from((0, 1, 137)), after=AFTER))


@settings(max_examples=150)
@given(STEPS, ANSWERS, st.booleans(), st.booleans(), st.none() | st.integers(1, 12))
def test_whatever_happens_a_call_ends_once_and_never_well_unless_it_exited_with_0(
    steps: list[Step], answers: dict[str, Step | None], ends: bool, healthy: bool, timeout: int | None  # noqa: FBT001
) -> None:  # fmt: skip
    script = {"on_signal": answers, "output_ends": ends, "health": CHECK if healthy else None}
    options = {} if timeout is None else {"timeout": timeout}
    with (
        tempfile.TemporaryDirectory() as folder,
        Stage(Path(folder) / "l.db", *steps, exits(3, after=500), **script) as stage,
    ):
        state, ended = stage.conduct(stop_timeout=1, log_limit=8, **options)
        kinds = stage.kinds()
        assert fold(kinds) is state
        assert (kinds[-1], sum(kind in VERDICTS.values() for kind in kinds)) == (Kind.CLEANED, 1)
        assert stage.container.starts == 1
        assert state is not State.SUCCESS or 0 in ended.evidence["exits"].values()
