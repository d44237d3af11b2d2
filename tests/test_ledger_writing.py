"""Writing: in groups, from many threads and processes, with a bounded queue, and with kill -9 at any moment."""

from __future__ import annotations

import random
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from chain import breaks
from ledgers import START, Call, uid
from running import LIMIT

from ledger import queue
from ledger.append import EventIn
from ledger.ledger import Ledger
from ledger.queue import Posted
from ledger.sqlite import connect_reader, sqlite3
from machine import facts
from machine.errors import LedgerError, RefusedError
from machine.samples import METRICS, Sample
from machine.states import Kind, Reason, State

WRITES = f"""
import sys
from pathlib import Path
sys.path.insert(0, {str(Path(__file__).parent)!r})
from ledgers import Call
from ledger.ledger import Ledger
from machine.states import Reason, State
with Ledger(Path(sys.argv[1])) as ledger:
    for number in range(int(sys.argv[2]), int(sys.argv[3])):
        call = Call(ledger, number)
        print(call.id, 1, flush=True)
        call.start().sample(0.5, 1024).write(1, 0, b"out")
        print(call.id, 3, flush=True)
        call.verdict(State.SUCCESS, Reason.EXIT, exit_code=0)
        print(call.id, 4, flush=True)
"""
"""Records calls, and says (call, seq) of an event as soon as it is durable."""


