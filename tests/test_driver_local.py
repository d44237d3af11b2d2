"""What the local driver does beyond the contract: a process, its group, its input and its exact end."""

from __future__ import annotations

import io
import os
import queue
import select
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from contract import FAILS, LIMIT, STAYS, SUCCEEDS, Ear, local

from calls.clock import SystemClock
from driver.local import LocalContainer, LocalDriver
from driver.local_meter import ProcessMeter, own_peak
from driver.protocol import STDOUT, Died, Labels, Meter, OutputEnded, Sink, Unwatched
from driver.sampler import Sampler
from machine.errors import DriverError, SpecError
from machine.samples import METRICS, Sample
from machine.spec import Spec
from machine.states import Reason
from machine.units import SECOND

MIB = 2**20
BURNS = "import time\nwhile time.process_time() < 0.3: pass\n"

Prepare = Callable[..., tuple[LocalContainer, Ear]]


@pytest.fixture
def driver() -> Iterator[LocalDriver]:
    """A local driver."""
    with local() as stage:
        assert isinstance(stage.driver, LocalDriver)
        yield stage.driver


@pytest.fixture
def prepare(driver: LocalDriver) -> Iterator[Prepare]:
    """Prepare a command with options; -> its container, and the ear that hears of it."""
    prepared: list[LocalContainer] = []

    def prepare(*command: str, **options: Any) -> tuple[LocalContainer, Ear]:
        ear = Ear(SystemClock())
        spec = Spec.parse(driver="local", command=command, **options)
        prepared.append(driver.prepare(f"call-{len(prepared)}", spec, ear))
        return prepared[-1], ear

    yield prepare
    for container in prepared:
        container.remove()


@pytest.fixture
def start(prepare: Prepare) -> Prepare:
    """As `prepare`, and started."""

    def start(*command: str, **options: Any) -> tuple[LocalContainer, Ear]:
        container, ear = prepare(*command, **options)
        container.start()
        return container, ear

    return start


