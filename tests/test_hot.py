"""Hot calls: several in one container, each with a record, output and end of its own, and nothing that runs on."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import tarfile
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import docker
import pytest
import running
from held import Ahead, time_out
from running import LIMIT, events, hear, let_pause_settle, until, until_kind
from test_remote_engine import Forwarder, remote

import calls
from calls.recover import Recovery
from driver.docker import hot
from driver.docker.hot_container import HotContainer, key
from ledger.read import Reader
from machine.errors import SpecError
from machine.spec import Spec

__all__ = ("remote",)

IMAGE = "busybox"
MIB = 2**20
STUBBORN = "trap '' TERM; echo up; while :; do sleep 0.05; done"
ARMED = "trap 'exit 0' TERM; echo up; while :; do sleep 0.05; done"
ZEROS = "head -c 16384 /dev/zero | tr '\\0' a; head -c 1000 /dev/zero | tr '\\0' b >&2"
LOUD = f"i=0; while [ $i -lt 64 ]; do {ZEROS}; i=$((i+1)); done"


def shell(text: str) -> list[str]:
    return ["sh", "-c", text]


def run(runner: calls.Runner, words: list[str], **options: Any) -> calls.Call:
    """A hot call."""
    return runner.run(IMAGE, words, **{"network": "none", "hot": True, **options})


def told(runner: calls.Runner, words: list[str], **options: Any) -> tuple[bytes, bytes]:
    """A hot call that ends well; -> what it wrote."""
    said = {1: bytearray(), 2: bytearray()}
    call = run(runner, words, output=lambda stream, data: said[stream].extend(data), **options)
    assert call.state == "success", call
    return bytes(said[1]), bytes(said[2])


def overdue(runner: calls.Runner, clock: Ahead, script: str, **options: Any) -> calls.Call:
    """A hot call whose deadline comes when it has written something."""
    said = threading.Event()
    options = {"network": "none", "hot": True, "timeout": "10m", "output": lambda *_: said.set(), **options}
    future = runner.submit(IMAGE, shell(script), **options)
    assert said.wait(LIMIT)
    time_out(clock, future.id)
    return future.result(LIMIT)


def container(call: calls.Call | calls.CallFuture) -> str:
    """The container of a hot call, by its record."""
    (made,) = (event["data"] for event in events(call.id) if event["kind"] == "prepared")
    assert made["hot"] is True
    return str(made["container"])


def there(runner: calls.Runner) -> dict[str, str]:
    """The containers of the runner's ledger, and how they are."""
    client = docker.from_env()
    with closing(client):
        filters = {"label": f"call-ledger.ledger={runner.ledger.id}"}
        return {each["Id"]: each["Status"] for each in client.api.containers(all=True, filters=filters)}


@pytest.fixture
def runner(ledger: Path, clock: Ahead) -> Iterator[calls.Runner]:
    """A runner on the test's ledger, whose deadlines can be brought near; closed, it has no container."""
    with calls.Runner(ledger, clock=clock) as runner:
        yield runner
    assert there(runner) == {}


@pytest.fixture(params=[{}, {"interactive": True}], ids=["by the shell", "by the engine"])
def way(request: pytest.FixtureRequest) -> dict[str, bool]:
    """The options by which a command is carried out in one of the two ways."""
    return dict(request.param)


# Which calls share a container, and what one cannot ask of it.


@pytest.mark.parametrize(
    "options",
    [{"command": ["b"]}, {"name": "b"}, {"timeout": "1s"}, {"sample": "off"}, {"log_limit": 1}, {"entrypoint": "b"}],
)
def test_calls_that_differ_in_their_command_and_limits_share(options: dict[str, Any]) -> None:
    assert key(Spec.parse(image=IMAGE, hot=True, **options)) == key(Spec.parse(image=IMAGE, hot=True))


@pytest.mark.parametrize(
    "options",
    [
        {"image": "other"},
        {"env": {"A": "1"}},
        {"user": "1000"},
        {"workdir": "/tmp"},
        {"memory": "32m"},
        {"network": "none"},
        {"volume": ["/a:/b"]},
        {"label": {"a": "b"}},
        {"stop_signal": "INT"},
        {"read_only": True},
    ],
)
def test_calls_that_differ_in_anything_else_do_not(options: dict[str, Any]) -> None:
    plain = {"image": IMAGE, "hot": True}
    assert key(Spec.parse(**{**plain, **options})) != key(Spec.parse(**plain))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"keep": True}, "--hot: contradicts --keep: the container is not this call's alone"),
        ({"pull": "always"}, "--hot: contradicts --pull always: the container may be there already"),
        ({"pull": "newer"}, "--hot: contradicts --pull newer: the container may be there already"),
        ({"health_cmd": "x"}, "--hot: contradicts --health-cmd: only a container of its own has a health"),
        ({"health_timeout": "1s"}, "--hot: contradicts --health-timeout: only a container of its own has a health"),
    ],
)
def test_what_needs_a_container_of_its_own_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(SpecError) as refused:
        Spec.parse(image=IMAGE, hot=True, **options)
    assert str(refused.value) == message


