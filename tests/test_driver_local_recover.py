"""Taking processes of this host over: nobody's children, found by their marks, and told from what they started."""

from __future__ import annotations

import os
import queue
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from contract import LIMIT, STAYS, Ear, Stage, local
from processes import ends, known
from running import until

from driver.local import search
from driver.local.adopted import AdoptedContainer
from driver.protocol import STDOUT, OutputEnded, Trace
from driver.sampler import Sampler
from machine.samples import Sample
from machine.spec import Spec
from machine.units import SECOND

# A runner that starts one process, says its number, and is gone without a word.
DIES = """
import os, sys
from driver.local import LocalDriver
from driver.protocol import Labels
from driver.pump import Pump
from machine.spec import Spec

class Deaf:
    fact = output = lambda *_: None

driver = LocalDriver(Pump(), Labels(sys.argv[1], sys.argv[2]))
beginning = driver.prepare("the-call", Spec.parse(driver="local", command=sys.argv[3:]), Deaf()).start()
print(beginning.pid, flush=True)
os._exit(9)
"""
ESCAPES = ("sh", "-c", "setsid sh -c 'echo $$; sleep 600; true' & wait")

Orphan = Callable[..., tuple[int, AdoptedContainer, Ear]]


@pytest.fixture
def stage() -> Iterator[Stage]:
    """Processes of this host."""
    with local() as stage:
        yield stage


def bereave(stage: Stage, *command: str) -> int:
    """Let a runner start `command` and die; -> its number."""
    words = [sys.executable, "-c", DIES, *stage.labels, *command]
    done = subprocess.run(words, capture_output=True, text=True, timeout=LIMIT / SECOND, check=False)
    assert (done.returncode, done.stderr) == (9, "")
    return int(done.stdout.split()[0])


@pytest.fixture
def orphan(stage: Stage) -> Iterator[Orphan]:
    """A process whose runner is gone, as the next runner finds it, by its number or without."""
    found: list[AdoptedContainer] = []

    def orphan(*command: str, recorded: bool = True) -> tuple[int, AdoptedContainer, Ear]:
        pid, ear = bereave(stage, *command), stage.ear()
        trace = Trace(stage.clock.wall(), pid=pid if recorded else None)
        container = stage.successor().recover(command, ear, trace=trace)
        assert isinstance(container, AdoptedContainer)
        found.append(container)
        return pid, container, ear

    yield orphan
    for container in found:
        container.remove()


@pytest.mark.parametrize("recorded", [True, False])
def test_it_is_found_watched_and_ended(orphan: Orphan, recorded: bool) -> None:  # noqa: FBT001
    """It runs, takes a signal, and then it is gone: its exit code went with its runner."""
    pid, container, ear = orphan(*STAYS, recorded=recorded)
    seen = container.inspect()
    assert (seen.status, seen.pid, container.start().pid) == ("running", pid, pid)
    assert abs(known(seen.started_at) - ear._clock.wall()) < LIMIT
    assert container.rejoin() is False
    assert container.signal("TERM") is True
    ear.until(OutputEnded)
    assert container.inspect().status == "gone"
    assert container.signal("TERM") is False
    assert container.totals() is None
    assert [type(fact) for fact in ear.facts] == [OutputEnded]


def test_one_that_ends_by_itself_is_gone_and_no_success(orphan: Orphan, tmp_path: Path) -> None:
    """Nobody knows how it ended."""
    _, container, ear = orphan("sh", "-c", f"while [ ! -e {tmp_path}/open ]; do sleep 0.05; done")
    container.rejoin()
    (tmp_path / "open").touch()
    ear.until(OutputEnded)
    seen = container.inspect()
    assert (seen.status, seen.exit_code) == ("gone", None)


def test_one_that_ended_before_it_was_rejoined(orphan: Orphan) -> None:
    pid, container, ear = orphan(*STAYS)
    os.kill(pid, signal.SIGKILL)
    assert ends(pid)
    assert container.rejoin() is False
    ear.until(OutputEnded)
    assert container.inspect().status == "gone"


def test_one_that_has_ended_is_not_found(stage: Stage) -> None:
    pid = bereave(stage, "true")
    assert ends(pid)
    for number in (pid, None):
        assert stage.recover(("true",), trace=Trace(0, pid=number)) is None


def test_one_that_nobody_has_waited_for_is_not_found(stage: Stage) -> None:
    """A zombie takes every signal and answers none."""
    environment = {**os.environ, **search.marks(stage.labels.of("the-call"))}
    with subprocess.Popen(STAYS, env=environment, start_new_session=True) as process:
        assert stage.recover(STAYS, trace=Trace(0, pid=process.pid)) is not None
        process.kill()
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        assert stage.recover(STAYS, trace=Trace(0, pid=process.pid)) is None
        assert stage.recover(STAYS) is None


