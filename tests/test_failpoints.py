"""A process that fails at any point at which it writes, in any way: afterwards the ledger is legal and tells no lies.

The points are found by passing them once: one that is added tomorrow is tried tomorrow.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from pathlib import Path
from queue import SimpleQueue

import pytest
from failing import OTHER, Failing, Outcome
from invariants import invariants

from ledger.failpoint import ACTIONS
from ledger.ledger import Ledger
from ledger.sqlite import connect_reader

HEALTHY = ["submitted", "prepared", "started", "paused", "resumed", "oom-seen", "failed", "cleaned"]
LAST_WORDS = [*HEALTHY, "gap", "gap"]
"""Of a ledger that could not be written to the end: samples and output are lost, and that is recorded."""
WRITES = f"""
import sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
from pathlib import Path
from ledgers import Call
from ledger.ledger import Ledger
with Ledger(Path(sys.argv[1])) as ledger:
    Call(ledger, 1).start()
"""

Stage = SimpleQueue[Failing]


@pytest.fixture(scope="module")
def stages() -> Iterator[Stage]:
    """Two processes that conduct calls, for whoever is next."""
    with ExitStack() as stack:
        stages: Stage = SimpleQueue()
        for _ in range(2):
            stages.put(stack.enter_context(Failing()))
        yield stages


def play(stages: Stage, scene: str, path: Path, *points: str) -> Outcome:
    stage = stages.get()
    try:
        return stage.play(scene, path, *points)
    finally:
        stages.put(stage)


def kinds(path: Path) -> list[str]:
    query = "SELECT kind.name FROM event JOIN kind ON kind.code = event.kind ORDER BY event.id"
    with closing(connect_reader(path)) as db:
        return [name for (name,) in db.execute(query)]


def points(passed: list[str]) -> list[str]:
    """Every NAME:N."""
    return [f"{name}:{number}" for name, count in Counter(passed).items() for number in range(1, count + 1)]


def armed(point: str, action: str) -> str:
    name, _, number = point.partition(":")
    return f"{name}:{action}:{number}"


def within(few: list[str], many: list[str]) -> bool:
    """Whether `few` are in `many`, in their order."""
    rest = iter(many)
    return all(one in rest for one in few)


def judge(path: Path, outcome: Outcome, point: str) -> list[str]:
    """What must hold of every ledger after the next start; -> the kinds of its events."""
    Ledger(path, owner=OTHER).close()
    assert invariants(path) <= 1, point
    found = kinds(path)
    assert within(outcome.durable(), found), (point, outcome, found)
    assert "succeeded" not in found, (point, outcome, found)
    if "did remove" in outcome.said:
        assert "failed" in found, (point, outcome, found)
    assert not list(path.parent.glob("*-spool-*")), (point, outcome)
    return found


@pytest.mark.parametrize("action", ACTIONS)
@pytest.mark.parametrize("scene", ["conducts", "catches_up", "spools"])
def test_wherever_a_call_fails_what_was_durable_is_in_the_ledger_and_nothing_is_made_up(
    stages: Stage, tmp_path: Path, scene: str, action: str
) -> None:
    (tmp_path / "healthy").mkdir()
    healthy = play(stages, scene, tmp_path / "healthy" / "ledger.db")
    assert judge(tmp_path / "healthy" / "ledger.db", healthy, "none") == (LAST_WORDS if scene == "spools" else HEALTHY)

    def fail(point: str) -> None:
        path = tmp_path / point.replace(":", "-") / "ledger.db"
        path.parent.mkdir()
        outcome = play(stages, scene, path, armed(point, action))
        found = judge(path, outcome, point)
        check(scene, action, point, outcome, found)

    found = points(healthy.passed)
    assert len(found) >= 3 * len(HEALTHY)
    with ThreadPoolExecutor(2) as threads:
        list(threads.map(fail, found))


def check(scene: str, action: str, point: str, outcome: Outcome, found: list[str]) -> None:
    """What must hold in particular."""
    begun = not point.startswith(("create.", "spool.made", "submitted."))
    if action in ("kill9", "sleep"):
        assert outcome.status in (-9, 0), (point, outcome)  # 0: so often it was not passed this time
    elif scene == "conducts" and action == "enospc" and begun:
        assert (outcome.status, found) == (0, HEALTHY), (point, outcome)
    elif scene == "conducts" and begun:
        assert "failed" in found or point.startswith("failed."), (point, outcome, found)  # our own fault, recorded
    elif not begun and outcome.status:
        assert not outcome.durable(), (point, outcome)


@pytest.mark.parametrize("action", ACTIONS)
def test_wherever_taking_in_fails_nothing_is_lost_and_nothing_taken_in_twice(
    stages: Stage, tmp_path: Path, action: str
) -> None:
    left = tmp_path / "left" / "ledger.db"
    left.parent.mkdir()
    play(stages, "spools", left)
    Path(f"{left}.trace").unlink()

    def fail(point: str) -> Outcome:
        path = tmp_path / (point.replace(":", "-") or "healthy") / "ledger.db"
        shutil.copytree(left.parent, path.parent)
        outcome = play(stages, "takes_in", path, *([armed(point, action)] if point else []))
        assert judge(path, outcome, point) == LAST_WORDS
        return outcome

    found = points(fail("").passed)
    assert {"spool.found:1", "take-in.begun:1", "take-in.durable:1"} <= set(found)
    for point in found:
        fail(point)


def test_failpoints_are_armed_by_the_environment(tmp_path: Path) -> None:
    trace, path = tmp_path / "trace", tmp_path / "ledger.db"
    environment = os.environ | {"CALLS_FAILPOINT": f"trace:{trace},started.written:kill9"}
    done = subprocess.run([sys.executable, "-c", WRITES, str(path)], env=environment, check=False)
    assert done.returncode == -9
    assert trace.read_text().split()[-2:] == ["started.begun", "started.written"]
    assert kinds(path) == ["submitted", "prepared"]


@pytest.mark.parametrize(("number", "durable"), [(1, ["submitted"]), (2, ["submitted", "prepared"])])
def test_a_failpoint_can_wait_for_its_turn(tmp_path: Path, number: int, durable: list[str]) -> None:
    path = tmp_path / "ledger.db"
    point = "prepared.begun:kill9:1" if number == 1 else "started.begun:kill9:1,prepared.begun:kill9:2"
    environment = os.environ | {"CALLS_FAILPOINT": point}
    subprocess.run([sys.executable, "-c", WRITES, str(path)], env=environment, check=False)
    assert kinds(path) == durable