def test_the_local_driver_cannot_do_it(ledger: Path) -> None:
    with calls.Runner(ledger) as runner, pytest.raises(SpecError, match=r"^--hot: the local driver cannot honour it"):
        runner.submit(None, ["true"], driver="local", hot=True)


# One container, several calls.


@pytest.mark.engine
def test_two_calls_have_one_container_and_a_record_each(runner: calls.Runner, way: dict[str, bool]) -> None:
    first, second = run(runner, shell("exit 3"), **way), run(runner, ["true"], **way)
    assert [(call.state, call.exit_code) for call in (first, second)] == [("error", 3), ("success", 0)]
    assert first.id != second.id
    assert container(first) == container(second)
    kinds = [event["kind"] for event in events(first.id)]
    assert kinds == ["submitted", "prepared", "started", "failed", "cleaned"]


@pytest.mark.engine
def test_the_container_is_not_said_to_be_removed(runner: calls.Runner) -> None:
    assert events(run(runner, ["true"]).id)[-1]["data"] == {"removed": False}


@pytest.mark.engine
def test_calls_at_once_have_containers_of_their_own(runner: calls.Runner) -> None:
    futures = [runner.submit(IMAGE, ["sleep", "600"], network="none", hot=True) for _ in range(2)]
    for future in futures:
        until_kind(future.id, "started")
    assert len({container(future) for future in futures}) == 2
    runner.cancel_all()


@pytest.mark.engine
def test_each_gets_its_own_output_to_the_last_byte(runner: calls.Runner, way: dict[str, bool]) -> None:
    for _ in range(2):
        assert told(runner, shell(LOUD), **way) == (b"a" * MIB, b"b" * 64_000)
    assert told(runner, shell("printf x; printf y >&2"), **way) == (b"x", b"y")


@pytest.mark.engine
def test_what_is_set_for_a_container_holds_for_its_commands(runner: calls.Runner, way: dict[str, bool]) -> None:
    script = shell('echo "$A $(pwd) $(id -u)"; touch /x 2>/dev/null || echo read-only')
    options: dict[str, Any] = {"env": {"A": "1"}, "workdir": "/tmp", "user": "1000", "read_only": True, **way}
    assert told(runner, script, **options)[0] == b"1 /tmp 1000\nread-only\n"


@pytest.mark.engine
def test_entrypoint_and_command_are_those_of_image_and_call(runner: calls.Runner, engine: docker.APIClient) -> None:
    name = f"hot-{os.getpid()}:words"
    made = engine.create_container(IMAGE, [])["Id"]
    engine.commit(made, *name.split(":"), changes='ENTRYPOINT ["echo","in"]\nCMD ["image"]')
    engine.remove_container(made)
    try:
        said = [
            told_of(runner, name, []),
            told_of(runner, name, ["call"]),
            told_of(runner, name, ["own", "words"], entrypoint="echo"),
        ]
    finally:
        runner.close()
        engine.remove_image(name)
    assert said == [b"in image\n", b"in call\n", b"own words\n"]


def told_of(runner: calls.Runner, image: str, words: list[str], **options: Any) -> bytes:
    said = bytearray()
    runner.run(image, words, network="none", hot=True, output=lambda _, data: said.extend(data), **options)
    return bytes(said)


@pytest.mark.engine
def test_it_reads_our_input(ledger: Path) -> None:
    assert running.run("--hot", "-i", IMAGE, "cat", stdin=b"typed") == (0, b"typed", b"")
    assert running.kinds()[-2:] == ["succeeded", "cleaned"]


@pytest.mark.engine
def test_what_cannot_be_executed_never_ran_and_the_container_serves_the_next(
    runner: calls.Runner, way: dict[str, bool]
) -> None:
    missing, folder, after = (run(runner, [word], **way) for word in ("nosuch", "/etc", "true"))
    assert [(call.reason, call.never_ran) for call in (missing, folder)] == [
        ("start-not-found", True),
        ("start-not-executable", True),
    ]
    assert '"nosuch": executable file not found' in (missing.message or "")
    assert len({container(call) for call in (missing, folder, after)}) == 1
    assert not list(kept(missing))