def ends(pid: int) -> bool:
    """Whether the process is over, or comes to its end now: whoever was killed needs a moment to die."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    over, _, _ = select.select([descriptor], [], [], LIMIT / SECOND)
    os.close(descriptor)
    return bool(over)


def known(value: int | None) -> int:
    """`value`, which must not be None."""
    assert value is not None
    return value


@pytest.mark.parametrize(
    ("options", "option"),
    [
        ({"command": ()}, "command"),
        ({"image": "busybox"}, "image"),
        ({"memory": "64m"}, "memory"),
        ({"network": "none"}, "network"),
        ({"health_cmd": "true"}, "health_cmd"),
    ],
)
def test_what_it_cannot_honour_is_refused(driver: LocalDriver, options: dict[str, Any], option: str) -> None:
    """Nothing is approximated, nothing ignored."""
    with pytest.raises(SpecError) as refused:
        driver.check(Spec.parse(**{"driver": "local", "command": SUCCEEDS, **options}))
    assert refused.value.option == option


def test_what_it_can_honour_is_accepted(driver: LocalDriver) -> None:
    """Every option that means something for a process."""
    texts = {"name": "n", "workdir": "/", "stop_signal": "INT", "stop_timeout": "1s", "timeout": "1m"}
    texts |= {"prepare_timeout": "1m", "sample": "1s", "log_limit": "1m"}
    options: dict[str, Any] = {"env": {"A": "b"}, "secret": ("A",), "label": {"l": "v"}}
    driver.check(Spec.parse(driver="local", command=SUCCEEDS, interactive=True, keep=True, **texts, **options))


def test_the_preparation_names_the_call(prepare: Prepare) -> None:
    """And the stop signal that is in force."""
    container, _ = prepare(*SUCCEEDS, stop_signal="SIGINT")
    assert (container.preparation.container, container.preparation.stop_signal) == ("local:call-0", "INT")


@pytest.mark.parametrize("workdir", ["/no/such/folder", "/etc/passwd"])
def test_a_workdir_that_is_no_folder(prepare: Prepare, workdir: str) -> None:
    """It is refused before anything starts."""
    with pytest.raises(DriverError, match=f"{workdir}: no such folder") as refused:
        prepare(*SUCCEEDS, workdir=workdir)
    assert refused.value.reason is Reason.CREATE_REFUSED


@pytest.mark.parametrize(
    ("mode", "text", "words"), [(0o644, "#!/bin/sh\n", "permission denied"), (0o755, "", "exec format error")]
)
def test_a_file_that_cannot_be_executed(start: Prepare, tmp_path: Path, mode: int, text: str, words: str) -> None:
    """Without the right to, or in no format that can be executed."""
    script = tmp_path / "script"
    script.write_text(text)
    script.chmod(mode)
    with pytest.raises(DriverError, match=words) as refused:
        start(str(script))
    assert refused.value.reason is Reason.START_NOT_EXECUTABLE


@pytest.mark.parametrize(
    ("command", "reason"),
    [
        ("/", Reason.START_NOT_EXECUTABLE),
        ("/no/such/file", Reason.START_NOT_FOUND),
        ("/etc/passwd/file", Reason.START_NOT_FOUND),
        ("x" * 300, Reason.START_REFUSED),
    ],
)
def test_other_commands_that_cannot_run(start: Prepare, command: str, reason: Reason) -> None:
    """The message begins with the command."""
    with pytest.raises(DriverError, match=f"^{command}: ") as refused:
        start(command)
    assert refused.value.reason is reason


def test_a_workdir_that_went_away(prepare: Prepare, tmp_path: Path) -> None:
    """It is not mistaken for a missing command, and a start that was refused may be tried again."""
    folder = tmp_path / "folder"
    folder.mkdir()
    container, ear = prepare(*FAILS, workdir=str(folder))
    folder.rmdir()
    with pytest.raises(DriverError, match=str(folder)) as refused:
        container.start()
    assert refused.value.reason is Reason.START_REFUSED
    folder.mkdir()
    container.start()
    assert ear.until(Died).exit_code == 3


def test_environment_and_workdir(start: Prepare, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ours, the call's labels, and what the spec sets; the spec has the last word, PATH included."""
    tool = tmp_path / "tool"
    tool.write_text("#!/bin/sh\necho $INHERITED $OVERRIDDEN $CALL_LEDGER_CALL $CALL_LEDGER_LEDGER; pwd\n")
    tool.chmod(0o755)
    monkeypatch.setenv("INHERITED", "yes")
    monkeypatch.setenv("OVERRIDDEN", "by nobody")
    env = {"OVERRIDDEN": "by the spec", "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    _, ear = start("tool", env=env, workdir=str(tmp_path))
    ear.until(OutputEnded)
    assert ear.said[STDOUT].decode() == f"yes by the spec call-0 ledger-of-tests\n{tmp_path}\n"


def test_facts_carry_the_drivers_clock(driver: LocalDriver) -> None:
    """`now` is the only clock of the facts."""
    driver, ear = LocalDriver(driver.pump, Labels("l", "r"), now=lambda: 42), Ear(SystemClock())
    container = driver.prepare("u", Spec.parse(driver="local", command=SUCCEEDS), ear)
    assert container.start().engine_at == ear.until(Died).at == ear.until(OutputEnded).at == 42
    container.remove()


def test_it_leads_a_session_of_its_own(start: Prepare) -> None:
    """No signal that a terminal has for us reaches it."""
    pid = known(start(*STAYS)[0].inspect().pid)
    assert os.getsid(pid) == os.getpgid(pid) == pid


def test_without_interactive_the_input_is_empty(start: Prepare) -> None:
    """It reads the end at once, whatever our own input is."""
    _, ear = start("cat")
    assert ear.until(Died).exit_code == 0


@pytest.fixture
def typist(monkeypatch: pytest.MonkeyPatch) -> Iterator[io.BufferedWriter]:
    """Writes to our standard input."""
    reading, writing = os.pipe()
    with os.fdopen(reading, encoding="utf-8") as stdin, os.fdopen(writing, "wb") as typist:
        monkeypatch.setattr(sys, "stdin", stdin)
        yield typist


def test_input_is_passed_on_as_it_comes(start: Prepare, typist: io.BufferedWriter) -> None:
    """Not only at its end; and its end is passed on as well."""
    _, ear = start("cat", interactive=True)
    typist.write(b"first")
    typist.flush()
    ear.until_said(STDOUT, b"first")
    much = b"second" * (MIB // 4)
    typist.write(much)
    typist.close()
    ear.until(OutputEnded)
    assert ear.said[STDOUT] == b"first" + much
    assert ear.until(Died).exit_code == 0


def test_input_after_the_end_is_left_for_the_next(start: Prepare, typist: io.BufferedWriter) -> None:
    """A call that has ended takes nothing from the one after it."""
    _, first = start(*FAILS, interactive=True)
    first.until(Died)
    _, second = start("cat", interactive=True)
    typist.write(b"for the second")
    typist.close()
    second.until(OutputEnded)
    assert second.said[STDOUT] == b"for the second"


def test_input_that_nobody_reads(start: Prepare, typist: io.BufferedWriter) -> None:
    """It is no error to stop reading before the input ends."""
    _, ear = start("sh", "-c", "exec <&-; echo closed; exec sleep 600", interactive=True)
    ear.until_said(STDOUT, b"closed")
    typist.write(b"to no avail")
    typist.close()
    for thread in threading.enumerate():
        if thread.name == "stdin":
            thread.join(LIMIT / SECOND)
            assert not thread.is_alive()


def test_input_from_memory(start: Prepare, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where standard input is no file, what it holds is passed on."""
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"from memory")))
    _, ear = start("cat", interactive=True)
    ear.until(OutputEnded)
    assert ear.said[STDOUT] == b"from memory"


def test_a_signal_is_told_from_an_exit_code(start: Prepare) -> None:
    """137 by a signal and 137 by itself are different facts."""
    killed = start("sh", "-c", "kill -KILL $$")[1].until(Died)
    pretending = start("sh", "-c", "exit 137")[1].until(Died)
    assert (killed.exit_code, killed.signal, killed.source) == (137, 9, "wait4")
    assert (pretending.exit_code, pretending.signal) == (137, None)


def test_a_signal_may_be_ignored(start: Prepare) -> None:
    """It was delivered; that it ends the process is another matter."""
    container, ear = start("sh", "-c", "trap 'echo ignored' TERM; echo up; while :; do sleep 0.01; done")
    ear.until_said(STDOUT, b"up")
    assert container.signal("TERM")
    ear.until_said(STDOUT, b"ignored")
    assert container.inspect().status == "running"


def test_a_signal_that_we_hold_back_reaches_it(start: Prepare) -> None:
    """A program may block signals in its threads; the process does not inherit that."""
    signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGTERM,))
    try:
        container, ear = start(*STAYS)
        assert signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGTERM,)) == {signal.SIGTERM}
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGTERM,))
    assert container.signal("TERM")
    assert ear.until(Died).signal == signal.SIGTERM


def test_a_signal_reaches_the_children(start: Prepare) -> None:
    """It goes to the group, not to the command alone."""
    child = "sh -c 'echo up; exec sleep 600'"
    container, ear = start("sh", "-c", f'trap "wait; exit 4" TERM; {child} & wait')
    ear.until_said(STDOUT, b"up")
    assert container.signal("TERM")
    assert ear.until(Died).exit_code == 4


def test_the_dead_take_no_signal_and_use_nothing(driver: LocalDriver) -> None:
    """Not even between their end and our taking note of it, when the kernel would accept a signal."""
    dead, noted = threading.Event(), threading.Event()

    def now() -> int:
        if threading.current_thread().name == "wait4":
            dead.set()
            noted.wait(LIMIT / SECOND)
        return 42

    driver, ear = LocalDriver(driver.pump, Labels("l", "r"), now), Ear(SystemClock())
    container = driver.prepare("u", Spec.parse(driver="local", command=SUCCEEDS), ear)
    container.start()
    assert dead.wait(LIMIT / SECOND)
    assert container.signal("TERM") is False
    assert ProcessMeter(known(container.inspect().pid)).read() is None
    noted.set()
    assert ear.until(Died).exit_code == 0


def test_what_is_left_of_the_group_ends_with_it(start: Prepare) -> None:
    """A child in the background neither lives on nor holds the output open."""
    _, ear = start("sh", "-c", "sleep 600 & echo $!")
    ear.until(OutputEnded)
    assert ear.until(Died).exit_code == 0
    assert ends(int(ear.said[STDOUT]))


def test_a_descendant_that_left_the_group_is_not_found(start: Prepare) -> None:
    """The documented limit: setsid escapes, and the output stays open until it ends."""
    code = "import os, time\nif os.fork(): time.sleep(600)\nos.setsid(); print(os.getpid(), flush=True)\n"
    container, ear = start(sys.executable, "-c", code + "time.sleep(600)")
    ear.until_said(STDOUT, b"\n")
    container.signal("KILL")
    ear.until(Died)
    assert not any(isinstance(fact, OutputEnded) for fact in ear.facts)
    os.kill(int(ear.said[STDOUT]), signal.SIGKILL)
    ear.until(OutputEnded)


def test_an_exit_code_that_went_elsewhere(start: Prepare) -> None:
    """Where a program ignores SIGCHLD the kernel throws exit codes away: that is said, not guessed."""
    before = signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    try:
        container, ear = start(*FAILS)
        lost = ear.until(Unwatched)
    finally:
        signal.signal(signal.SIGCHLD, before)
    assert "exit code is lost" in lost.why
    assert lost.since <= lost.at
    assert container.inspect().status == "gone"
    assert container.totals() is None


def test_cpu_time_is_exact(start: Prepare) -> None:
    """Even of `true`, which no sampler ever saw; with the children that were waited for."""
    short, short_ear = start(*SUCCEEDS)
    family, family_ear = start("sh", "-c", f"{sys.executable} -c '{BURNS}'; true")
    short_ear.until(Died)
    family_ear.until(Died)
    totals = short.totals()
    assert totals is not None
    assert 0 < known(totals.cpu_total_ns) < SECOND
    assert totals.cpu_total_ns == known(totals.cpu_user_ns) + known(totals.cpu_kernel_ns)
    assert known((family.totals() or Sample()).cpu_total_ns) >= 0.3 * SECOND


def test_peak_memory_is_known_when_it_exceeds_ours(start: Prepare) -> None:
    """A process starts out in the memory of its parent: up to that, its peak says nothing."""
    large = own_peak() + 64 * MIB
    container, ear = start(sys.executable, "-c", f"b'x' * {large}")
    small, small_ear = start(*SUCCEEDS)
    ear.until(Died)
    small_ear.until(Died)
    assert known((container.totals() or Sample()).mem_peak_bytes) >= large
    assert (small.totals() or Sample(mem_peak_bytes=0)).mem_peak_bytes is None


def test_samples_come_from_the_sampler(start: Prepare) -> None:
    """One at once, then with rates; what is not measured is None; totals end them."""
    sampler, samples = Sampler(), queue.SimpleQueue[Sample]()
    container, _ = start(*STAYS)
    container.observe(sampler, SECOND // 10, lambda _, sample: samples.put(sample))
    first, second = (samples.get(timeout=LIMIT / SECOND) for _ in range(2))
    container.totals()
    sampler.close()
    measured = {name for name in METRICS if getattr(first, name) is not None}
    assert measured == {
        *("cpu_total_ns", "cpu_user_ns", "cpu_kernel_ns", "mem_usage_bytes", "mem_rss_bytes"),
        *("disk_read_bytes", "disk_write_bytes", "pids"),
    }
    assert first.cpu_total_pct is None
    assert second.cpu_total_pct is not None


class NoSampling:
    """A Sampling that nobody may use."""

    def add(self, meter: Meter, interval: int, sink: Sink) -> Callable[[], None]:
        """Fail."""
        pytest.fail(f"{meter} for {sink} each {interval} ns")


def test_what_does_not_run_is_not_sampled(prepare: Prepare) -> None:
    """Neither before its start nor after its end, and that is no error."""
    container, ear = prepare(*SUCCEEDS)
    container.observe(NoSampling(), SECOND, lambda *_: None)
    container.start()
    ear.until(Died)
    container.observe(NoSampling(), SECOND, lambda *_: None)


def test_counters_never_go_backwards(start: Prepare) -> None:
    """Not even when a child ends that nobody waits for, and takes its share with it."""
    keeps = f"{BURNS}kept = b'x' * {32 * MIB}\nprint(flush=True)\ntime.sleep(600)"
    spawns = "import signal, subprocess, sys, time\nsignal.signal(signal.SIGCHLD, signal.SIG_IGN)\n"
    spawns += "subprocess.Popen([sys.executable, '-c', sys.argv[1]])\ntime.sleep(600)"
    container, ear = start(sys.executable, "-c", spawns, keeps)
    ear.until_said(STDOUT, b"\n")
    pid = known(container.inspect().pid)
    meter = ProcessMeter(pid)
    before = meter.read()
    assert before is not None
    assert known(before.cpu_total_ns) >= 0.25 * SECOND
    assert known(before.pids) >= 2
    child = psutil.Process(pid).children()[0]
    child.kill()
    child.wait(LIMIT / SECOND)
    after = meter.read()
    assert after is not None
    assert known(after.cpu_total_ns) >= known(before.cpu_total_ns)
    assert known(before.mem_rss_bytes) - known(after.mem_rss_bytes) >= 32 * MIB
    container.signal("KILL")
    ear.until(Died)
    assert meter.read() is None


def test_totals_know_what_the_samples_knew(start: Prepare) -> None:
    """A child that was never waited for is not in the kernel's account, but it was seen."""
    container, ear = start("sh", "-c", f"{sys.executable} -c '{BURNS}print(flush=True);time.sleep(600)' & wait")
    sampler, samples = Sampler(), queue.SimpleQueue[Sample]()
    ear.until_said(STDOUT, b"\n")
    container.observe(sampler, SECOND, lambda _, sample: samples.put(sample))
    seen = samples.get(timeout=LIMIT / SECOND)
    container.signal("KILL")
    ear.until(Died)
    totals = container.totals()
    sampler.close()
    assert totals is not None
    assert known(totals.cpu_total_ns) >= known(seen.cpu_total_ns) >= 0.25 * SECOND
    assert known(totals.mem_peak_bytes) >= known(seen.mem_usage_bytes)
