"""What the local driver does beyond the contract: a process, its group, its input and its exact end."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from contract import FAILS, LIMIT, STAYS, SUCCEEDS, Ear, local
from processes import Prepare, ends, known, preparing, starting

from calls.clock import SystemClock
from driver.local import LocalDriver
from driver.local.meter import ProcessMeter
from driver.protocol import STDOUT, Died, Labels, OutputEnded, Unwatched
from machine.errors import DriverError, SpecError
from machine.spec import Spec
from machine.states import Reason
from machine.units import SECOND


@pytest.fixture
def driver() -> Iterator[LocalDriver]:
    """A local driver."""
    with local() as stage:
        assert isinstance(stage.driver, LocalDriver)
        yield stage.driver


@pytest.fixture
def prepare(driver: LocalDriver) -> Iterator[Prepare]:
    """Prepare a command with options; -> its container, and the ear that hears of it."""
    with preparing(driver) as prepare:
        yield prepare


@pytest.fixture
def start(prepare: Prepare) -> Prepare:
    """As `prepare`, and started."""
    return starting(prepare)


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


def test_environment_and_workdir(
    driver: LocalDriver, start: Prepare, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ours, the call's labels, and what the spec sets; the spec has the last word, PATH included."""
    tool = tmp_path / "tool"
    tool.write_text("#!/bin/sh\necho $INHERITED $OVERRIDDEN $CALL_LEDGER_CALL $CALL_LEDGER_LEDGER; pwd\n")
    tool.chmod(0o755)
    monkeypatch.setenv("INHERITED", "yes")
    monkeypatch.setenv("OVERRIDDEN", "by nobody")
    env = {"OVERRIDDEN": "by the spec", "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    _, ear = start("tool", env=env, workdir=str(tmp_path))
    ear.until(OutputEnded)
    assert ear.said[STDOUT].decode() == f"yes by the spec call-0 {driver._labels.ledger}\n{tmp_path}\n"


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