def kept(call: calls.Call) -> Iterator[bytes]:
    """The recorded output."""
    with Reader(Path(os.environ["CALLS_LEDGER"])) as reader:
        yield from (chunk.data for chunk in reader.output(reader.resolve(call.id)))


@pytest.mark.engine
def test_an_image_that_cannot_wait_is_refused_in_words(runner: calls.Runner, engine: docker.APIClient) -> None:
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as tar:
        tar.addfile(tarfile.TarInfo("empty"))
    name = f"hot-{os.getpid()}"
    engine.import_image_from_data(content.getvalue(), repository=name, tag="bare")
    try:
        call = runner.run(f"{name}:bare", ["x"], network="none", hot=True)
    finally:
        engine.remove_image(f"{name}:bare")
    assert (call.reason, call.never_ran) == ("create-refused", True)
    assert (call.message or "").startswith("a hot container waits with `sh`, and this one cannot: ")


# Nothing runs on.


@pytest.mark.engine
def test_a_container_in_which_something_is_left_is_not_used_again(runner: calls.Runner, way: dict[str, bool]) -> None:
    first = run(runner, shell("sleep 600 >/dev/null 2>&1 & echo up"), **way)
    second = run(runner, ["true"])
    assert (first.state, second.state) == ("success", "success")
    assert container(first) != container(second)
    assert container(first) not in there(runner)


@pytest.mark.engine
@pytest.mark.parametrize("options", [{}, {"init": True}])
def test_where_all_has_ended_it_is(runner: calls.Runner, options: dict[str, Any]) -> None:
    """Even if nobody had waited for it."""
    ends = "(sleep 0.1 &); while ps | grep -q 'slee[p] 0.1$'; do sleep 0.05; done"
    for _ in range(5):  # the kernel may need longer to let go of it than is waited for
        used = [run(runner, shell(script), **options) for script in (ends, "true")]
        if len({container(call) for call in used}) == 1:
            return
    pytest.fail("it was never used again")


@pytest.mark.engine
def test_late_output_of_one_call_is_not_the_next_ones(runner: calls.Runner, way: dict[str, bool]) -> None:
    run(runner, shell("(sleep 3; echo late) & echo early"), **way)
    assert told(runner, shell("sleep 2; echo mine"), **way) == (b"mine\n", b"")


@pytest.mark.engine
@pytest.mark.parametrize(("script", "grace", "code"), [(ARMED, "24h", 0), (STUBBORN, "300ms", 137)])
def test_a_call_that_was_stopped_takes_its_container_along(
    runner: calls.Runner, clock: Ahead, script: str, grace: str, code: int, way: dict[str, bool]
) -> None:
    first = overdue(runner, clock, script, stop_timeout=grace, **way)
    assert (first.state, first.reason, first.exit_code) == ("timeout", "deadline", code)
    assert container(run(runner, ["true"])) != container(first)
    assert container(first) not in there(runner)


@pytest.mark.engine
@pytest.mark.parametrize("options", [{"init": True}, {"user": "1000"}])
def test_the_signal_is_the_commands_whoever_its_parent_is(
    runner: calls.Runner, clock: Ahead, options: dict[str, Any]
) -> None:
    armed = "trap 'exit 7' TERM; echo up; while :; do sleep 0.05; done"
    call = overdue(runner, clock, armed, stop_timeout="24h", **options)
    assert (call.reason, call.exit_code) == ("deadline", 7)


@pytest.mark.engine
def test_words_arrive_as_they_are(runner: calls.Runner) -> None:
    words = ["", "a\nb", "'\"$x `y`\\", "é", "-n"]
    assert told(runner, ["printf", "%s|", *words])[0].decode().split("|") == [*words, ""]


@pytest.mark.engine
def test_cancelled_and_killed_are_told_apart(runner: calls.Runner, way: dict[str, bool]) -> None:
    ends = []
    for end in (runner.cancel, runner.kill):
        future = runner.submit(IMAGE, ["sleep", "600"], network="none", hot=True, **way)
        until_kind(future.id, "started")
        end(future.id)
        call = future.result()
        ends.append((call.state, call.reason))
    assert ends == [("cancelled", "user"), ("killed", "user")]


@pytest.mark.engine
def test_somebody_elses_kill_is_somebody_elses(
    runner: calls.Runner, engine: docker.APIClient, way: dict[str, bool]
) -> None:
    future = runner.submit(IMAGE, ["sleep", "600"], network="none", hot=True, **way)
    until_kind(future.id, "started")
    engine.kill(next(iter(there(runner))))
    call = future.result()
    assert (call.state, call.reason, call.signal) == ("killed", "external", "KILL")


