"""Who begins, who waits and who never can: slots, memory and CPUs of one runner."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from held import Ahead, HeldDriver
from hypothesis import given
from hypothesis import strategies as st
from invariants import invariants
from ledgers import said
from running import IMAGE, until

import calls
from calls.admission import Admission, Need, Ticket
from calls.slots import CallFuture
from ledger.read import Reader
from machine.errors import SpecError, UsageError
from machine.spec import Spec
from machine.units import SECOND

GIB = 2**30


@pytest.fixture
def driver() -> HeldDriver:
    return HeldDriver()


def ask(runner: calls.Runner, name: str, **options: Any) -> CallFuture:
    return runner.submit("image", driver="held", sample="off", name=name, **options)


def log(ledger: Path, call: str) -> list[dict[str, Any]]:
    with Reader(ledger) as reader:
        return reader.events(reader.resolve(call))


def kinds(ledger: Path, call: str) -> list[str]:
    return [event["kind"] for event in log(ledger, call)]


def recorded(ledger: Path, call: str) -> bool:
    with Reader(ledger) as reader:
        return call in {row["name"] for row in reader.calls()}


def states(ledger: Path) -> dict[str, str]:
    with Reader(ledger) as reader:
        return {row["name"]: row["state"] for row in reader.calls()}


# By itself.


class Asked:
    """One of those who ask, and what came of it."""

    def __init__(self, admission: Admission, need: Need) -> None:
        self.calls = 0
        self.ticket = admission.ask(need, self.go)
        self.let_in = not self.ticket.lacking

    def go(self, ticket: Ticket) -> None:
        self.calls += 1
        self.let_in = True
        assert ticket.lacking


NEEDS = st.builds(Need, st.just(1), st.integers(0, 10), st.integers(0, 10))
STEPS = st.lists(st.one_of(NEEDS, st.tuples(st.sampled_from(["leave", "withdraw"]), st.integers(0, 30))), max_size=60)


@given(STEPS)
def test_within_the_budgets_in_the_order_of_asking_and_no_room_is_left_unused(steps: list[Any]) -> None:
    admission = Admission(3, 10, 10e-9, lambda: 0)
    inside: list[Asked] = []
    waiting: list[Asked] = []
    for step in steps:
        before = list(waiting)
        if isinstance(step, Need):
            one = Asked(admission, step)
            (inside if one.let_in else waiting).append(one)
        elif step[0] == "leave" and inside:
            admission.leave(inside.pop(step[1] % len(inside)).ticket)
        elif step[0] == "withdraw" and waiting:
            gone = waiting.pop(step[1] % len(waiting))
            before.remove(gone)
            assert admission.withdraw(gone.ticket)
            assert not admission.withdraw(gone.ticket)
            admission.leave(gone.ticket)
        newly = [one for one in before if one.let_in]
        assert newly == before[: len(newly)]
        waiting = [one for one in waiting if not one.let_in]
        inside += newly
        held = [sum(amounts) for amounts in zip(*(one.ticket.need for one in inside), strict=True)] or [0, 0, 0]
        assert held[0] <= 3
        assert max(held[1:]) <= 10
        if waiting:
            first = waiting[0].ticket.need
            assert held[0] == 3 or held[1] + first.memory > 10 or held[2] + first.cpus > 10
        assert admission.counts() == (len(inside), len(waiting))
        assert all(one.calls == bool(one.ticket.lacking) for one in inside)
        assert not any(one.calls for one in waiting)
    while inside or waiting:
        admission.leave((inside or waiting).pop(0).ticket)
        inside += [one for one in waiting if one.let_in]
        waiting = [one for one in waiting if not one.let_in]
    admission.drain()
    assert not admission.ask(Need(3, 10, 10), lambda _: None).lacking


def test_fractions_of_cpus_add_up_exactly() -> None:
    admission = Admission(100, None, 1, lambda: 0)
    need = admission.need(Spec(cpus=0.1))
    tickets = [admission.ask(need, lambda _: None) for _ in range(11)]
    assert [bool(ticket.lacking) for ticket in tickets] == [False] * 10 + [True]


@pytest.mark.parametrize(
    ("budget", "message"),
    [
        ({"max_calls": 0}, "max_calls: must be at least 1"),
        ({"memory": "much"}, "memory: 'much' is not a size"),
        ({"memory": 0}, "memory: must be more than 0"),
        ({"cpus": 0}, "cpus: 0 is not a number of CPUs"),
        ({"cpus": float("nan")}, "cpus: nan is not"),
        ({"cpus": "4"}, "cpus: '4' is not"),
        ({"cpus": True}, "cpus: True is not"),
    ],
)
def test_a_budget_that_is_none_is_refused_before_there_is_a_ledger(
    ledger: Path, budget: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        calls.Runner(ledger, **budget)
    assert not ledger.exists()


# In a runner.


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"memory": "5g", "cpus": 1}, r"--memory: 5.0GiB can never fit: this runner has 4.0GiB for all calls"),
        ({"memory": "1g", "cpus": 4}, r"--cpus: 4 CPUs can never fit: this runner has 3.5 CPUs for all calls"),
        ({"cpus": 1}, r"--memory: give the call a limit: this runner has 4.0GiB for all calls"),
        ({"memory": "1g"}, r"--cpus: give the call a limit: this runner has 3.5 CPUs"),
    ],
)
def test_what_can_never_fit_or_has_no_limit_is_refused_and_nothing_is_written(
    ledger: Path, driver: HeldDriver, options: dict[str, Any], message: str
) -> None:
    with calls.Runner(ledger, drivers=[driver], memory="4g", cpus=3.5) as runner:
        with pytest.raises(SpecError, match=message):
            ask(runner, "large", **options)
        assert runner.admission.counts() == (0, 0)
    assert states(ledger) == {}


def test_who_waits_is_recorded_at_once_and_for_how_long_and_for_what(ledger: Path, driver: HeldDriver) -> None:
    clock = Ahead()
    with calls.Runner(ledger, drivers=[driver], max_calls=1, clock=clock) as runner:
        futures = [ask(runner, "one"), ask(runner, "two", prepare_timeout=5)]
        first = driver.running("one")
        until(lambda: recorded(ledger, "two"), "the second call in the ledger")
        assert (states(ledger)["two"], kinds(ledger, "two")) == ("preparing", ["submitted"])
        clock.skip(10 * SECOND)  # more than its time to prepare, which has not begun
        first.end()
        driver.running("two").end()
        assert [future.result(60).state for future in futures] == ["success", "success"]
    assert kinds(ledger, "two") == ["submitted", "admitted", "prepared", "started", "succeeded", "cleaned"]
    assert "admitted" not in kinds(ledger, "one")
    admitted = log(ledger, "two")[1]["data"]
    assert 10 * SECOND <= admitted["waited"] < 60 * SECOND
    assert admitted["lacking"] == ["calls"]
    invariants(ledger)


def test_nobody_overtakes(ledger: Path, driver: HeldDriver) -> None:
    with calls.Runner(ledger, drivers=[driver], memory="4g") as runner:
        futures = [ask(runner, "a", memory="3g"), ask(runner, "b", memory="2g"), ask(runner, "c", memory="1g")]
        driver.running("a")
        until(lambda: recorded(ledger, "c"), "the last of them in the ledger")
        assert list(driver.containers) == ["a"]  # though c would fit beside it
        driver.containers["a"].end()
        for name in ("b", "c"):
            driver.running(name)
        driver.containers["c"].end()
        driver.containers["b"].end()
        assert {future.result(60).state for future in futures} == {"success"}
    assert log(ledger, "b")[1]["data"]["lacking"] == ["memory"]
    assert log(ledger, "c")[1]["data"]["lacking"] == ["turn"]


@pytest.mark.parametrize("way", ["runner", "command", "future", "kill"])
def test_who_waits_is_cancelled_at_once_by_whomever(ledger: Path, driver: HeldDriver, way: str) -> None:
    with calls.Runner(ledger, drivers=[driver], max_calls=1) as runner:
        one, two, three = (ask(runner, name) for name in ("one", "two", "three"))
        driver.running("one")
        until(lambda: recorded(ledger, "two"), "the second call in the ledger")
        if way == "runner":
            runner.cancel(two.id)
        elif way == "kill":
            runner.kill(two.id)
        elif way == "command":
            assert said(ledger, "cancel", "two")[0] == 0
        else:
            assert two.cancel()
        until(lambda: kinds(ledger, "two")[-1] == "cleaned", "its end")
        assert not one.done()
        if way != "future":
            ended = two.result(60)
            assert (ended.state, ended.reason, ended.never_ran) == (
                "killed" if way == "kill" else "cancelled",
                "user",
                True,
            )
        driver.containers["one"].end()
        driver.running("three").end()
        assert three.result(60).state == "success"
    last = ["kill-requested", "killed"] if way == "kill" else ["cancel-requested", "cancelled"]
    assert kinds(ledger, "two") == ["submitted", *last, "cleaned"]
    assert "two" not in driver.containers
    invariants(ledger)


def test_a_wish_that_comes_before_the_call_is_recorded_is_not_lost(ledger: Path, driver: HeldDriver) -> None:
    with calls.Runner(ledger, drivers=[driver], max_calls=1) as runner:
        one = ask(runner, "one")
        for _ in range(50):
            two = ask(runner, "two")
            runner.cancel(two.id)
            assert two.result(60).state == "cancelled"
        driver.running("one").end()
        assert one.result(60).state == "success"
    assert list(driver.containers) == ["one"]
    invariants(ledger)


def test_a_wish_for_the_end_that_meets_the_beginning_counts_in_any_case(ledger: Path, driver: HeldDriver) -> None:
    with calls.Runner(ledger, drivers=[driver], max_calls=1) as runner:
        for number in range(40):
            one, two = ask(runner, f"one{number}"), ask(runner, f"two{number}")
            container = driver.running(f"one{number}")
            makes_room = threading.Thread(target=container.end)
            makes_room.start()
            runner.cancel(two.id)
            makes_room.join()
            assert (one.result(60).state, two.result(60).state) == ("success", "cancelled")
    invariants(ledger)


def test_leaving_waits_for_who_waits_and_after_an_error_ends_them(ledger: Path, driver: HeldDriver) -> None:
    with calls.Runner(ledger, drivers=[driver], max_calls=1) as runner:
        futures = [ask(runner, name) for name in ("a", "b", "c")]
        ends = threading.Thread(target=lambda: [driver.running(name).end() for name in ("a", "b", "c")])
        ends.start()
    ends.join()
    assert [future.result(0).state for future in futures] == ["success"] * 3

    def fail() -> None:
        with calls.Runner(ledger, drivers=[driver], max_calls=1) as runner:
            futures[:] = [ask(runner, name) for name in ("d", "e", "f")]
            driver.running("d")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert [future.result(0).state for future in futures] == ["cancelled"] * 3
    invariants(ledger)


def test_leaving_after_an_error_ends_the_calls_though_the_ledger_is_gone(
    ledger: Path, driver: HeldDriver, tmp_path: Path
) -> None:
    futures: list[CallFuture] = []

    def fail() -> None:
        with calls.Runner(ledger, drivers=[driver], max_calls=1) as runner:
            futures[:] = [ask(runner, "one"), ask(runner, "two")]
            driver.running("one")
            until(lambda: recorded(ledger, "two"), "the second call in the ledger")
            ledger.rename(tmp_path / "moved.db")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert [future.result(0).state for future in futures] == ["cancelled"] * 2


def test_thousands_wait_without_a_thread_each_and_all_can_be_cancelled(ledger: Path, driver: HeldDriver) -> None:
    count = 2000
    with calls.Runner(ledger, drivers=[driver], max_calls=1) as runner:
        one = ask(runner, "one")
        driver.running("one")
        spec = Spec.parse(driver="held", image="image", sample="off")
        threads = threading.active_count()
        futures = [runner.submit_spec(spec) for _ in range(count)]
        until(lambda: len(states_of_all(ledger)) == count + 1 and not runner.roster.expected, "all in the ledger")
        assert threading.active_count() <= threads + 1  # the usher
        assert runner.admission.counts() == (1, count)
        runner.cancel_all()
        assert {future.result(60).state for future in [one, *futures]} == {"cancelled"}
    assert len(driver.containers) == 1
    assert {*states_of_all(ledger)} == {"cancelled"}


def states_of_all(ledger: Path) -> list[str]:
    with Reader(ledger) as reader:
        return [state for (state,) in reader.query("SELECT state FROM call")[1]]


def test_one_key_is_one_call_also_of_those_who_wait(ledger: Path, driver: HeldDriver) -> None:
    with calls.Runner(ledger, drivers=[driver], max_calls=1) as runner:
        one = ask(runner, "one")
        driver.running("one")
        same = [ask(runner, "two", idempotency_key="k") for _ in range(5)]
        until(lambda: recorded(ledger, "two"), "one of them in the ledger")
        driver.containers["one"].end()
        driver.running("two").end(3)
        assert {(future.result(60).exit_code, future.id) for future in same} == {(3, same[0].id)}
        assert one.result(60).state == "success"
    with Reader(ledger) as reader:
        assert len(list(reader.calls())) == 2


def test_who_is_the_same_call_as_one_who_waits_does_not_keep_it_from_its_slot(ledger: Path, driver: HeldDriver) -> None:
    gate = threading.Event()
    with calls.Runner(ledger, drivers=[driver], max_calls=1) as runner:
        one = ask(runner, "one")
        one.add_done_callback(lambda _: gate.wait())  # in the thread in which the next call is to be carried out
        driver.running("one").end()
        until(lambda: runner.admission.counts() == (0, 0), "an empty slot")
        admitted, waits = (ask(runner, name, idempotency_key="k") for name in ("a", "b"))
        until(lambda: recorded(ledger, "b"), "the one who waits in the ledger, before the one who may begin")
        gate.set()
        driver.running("b").end(3)
        assert [future.result(60).exit_code for future in (admitted, waits)] == [3, 3]
        assert admitted.id == waits.id
        assert not runner.roster.expected
    assert "a" not in driver.containers
    invariants(ledger)


def test_who_only_waits_for_the_end_of_another_runners_call_takes_no_slot(ledger: Path, driver: HeldDriver) -> None:
    with (
        calls.Runner(ledger, drivers=[driver]) as other,
        calls.Runner(ledger, drivers=[driver], max_calls=1) as runner,
    ):
        theirs = ask(other, "theirs", idempotency_key="k")
        driver.running("theirs")
        same, ours = ask(runner, "same", idempotency_key="k"), ask(runner, "ours")
        driver.running("ours").end()
        assert ours.result(60).state == "success"
        assert not same.done()
        driver.containers["theirs"].end(3)
        assert same.result(60) == theirs.result(60)


def test_who_cannot_be_recorded_does_not_wait(ledger: Path, driver: HeldDriver, tmp_path: Path) -> None:
    with calls.Runner(ledger, drivers=[driver], max_calls=1) as runner:
        one = ask(runner, "one")
        driver.running("one")
        ledger.rename(tmp_path / "moved.db")
        with pytest.raises(calls.LedgerError):
            ask(runner, "two").result(60)
        assert runner.admission.counts() == (1, 0)
        (tmp_path / "moved.db").rename(ledger)
        driver.containers["one"].end()
        assert one.result(60).state == "success"


def test_what_a_future_calls_back_may_wait_for_other_calls(ledger: Path, driver: HeldDriver) -> None:
    told: list[str] = []
    with calls.Runner(ledger, drivers=[driver], max_calls=1) as runner:
        ask(runner, "one")
        driver.running("one")
        two = ask(runner, "two")
        two.add_done_callback(lambda _: told.append(ask(runner, "three").result(60).state))
        runner.cancel(two.id)
        until(lambda: recorded(ledger, "three"), "the call of the callback")
        driver.containers["one"].end()
        driver.running("three").end()
    assert told == ["success"]


SCRIPT = """
import sys, threading
import calls
with calls.Runner(sys.argv[1], max_calls=1) as runner:
    for name in ("one", "two", "three"):
        runner.submit(None, ["sleep", "600"], driver="local", name=name)
    print("asked", flush=True)
    threading.Event().wait()