@pytest.fixture
def open_ledger(ledger: Path) -> Iterator[Ledger]:
    with Ledger(ledger) as opened:
        yield opened


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Samples and output are not written before an event is."""
    monkeypatch.setattr(queue, "LINGER", 1e9)


def rows(path: Path, query: str, *values: object) -> list[Any]:
    with closing(connect_reader(path)) as connection:
        return connection.execute(query, values).fetchall()


def note(number: int = 0) -> str:
    return facts.Gap(of="events", since=number, until=number, why="a test").dump()


def together(ledger: Ledger, *events: EventIn) -> list[Future[int]]:
    """Queue events so that they are written in one group."""
    futures: list[Future[int]] = [Future() for _ in events]
    ledger._writer._queue.post(map(Posted, events, futures))
    return futures


def gap(call: int, number: int = 0) -> EventIn:
    return EventIn(call, Kind.GAP, None, START, None, note(number))


# Groups.


def test_an_illegal_event_does_not_spoil_its_group(open_ledger: Ledger) -> None:
    call = Call(open_ledger, 1)
    illegal = EventIn(call.id, Kind.HEALTHY, State.RUNNING, START, None, "{}")
    done = together(open_ledger, gap(call.id), illegal, gap(call.id))
    assert [type(one.exception(LIMIT)) for one in done] == [type(None), RefusedError, type(None)]
    assert rows(open_ledger.path, "SELECT seq FROM event") == [(1,), (2,), (3,)]


def test_a_refusal_names_the_event_and_the_call(open_ledger: Ledger) -> None:
    call = Call(open_ledger, 1)
    with pytest.raises(
        RefusedError, match=r"^the ledger refused healthy for call 1: event does not continue its call$"
    ):
        open_ledger.append(call.id, Kind.HEALTHY, State.RUNNING, START, None, "{}")


def test_an_event_of_a_call_that_does_not_exist_is_refused_in_one_line(open_ledger: Ledger) -> None:
    with pytest.raises(LedgerError, match=r"^there is no call 7 in this ledger$"):
        open_ledger.append(7, Kind.GAP, None, START, None, note())


@pytest.mark.parametrize("data", ["no json", "[]", '"text"', "{}"])
def test_an_event_that_says_nothing_sensible_is_refused_and_leaves_no_trace(open_ledger: Ledger, data: str) -> None:
    with pytest.raises((LedgerError, ValueError, KeyError, TypeError, AttributeError)):
        open_ledger.submit(uid(1), START, data)
    assert rows(open_ledger.path, "SELECT count(*) FROM event UNION SELECT count(*) FROM call") == [(0,)]


def test_a_sample_too_large_to_be_stored_is_counted_and_spoils_no_other(open_ledger: Ledger, patient: None) -> None:
    call = Call(open_ledger, 1).start()
    for pids in (1, 2**70, 3):
        open_ledger.sample(call.id, START, Sample(pids=pids))
    open_ledger.append(call.id, Kind.GAP, None, START, None, note())
    assert rows(open_ledger.path, "SELECT seq, pids FROM sample ORDER BY seq") == [(1, 1), (2, 3)]
    assert open_ledger.dropped(call.id) == 1


def test_samples_and_output_are_durable_with_the_next_event(open_ledger: Ledger, patient: None) -> None:
    Call(open_ledger, 1).start().sample(0.5, 1024).write(1, 0, b"out").end(State.SUCCESS, Reason.EXIT)
    counted = "SELECT (SELECT count(*) FROM sample), (SELECT count(*) FROM log)"
    assert rows(open_ledger.path, counted) == [(1, 1)]


def test_closing_writes_what_is_queued(ledger: Path, patient: None) -> None:
    with Ledger(ledger) as opened:
        Call(opened, 1).start().sample(0.5, 1024).write(1, 0, b"out")
    assert rows(ledger, "SELECT (SELECT count(*) FROM sample), (SELECT count(*) FROM log)") == [(1, 1)]


def test_after_closing_nothing_is_taken(ledger: Path) -> None:
    with Ledger(ledger) as opened:
        call = Call(opened, 1).start()
    assert not opened.sample(call.id, START, Sample(pids=1))
    with pytest.raises(LedgerError, match=f"^the ledger {ledger} is closed$"):
        call.note(facts.Paused())


# A bounded queue.


def test_samples_beyond_the_bound_are_dropped_and_counted(
    open_ledger: Ledger, patient: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queue, "MAX_SAMPLES", 5)
    call = Call(open_ledger, 1).start()
    kept = [open_ledger.sample(call.id, START, Sample(pids=number)) for number in range(8)]
    call.note(facts.Paused())
    assert kept == [True] * 5 + [False] * 3
    assert open_ledger.dropped(call.id) == 3
    assert rows(open_ledger.path, "SELECT pids FROM sample ORDER BY seq") == [(number,) for number in range(5)]


def test_when_the_queue_is_full_of_samples_events_still_get_through(
    open_ledger: Ledger, patient: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queue, "MAX_SAMPLES", 0)
    call = Call(open_ledger, 1).start()
    assert not open_ledger.sample(call.id, START, Sample())
    assert call.note(facts.Paused()).state is State.PAUSED


def test_output_beyond_the_bound_waits_and_none_is_lost(
    open_ledger: Ledger, patient: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queue, "MAX_CHUNK_BYTES", 10)
    call = Call(open_ledger, 1).start()
    for number in range(20):
        call.write(1, number * 8, b"8 bytes.")
    call.note(facts.Paused())
    offsets = rows(open_ledger.path, "SELECT offset_bytes FROM log ORDER BY seq")
    assert offsets == [(number * 8,) for number in range(20)]


# Threads and processes.


def test_events_of_many_threads_are_all_durable_and_numbered_without_a_gap(open_ledger: Ledger) -> None:
    call = Call(open_ledger, 1)
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda n: open_ledger.append(call.id, Kind.GAP, None, START, None, note(n)), range(400)))
    seqs = rows(open_ledger.path, "SELECT seq FROM event ORDER BY id")
    noted = rows(open_ledger.path, "SELECT DISTINCT data ->> 'since' FROM event WHERE seq > 1")
    assert ([seq for (seq,) in seqs], len(noted), breaks(open_ledger.path)) == (list(range(1, 402)), 400, [])


def test_calls_of_many_threads_are_all_recorded(open_ledger: Ledger) -> None:
    def conduct(number: int) -> int:
        return Call(open_ledger, number).start().sample(0.5, 1).end(State.SUCCESS, Reason.EXIT).id

    with ThreadPoolExecutor(8) as threads:
        ids = set(threads.map(conduct, range(1, 101)))
    assert (len(ids), breaks(open_ledger.path)) == (100, [])
    assert rows(open_ledger.path, "SELECT DISTINCT state, events, samples FROM call") == [("success", 5, 1)]


def test_two_processes_write_one_ledger_and_nothing_is_lost(ledger: Path) -> None:
    ranges = (("0", "200"), ("200", "400"))
    words = [[sys.executable, "-c", WRITES, str(ledger), *one] for one in ranges]
    processes = [subprocess.Popen(one, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) for one in words]
    said = [process.communicate()[1].decode() for process in processes]
    counted = rows(ledger, "SELECT count(*), sum(events), sum(samples), sum(chunks), count(DISTINCT uid) FROM call")
    dense = rows(ledger, "SELECT call_id FROM event GROUP BY call_id HAVING max(seq) <> count(*) OR min(seq) <> 1")
    assert (said, counted, dense, breaks(ledger)) == (["", ""], [(400, 1600, 400, 400, 400)], [], [])


def test_another_process_that_wrote_is_noticed(ledger: Path) -> None:
    noticed: Future[None] = Future()
    with Ledger(ledger, lambda: noticed.done() or noticed.set_result(None)):
        words = [sys.executable, "-c", WRITES, str(ledger), "1", "2"]
        subprocess.run(words, check=True, capture_output=True)
        assert noticed.result(LIMIT) is None


def test_whoever_listens_for_others_can_fail_and_the_writer_goes_on(ledger: Path) -> None:
    called: Future[None] = Future()

    def fail() -> None:
        called.done() or called.set_result(None)
        raise RuntimeError("the listener's fault")

    with Ledger(ledger, fail) as opened:
        subprocess.run([sys.executable, "-c", WRITES, str(ledger), "1", "2"], check=True, capture_output=True)
        called.result(LIMIT)
        (done,) = together(opened, gap(1))
        assert done.result(LIMIT) == 1


@pytest.mark.parametrize("seed", range(6))
def test_what_was_said_to_be_durable_survives_kill_9_at_any_moment(ledger: Path, seed: int) -> None:
    words = [sys.executable, "-c", WRITES, str(ledger), "0", "100000"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        said = [process.stdout.readline() for _ in range(random.Random(seed).randrange(1, 300))]
        process.kill()
        said += process.stdout.readlines()
    promised = {tuple(map(int, line.split())) for line in said if line.endswith("\n")}
    with Ledger(ledger) as opened:
        Call(opened, 999_999).start()
    assert rows(ledger, "PRAGMA integrity_check") == [("ok",)]
    assert promised - set(rows(ledger, "SELECT call_id, seq FROM event")) == set()
    assert breaks(ledger) == []


# The history of a call.


def ended(ledger: Ledger, number: int, samples: int, **metrics: Callable[[int], float]) -> Call:
    """A call with so many samples, over."""
    call = Call(ledger, number).start()
    for one in range(samples):
        values = {name: of(one) for name, of in metrics.items()}
        ledger.sample(call.id, START + one, Sample(**values))  # type: ignore[arg-type]
    return call.end(State.SUCCESS, Reason.EXIT, exit_code=0)


@pytest.mark.parametrize(("samples", "buckets"), [(0, 0), (1, 0), (240, 0), (241, 240), (1000, 240)])
def test_a_long_call_gets_240_buckets_a_metric_and_a_short_one_none(
    open_ledger: Ledger, samples: int, buckets: int
) -> None:
    ended(open_ledger, 1, samples, pids=lambda n: n, cpu_total_pct=lambda n: n / 2)
    counted = rows(open_ledger.path, "SELECT metric, count(*), sum(count) FROM histogram GROUP BY metric ORDER BY 1")
    codes = [METRICS.index("cpu_total_pct"), METRICS.index("pids")] if buckets else []
    assert counted == [(code, buckets, samples) for code in codes]


def test_every_call_shows_its_history_the_short_one_sample_by_sample(open_ledger: Ledger) -> None:
    ended(open_ledger, 1, 3, pids=lambda n: n, mem_usage_bytes=lambda n: 2**52 + n)
    points = rows(open_ledger.path, "SELECT * FROM histogram_point ORDER BY metric, bucket")
    values = [("mem_usage_bytes", n, 2**52 + n) for n in range(3)] + [("pids", n, n) for n in range(3)]
    assert points == [(1, n, name, START + n, START + n, 1, value, value, value, value) for name, n, value in values]


def test_a_call_that_has_not_ended_has_no_history_yet(open_ledger: Ledger) -> None:
    Call(open_ledger, 1).start().sample(0.5, 1024).note(facts.Paused())
    assert rows(open_ledger.path, "SELECT * FROM histogram_point") == []


def test_the_history_is_made_with_the_verdict_or_neither_is(ledger: Path) -> None:
    with Ledger(ledger) as opened:
        with closing(sqlite3.connect(ledger)) as other:
            other.execute("CREATE TRIGGER no BEFORE INSERT ON histogram BEGIN SELECT RAISE(ABORT, 'no'); END")
        with pytest.raises(LedgerError):
            ended(opened, 1, 300, pids=lambda n: n)
    assert rows(ledger, "SELECT state, ended_at FROM call") == [("running", None)]
    assert rows(ledger, "SELECT max(seq) FROM event") == [(3,)]
