"""Rows 28 and 29 of the fault matrix: samples from an engine's stream that cannot be trusted."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from engine_box import NEVER, Box
from engine_http import drop, hang
from faults import WAITS, Told, World, world
from hypothesis import given
from hypothesis import strategies as st
from running import until
from scripted_engine import line, reading

from driver.docker.stats import documents
from driver.docker.stats import reading as sample_of
from machine.samples import METRICS

KEEP = 4096
HUGE = 2**70


@pytest.fixture
def stage(ledger: Path) -> Iterator[World]:
    """A runner on a scripted engine, whose control groups cannot be seen: samples come from its stream."""
    with world(ledger) as stage:
        yield stage


def sampled(stage: World, spoil: Callable[[Box, int], bytes | None], enough: int = 3, **options: Any) -> Told:
    """A call of which `enough` samples are recorded, where each second line of the stream is spoilt."""
    stage.engine.readings = lambda box, number: spoil(box, number) if number % 2 else line(box, number)
    stage.engine.pace = 0.02
    future = stage.script(WAITS, sample="100ms", **options)
    until(lambda: stage.query("SELECT count(*) FROM sample")[0][0] >= enough, "samples")
    stage.runner.cancel(future.id)
    return stage.end(future)


def rest(box: Box, number: int, **changed: Any) -> bytes:
    """A good document with something else in some places."""
    return json.dumps({**reading(box, number), **changed}).encode() + b"\n"


@pytest.mark.parametrize(
    "bad",
    [b"{\n", b"\xff\xfe\n", b"[1]\n", b"null\n", b'"text"\n', b"[" * 200_000 + b"\n", b"9" * 5000 + b"\n"],
)
def test_row_28_a_malformed_line_is_counted_and_the_next_good_one_is_used(stage: World, bad: bytes) -> None:
    told = sampled(stage, lambda *_: bad)
    assert told.verdict == ("cancelled", "user", 0, None)
    (gap,) = [gap for gap in told.gaps("samples") if gap["why"].startswith("malformed: ")]
    assert gap["lost"] >= 1
    assert len(gap["why"].encode()) <= KEEP
    assert stage.query("SELECT count(*) FROM sample WHERE mem_usage_bytes IS NULL") == [(0,)]


@pytest.mark.parametrize(
    "changed",
    [
        {"memory_stats": {"usage": float("nan")}},
        {"memory_stats": {"usage": HUGE, "limit": -1, "stats": {"inactive_file": "much"}}},
        {"networks": {"eth0": {"rx_bytes": 2**62}, "eth1": {"rx_bytes": 2**62, "tx_bytes": None}}},
        {"networks": {"eth0": 5}, "blkio_stats": {"io_service_bytes_recursive": ["read"]}},
        {"networks": [], "blkio_stats": {"io_service_bytes_recursive": {"op": "read"}}},
        {"cpu_stats": {"cpu_usage": {"total_usage": float("inf")}}, "pids_stats": 7},
        {"cpu_stats": None, "memory_stats": None, "pids_stats": None},
    ],
)
def test_row_28_a_value_that_makes_no_sense_is_not_measured(stage: World, changed: dict[str, Any]) -> None:
    told = sampled(stage, lambda box, number: rest(box, number, **changed))
    assert told.verdict == ("cancelled", "user", 0, None)
    assert not [gap for gap in told.gaps("samples") if "lost" in gap]
    columns = ", ".join(f"max({name})" for name in METRICS)
    (highest,) = stage.query(f"SELECT {columns} FROM sample")
    assert all(value is None or 0 <= value < 2**63 for value in highest)


@pytest.mark.parametrize("empty", [{}, {"read": NEVER}, {"read": None}])
def test_row_28_what_says_nothing_is_no_sample(stage: World, empty: dict[str, Any]) -> None:
    told = sampled(stage, lambda *_: json.dumps(empty).encode() + b"\n")
    assert told.verdict == ("cancelled", "user", 0, None)
    assert stage.query("SELECT count(*) FROM sample WHERE mem_usage_bytes IS NULL") == [(0,)]


def test_row_28_a_secret_in_a_malformed_line_is_not_recorded(stage: World) -> None:
    told = sampled(stage, lambda *_: b'{"env": "hunter2hunter2"\n', env={"PASSWORD": "hunter2hunter2"})
    assert told.gaps("samples")
    assert not stage.query("SELECT 1 FROM event WHERE instr(data, 'hunter2')")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
PLACES = st.sampled_from(
    ("read", "cpu_stats", "memory_stats", "networks", "blkio_stats", "pids_stats", "io_service_bytes_recursive")
)


@given(st.dictionaries(PLACES, JSON | st.dictionaries(PLACES | st.sampled_from(("cpu_usage", "stats")), JSON)))
def test_row_28_whatever_a_document_says_its_values_can_be_written(document: dict[str, Any]) -> None:
    """None, or what fits into a column of integers."""
    sample = sample_of({"read": "2026-11-21T08:22:41.5Z", **document})
    assert sample is None or all(value is None or (type(value) is int and 0 <= value < 2**63) for value in sample)


def test_row_28_a_line_without_an_end_is_counted_once_and_does_not_fill_the_memory() -> None:
    bad: list[bytes] = []
    pieces = [b"x" * 2**16] * 40 + [b"\n", json.dumps({"read": "now"}).encode() + b"\n"]
    assert list(documents(iter(pieces), bad.append)) == [{"read": "now"}]
    assert len(bad) == 1
    assert len(bad[0]) < 2**21


@pytest.mark.parametrize("said", [None, b""])
def test_row_29_a_stream_that_stalls_holds_up_no_end(stage: World, said: bytes | None) -> None:
    """The threads are counted when the world ends."""
    stage.engine.readings = lambda box, number: line(box, number) if number == 0 else said
    future = stage.script(WAITS, sample="100ms")
    until(lambda: stage.query("SELECT count(*) FROM sample")[0][0] == 1, "the only sample")
    stage.runner.cancel(future.id)
    assert stage.end(future).verdict == ("cancelled", "user", 0, None)


def test_row_29_a_stream_that_goes_on_after_the_end_is_not_listened_to(stage: World) -> None:
    stage.engine.readings = lambda _, number: (
        json.dumps({"read": "2026", "pids_stats": {"current": number}}).encode() + b"\n"
    )
    stage.engine.pace = 0.005
    future = stage.script(WAITS, sample="100ms")
    until(lambda: stage.query("SELECT count(*) FROM sample")[0][0] >= 3, "samples")
    stage.runner.cancel(future.id)
    told = stage.end(future)
    assert told.verdict == ("cancelled", "user", 0, None)
    (kept,) = stage.query("SELECT samples FROM call")[0]
    assert stage.query("SELECT count(*) FROM sample") == [(kept,)], "none came after the verdict"


def test_row_29_a_stream_that_breaks_off_is_asked_for_again(stage: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("driver.docker.stats._RETRY_SECONDS", 0.05)
    fault = stage.engine.lie("GET", "/stats$", drop, times=3)
    told = sampled(stage, line)
    assert told.verdict == ("cancelled", "user", 0, None)
    assert fault.met == 4


def test_row_29_a_stream_that_never_begins_holds_up_no_end(ledger: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("driver.docker.unending._HEAD_SECONDS", 0.5)
    with world(ledger) as stage:
        fault = stage.engine.lie("GET", "/stats$", hang, times=None)
        future = stage.script(WAITS, sample="100ms")
        until(lambda: fault.met, "the request")
        stage.runner.cancel(future.id)
        assert stage.end(future).verdict == ("cancelled", "user", 0, None)