"""


@pytest.fixture
def abandoned(ledger: Path) -> Path:
    """A ledger whose runner was killed while one call ran and two waited."""
    with subprocess.Popen([sys.executable, "-c", SCRIPT, str(ledger)], stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == b"asked\n"
            until(lambda: len(states(ledger)) == 3 and states(ledger)["one"] == "running", "three calls, one that runs")
        finally:
            process.kill()
    return ledger


def test_those_who_wait_for_a_runner_that_is_gone_are_settled_and_never_ran(abandoned: Path) -> None:
    assert said(abandoned, "recover")[0] == 0
    assert said(abandoned, "kill", "one")[0] == 0
    until(lambda: kinds(abandoned, "one")[-1] == "cleaned", "the end of the one that ran")
    with Reader(abandoned) as reader:
        waited = [reader.show(name) for name in ("two", "three")]
    assert {(call["state"], call["reason"], call["never_ran"]) for call in waited} == {("error", "lost", True)}
    invariants(abandoned)


def test_show_says_for_how_long_it_waited_and_for_what(ledger: Path, driver: HeldDriver) -> None:
    clock = Ahead()
    with calls.Runner(ledger, drivers=[driver], memory="1g", clock=clock) as runner:
        ask(runner, "one", memory="1g")
        ask(runner, "two", memory="1g")
        driver.running("one")
        clock.skip(90 * SECOND)
        driver.containers["one"].end()
        driver.running("two").end()
    assert "waited     1m30s, for memory\n" in said(ledger, "show", "two")[1]
    assert "waited" not in said(ledger, "show", "one")[1]


@pytest.mark.engine
def test_on_an_engine_no_more_runs_at_once_than_fits(ledger: Path) -> None:
    with calls.Runner(ledger, memory="100m") as runner:
        options = {"network": "none", "memory": "60m", "sample": "off"}
        futures = [runner.submit(IMAGE, ["true"], **options) for _ in range(4)]
        assert {future.result(60).state for future in futures} == {"success"}
    with Reader(ledger) as reader:
        rows = reader.query(
            "SELECT kind.name FROM event JOIN kind ON kind.code = event.kind "
            "WHERE kind.name IN ('prepared', 'cleaned') ORDER BY event.id"
        )[1]
        assert [name for (name,) in rows] == ["prepared", "cleaned"] * 4