@pytest.mark.engine
def test_out_of_memory_is_one_calls_and_not_the_next_ones(runner: calls.Runner, way: dict[str, bool]) -> None:
    first, second = (run(runner, words, memory="32m", **way) for words in (["tail", "/dev/zero"], ["true"]))
    assert (first.state, first.reason, first.oom) == ("killed", "oom", "certain")
    assert (second.state, second.oom) == ("success", None)
    assert container(first) != container(second)


@pytest.mark.engine
def test_a_container_that_was_removed_meanwhile_is_replaced(runner: calls.Runner, engine: docker.APIClient) -> None:
    first = run(runner, ["true"])
    (idle,) = runner.driver("docker").hot._idle  # type: ignore[attr-defined]
    engine.remove_container(container(first), force=True)
    until(lambda: not idle.sure, "word of it")  # before that a call would begin there, and be lost
    second = run(runner, ["true"])
    assert second.state == "success"
    assert container(second) != container(first)


@pytest.mark.engine
def test_a_call_can_be_paused_and_resumed(runner: calls.Runner, way: dict[str, bool]) -> None:
    up = threading.Event()
    future = runner.submit(IMAGE, shell(ARMED), network="none", hot=True, output=lambda *_: up.set(), **way)
    assert up.wait(LIMIT)
    until_kind(future.id, "started")
    runner.pause(future.id)
    until_kind(future.id, "paused")
    runner.resume(future.id)
    until_kind(future.id, "resumed")
    runner.signal(future.id, "TERM")
    assert future.result().state == "success"
    assert "resumed" in [each["kind"] for each in events(future.id)]


# Idle.


@pytest.mark.engine
def test_idle_it_is_paused_and_the_next_call_wakes_it(
    runner: calls.Runner, monkeypatch: pytest.MonkeyPatch, way: dict[str, bool]
) -> None:
    monkeypatch.setattr(hot, "PAUSE", 0.05)
    first = run(runner, ["true"], **way)
    until(lambda: "Paused" in there(runner)[container(first)], "the pause")
    let_pause_settle()
    second = run(runner, ["true"], **way)
    assert (second.state, container(second)) == ("success", container(first))
    assert {"paused", "resumed"}.isdisjoint(each["kind"] for call in (first, second) for each in events(call.id))


@pytest.mark.engine
def test_one_that_a_call_takes_while_it_cannot_be_paused_is_the_calls(
    runner: calls.Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hot, "PAUSE", 0.05)
    home: hot.HotSet = runner.driver("docker").hot  # type: ignore[attr-defined]
    taken, pause = [], HotContainer.pause

    def meanwhile(tired: HotContainer) -> bool:
        if taken:
            return pause(tired)
        taken.append(home._take(tired.key))
        return False

    monkeypatch.setattr(HotContainer, "pause", meanwhile)
    first = run(runner, ["true"])
    until(lambda: taken, "the attempt to pause it")
    home.give_back(taken[0], whole=True)
    until(lambda: "Paused" in there(runner)[container(first)], "the pause")


@pytest.mark.engine
def test_long_idle_it_is_removed(runner: calls.Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hot, "PAUSE", 0.05)
    monkeypatch.setattr(hot, "IDLE", 0.3)
    first = run(runner, ["true"])
    until(lambda: not there(runner), "the removal")
    assert container(run(runner, ["true"])) != container(first)


@pytest.mark.engine
@pytest.mark.parametrize("hot", [True, False], ids=["hot", "cold"])
def test_the_one_that_was_not_used_for_longest_goes_when_a_call_needs_its_memory(ledger: Path, *, hot: bool) -> None:
    with calls.Runner(ledger, memory="128m") as runner:
        first, second, again = (run(runner, ["true"], memory="40m", env=[f"KIND={kind}"]) for kind in (1, 2, 1))
        assert container(again) == container(first) != container(second)
        assert set(there(runner)) == {container(first), container(second)}
        assert run(runner, ["true"], memory="56m", hot=hot).state == "success"
        assert (container(first) in there(runner), container(second) in there(runner)) == (True, False)
        assert (runner.standing().evicted, runner.standing().hot["busy"]) == (1, 0)
        assert run(runner, ["true"], memory="128m", hot=False).state == "success"
        assert (there(runner), runner.standing().hot.total()) == ({}, 0)


# What is measured.