def test_an_environment_that_is_not_shown_at_once_is_waited_for(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a busy machine a process may be seen before the kernel has put it there."""
    shown, hidden = search._environment, iter(range(100))
    monkeypatch.setattr(search, "_environment", lambda pid: shown(pid) if next(hidden, None) is None else b"")
    monkeypatch.setattr(search, "_YOUNG", LIMIT)
    environment = {**os.environ, **search.marks(stage.labels.of("the-call"))}
    with subprocess.Popen(STAYS, env=environment) as process:
        found = search.read(process.pid)
        process.kill()
    assert found is not None
    assert found.uid == "the-call"


def test_a_thread_of_the_kernel_has_none_and_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    name = Path("/proc/2/comm")
    if not name.exists() or name.read_bytes() != b"kthreadd\n":
        pytest.skip("the kernel's threads are not seen here")
    monkeypatch.setattr(search, "_age", lambda _: 0)
    monkeypatch.setattr("time.sleep", lambda _: pytest.fail("waited for it"))
    assert search.read(2) is None


def test_its_number_may_be_anothers_by_now(stage: Stage) -> None:
    """Neither a process without a mark, nor one of another call, nor of another ledger."""
    other = bereave(stage.stranger(), *STAYS)
    assert stage.recover(STAYS, trace=Trace(0, pid=os.getpid())) is None
    assert stage.recover(STAYS, trace=Trace(0, pid=other)) is None
    assert stage.recover(STAYS, uid="another-call", trace=Trace(0, pid=other)) is None
    assert stage.stranger().recover(STAYS, trace=Trace(0, pid=other)) is not None
    os.kill(other, signal.SIGKILL)
    assert ends(other)


def test_what_is_left_of_the_group_ends_with_it(orphan: Orphan) -> None:
    """As it would have under its own runner."""
    pid, container, ear = orphan("sh", "-c", "sleep 600 & exec sleep 600")

    def children() -> list[int]:
        return [one.pid for one in search.marked(container._found.ledger) if one.group == pid != one.pid]

    until(children, "its child")
    (child,) = children()
    container.rejoin()
    os.kill(pid, signal.SIGKILL)
    ear.until(OutputEnded)
    assert ends(child)


def test_what_it_started_for_itself_is_not_the_call(stage: Stage) -> None:
    """It bears the call's marks and leads a session; it is neither taken for the call, nor listed, nor ended."""
    ear = stage.ear()
    container = stage.prepare(ESCAPES, ear)
    container.start()
    ear.until_said(STDOUT, b"\n")
    escaped, pid = int(ear.said[STDOUT]), known(container.inspect().pid)
    mine = {one.pid for one in search.marked(stage.labels.ledger) if one.leads}
    assert mine == {pid, escaped}
    found = stage.found(ESCAPES)
    assert found.inspect().pid == pid
    (left,) = stage.driver.leftovers()
    stage.driver.reap(left)
    assert ends(pid)
    assert stage.driver.leftovers() == []
    assert stage.recover(ESCAPES, trace=Trace(0, pid=pid)) is None
    stage.driver.reap(left)
    found.remove()
    assert search.read(escaped) is not None
    os.killpg(escaped, signal.SIGKILL)
    container.remove()


def test_the_flag_changes_nothing_else(stage: Stage) -> None:
    """Policy and niceness stay as they were, and no child has it."""
    container = stage.prepare(ESCAPES, ear := stage.ear())
    container.start()
    ear.until_said(STDOUT, b"\n")
    escaped, pid = int(ear.said[STDOUT]), known(container.inspect().pid)
    assert os.sched_getscheduler(pid) == os.sched_getscheduler(0) | os.SCHED_RESET_ON_FORK
    assert os.sched_getscheduler(escaped) == os.sched_getscheduler(0)
    assert os.getpriority(os.PRIO_PROCESS, pid) == os.getpriority(os.PRIO_PROCESS, 0)
    os.killpg(escaped, signal.SIGKILL)
    container.remove()


def test_its_environment_is_that_of_its_beginning(orphan: Orphan, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOKEN", "of the\nrunner=then")
    _, container, _ = orphan(*STAYS)
    monkeypatch.setenv("TOKEN", "changed")
    assert container.environment()["TOKEN"] == "of the\nrunner=then"


def test_it_is_sampled(orphan: Orphan) -> None:
    _, container, _ = orphan(sys.executable, "-c", "while True: pass")
    sampler, samples = Sampler(), queue.SimpleQueue[Sample]()
    container.observe(sampler, SECOND // 10, lambda _, sample: samples.put(sample))
    first, second = (samples.get(timeout=LIMIT / SECOND) for _ in range(2))
    assert known(second.cpu_total_ns) >= known(first.cpu_total_ns)
    assert known((container.totals() or Sample()).cpu_total_ns) >= known(second.cpu_total_ns)
    sampler.close()


def test_removing_it_ends_it(orphan: Orphan) -> None:
    pid, container, ear = orphan(*STAYS)
    container.rejoin()
    container.remove()
    assert ends(pid)
    assert container.inspect().status == "gone"
    ear.rest()
    assert ear.facts == []


def test_a_spec_needs_no_secret_to_be_found(stage: Stage) -> None:
    """What is recorded of it is enough."""
    bereave(stage, *STAYS)
    spec = Spec.parse(driver="local", command=STAYS, secret=("TOKEN",))
    found = stage.driver.recover("the-call", spec, stage.ear(), Trace(0))
    assert found is not None
    found.remove()