@pytest.mark.engine
def test_each_call_has_its_own_cpu_time_and_peak(runner: calls.Runner, ledger: Path, way: dict[str, bool]) -> None:
    busy = shell("i=0; while [ $i -lt 200000 ]; do i=$((i+1)); done; dd if=/dev/zero of=/dev/null bs=64M count=1")
    used = [run(runner, words, **way) for words in (["true"], busy, ["true"])]
    assert len({container(call) for call in used}) == 1
    with Reader(ledger) as reader:
        found = list(reader.query("SELECT cpu_seconds, mem_peak_bytes FROM calls ORDER BY id")[1])
    if None in (row[0] for row in found):
        pytest.skip("the control groups cannot be seen from here")
    assert found[1][0] > 2 * max(found[0][0], found[2][0])
    assert found[1][1] > 32 * MIB
    assert (found[2][1] or 0) < 32 * MIB


# An engine whose processes and groups cannot be seen.


@pytest.mark.engine
def test_far_away_it_is_the_same(remote: Forwarder, ledger: Path, clock: Ahead, way: dict[str, bool]) -> None:
    with calls.Runner(ledger, clock=clock) as runner:
        first, second = run(runner, ["true"], **way), run(runner, shell("exit 3"), **way)
        assert (first.state, second.exit_code) == ("success", 3)
        left = run(runner, shell("sleep 600 >/dev/null 2>&1 & :"), **way)
        assert container(first) == container(second) == container(left)
        stopped = overdue(runner, clock, ARMED, stop_timeout="24h", **way)
        assert (stopped.reason, stopped.exit_code) == ("deadline", 0)
        assert container(stopped) != container(left)
    assert there(runner) == {}


@pytest.mark.engine
@pytest.mark.parametrize("script", ["", "; echo lost"])
def test_a_cut_connection_is_a_gap_and_an_exit_code_is_the_commands_or_unknown(
    remote: Forwarder, ledger: Path, tmp_path: Path, script: str, way: dict[str, bool]
) -> None:
    """The engine may say 126 of a command whose last words it could not pass on: that is not the command's."""
    said = bytearray()
    with calls.Runner(ledger) as runner:
        options: dict[str, Any] = {"network": "none", "hot": True, "volume": [f"{tmp_path}:/gate"], **way}
        words = shell(f"echo up; while [ ! -e /gate/open ]; do sleep 0.05; done{script}")
        future = runner.submit(IMAGE, words, output=lambda _, data: said.extend(data), **options)
        until(lambda: said, "the first word")
        remote.cut()
        if way:  # the engine executes it: what ends before anybody has looked again has just ended
            until(lambda: "hot-follow" in [thread.name for thread in threading.enumerate()], "a look at what runs on")
        (tmp_path / "open").touch()
        call = future.result(LIMIT)
    assert (call.state, call.reason, call.exit_code) in (("success", "exit", 0), ("error", "engine-lost", None))
    assert "output" in [each["data"]["of"] for each in events(call.id) if each["kind"] == "gap"]
    assert there(runner) == {}


# A runner that was killed.

KILLED = """
import sys, calls
runner = calls.Runner(sys.argv[1])
options = {"network": "none", "hot": True}
runner.run("busybox", ["true"], **options)
words = ["sh", "-c", "echo up; sleep 600"]
runner.submit("busybox", words, output=lambda *_: print("up", flush=True), **options)
input()
"""


@contextmanager
def killed(ledger: Path) -> Iterator[None]:
    """A runner that was killed while a hot call ran."""
    words = [sys.executable, "-c", KILLED, str(ledger)]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0) as process:
        assert process.stdout is not None
        hear(process.stdout.fileno(), b"up")
        until_kind("@last", "started")
        process.send_signal(signal.SIGKILL)
        process.wait()
        yield


@pytest.mark.engine
def test_a_call_whose_runner_died_is_lost_and_its_container_is_removed(ledger: Path) -> None:
    with killed(ledger), calls.Runner(ledger, recover=False) as runner:
        (told,) = list(Recovery(runner).settle())
        assert (told.action, told.state, told.reason) == ("settled", "error", "lost")
        assert there(runner) == {}
    assert [call["state"] for call in Reader(ledger).calls()] == ["error", "success"]


@pytest.mark.engine
def test_an_idle_container_whose_runner_died_is_reaped(ledger: Path) -> None:
    with killed(ledger), calls.Runner(ledger, recover=False) as runner:
        assert len(there(runner)) == 1
        (told,) = list(Recovery(runner).reap())
        assert (told.action, told.id) == ("reaped", "")
        assert there(runner) == {}
        assert [each.reason for each in Recovery(runner).settle()] == ["lost"]
