"""What is asked of `calls run` arrives: seen from inside the container, and in the engine's own record."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import docker
import pytest
import running
from running import IMAGE, RUN, calls, discard, run, shown

pytestmark = pytest.mark.engine

Inspect = Callable[..., dict[str, Any]]


@pytest.fixture(autouse=True)
def nothing_left(engine: docker.APIClient) -> Iterator[None]:
    with running.nothing_left(engine):
        yield


@pytest.fixture
def inspect(engine: docker.APIClient) -> Inspect:
    """Begins a call with options; -> what the engine knows of its container."""

    def inspect(*words: str) -> dict[str, Any]:
        said = run("-d", *words)
        assert (said.status, said.err) == (0, b"")
        found: dict[str, Any] = engine.inspect_container(said.out.decode().strip())
        assert calls("kill", "@last").status == 0
        assert calls("wait", "@last") == (0, b"137\n", b"")
        running.until(running.settled, "the container to be removed")
        return found

    return inspect


def test_variables(tmp_path: Path) -> None:
    file = tmp_path / "variables"
    file.write_text("\ufeff# a comment\n\nFROM_FILE= two  words \nTAKEN\nNOT_SET_EITHER\nBOTH=file\nQUOTED='x'\n")
    words = [
        "--env-file",
        str(file),
        "-e",
        "A=1=2",
        "-e",
        "EMPTY=",
        "-e",
        "GIVEN",
        "-e",
        "NOT_SET",
        "--env",
        "BOTH=option",
    ]
    said = run(*words, IMAGE, "env", GIVEN="given é", TAKEN="taken")
    inside = set(said.out.decode().splitlines())
    wanted = {"FROM_FILE= two  words ", "TAKEN=taken", "BOTH=option", "QUOTED='x'", "A=1=2", "EMPTY=", "GIVEN=given é"}
    assert {line for line in inside if not line.startswith(("PATH=", "HOSTNAME=", "HOME="))} == wanted
    assert shown()["spec"]["env"] == dict(line.split("=", 1) for line in wanted)


def test_a_variable_of_several_lines() -> None:
    assert run("-e", "LINES=one\ntwo", IMAGE, "sh", "-c", 'printf %s "$LINES"') == (0, b"one\ntwo", b"")


@pytest.mark.parametrize("text", ["=value\n", "two words=1\n"])
def test_a_wrong_line_in_a_file_of_variables(tmp_path: Path, text: str) -> None:
    file = tmp_path / "variables"
    file.write_text(f"GOOD=1\n{text}")
    said = run("--env-file", str(file), IMAGE)
    assert said[:2] == (125, b"")
    assert f"--env-file: {file}, line 2: ".encode() in said.err


def test_seen_from_inside(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir(mode=0o755)
    (tmp_path / "in" / "file").write_text("from outside\n")
    script = """
        id -u; id -g; pwd; cat /in/file
        touch /in/x 2>/dev/null || echo /in is read-only
        touch /x 2>/dev/null || echo / is read-only
        touch /scratch/x && df -k /scratch | awk 'NR == 2 { print $2, $6 }'
        grep -c . /proc/net/route; ls /sys/class/net
    """
    options = ["--user", "1:2", "--workdir", "/tmp", "--volume", f"{tmp_path}/in:/in:ro", "--read-only"]
    said = run(*options, "--tmpfs", "/scratch:size=1m,mode=1777", IMAGE, "sh", "-c", script)
    expected = "1\n2\n/tmp\nfrom outside\n/in is read-only\n/ is read-only\n1024 /scratch\n1\nlo\n"
    assert said == (0, expected.encode(), b"")


def test_what_a_volume_keeps(tmp_path: Path) -> None:
    assert run("-v", f"{tmp_path}:/out", IMAGE, "sh", "-c", "echo kept >/out/kept").status == 0
    assert (tmp_path / "kept").read_text() == "kept\n"


def test_a_volume_from_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here").touch()
    assert run("-v", ".:/in", IMAGE, "ls", "/in/here") == (0, b"/in/here\n", b"")


def test_an_anonymous_volume_goes_with_its_container(engine: docker.APIClient) -> None:
    said = run("-v", "/data", IMAGE, "sh", "-c", "grep -o ' /data ' /proc/self/mountinfo; hostname")
    assert said.status == 0
    mount, host = said.out.split()
    assert mount == b"/data"
    volumes = engine.volumes(filters={"dangling": True})["Volumes"] or []
    assert not [volume for volume in volumes if host.decode() in str(volume)]


def test_limits_and_names(inspect: Inspect) -> None:
    found = inspect(
        *("--name", "limited", "--label", "team=a,b", "-l", "empty=", "--label", "bare"),
        *("--memory", "64m", "--cpus", "0.5", "--pids-limit", "32", "--stop-signal", "int"),
        *("--workdir", "/nowhere/yet", IMAGE, "sleep", "600"),
    )
    labels, host = found["Config"]["Labels"], found["HostConfig"]
    assert {name: labels[name] for name in ("team", "empty", "bare")} == {"team": "a,b", "empty": "", "bare": ""}
    assert labels["call-ledger.call"] == found["Name"].removeprefix("/") == shown("limited")["id"]
    assert (host["Memory"], host["MemorySwap"]) == (64 * 2**20, 64 * 2**20)
    assert (host["NanoCpus"], host["PidsLimit"], host["NetworkMode"]) == (500_000_000, 32, "none")
    assert (found["Config"]["StopSignal"], found["Config"]["WorkingDir"]) == ("SIGINT", "/nowhere/yet")
    assert not host["AutoRemove"]


def test_the_bare_container(inspect: Inspect) -> None:
    found = inspect(IMAGE, "sleep", "600")
    host = found["HostConfig"]
    limits = ("Memory", "NanoCpus", "PidsLimit", "ReadonlyRootfs", "Privileged", "Init", "Binds", "Tmpfs")
    assert not [name for name in limits if host.get(name)]
    assert (found["Config"]["OpenStdin"], found["Config"]["Tty"]) == (False, False)


def test_init(engine: docker.APIClient) -> None:
    # Not every engine has an init at hand, and one that has none refuses the start: only the request counts.
    run("--init", "--keep", IMAGE, "true")
    uid = shown()["id"]
    assert engine.inspect_container(uid)["HostConfig"]["Init"] is True
    discard(engine, uid)


def test_the_entrypoint() -> None:
    assert run("--entrypoint", "/bin/echo", IMAGE, "-n", "a  b") == (0, b"a  b", b"")
    assert run("--entrypoint", "", IMAGE, "echo", "none") == (0, b"none\n", b"")


def test_the_host_network(engine: docker.APIClient) -> None:
    assert calls("run", "--network", "host", "--keep", IMAGE, "true").status == 0
    uid = shown()["id"]
    assert engine.inspect_container(uid)["HostConfig"]["NetworkMode"] == "host"
    discard(engine, uid)


def test_a_stop_signal_and_the_grace_after_it() -> None:
    script = "trap 'echo asked; exit 9' USR1; echo up; while :; do sleep 0.05; done"
    options = ("--stop-signal", "USR1", "--stop-timeout", "24h")
    with running.under(*RUN, *options, IMAGE, "sh", "-c", script) as call:
        call.hear(b"up\n")
        assert calls("cancel", "@last").status == 0
        said = call.end()
    assert said[:2] == (130, b"up\nasked\n")
    assert running.told(said) == "cancelled/user, exit code 9"


def test_h_is_dockers() -> None:
    assert run("-h", "mine", IMAGE, "hostname") == (0, b"mine\n", b"")


@pytest.mark.parametrize(("given", "recorded"), [("35", "35"), ("SIGRTMIN", "34")])
def test_a_real_time_signal_that_asks_for_the_end(given: str, recorded: str) -> None:
    stop = ["--stop-signal", given, "--timeout", "300ms", "--stop-timeout", "100ms"]
    assert run(*stop, IMAGE, "sleep", "60").status == 124
    signals = [event["data"]["signal"] for event in running.events() if event["kind"] == "signalled"]
    assert signals == [recorded, "KILL"]


def test_the_stop_signal_of_an_image(engine: docker.APIClient) -> None:
    """As the images of systemd have it."""
    name = f"test-stop-signal-{id(engine)}"
    made = engine.create_container(IMAGE, ["sleep", "60"])
    image = engine.commit(made, repository=name, conf={"StopSignal": "SIGRTMIN+3"})["Id"]
    engine.remove_container(made)
    try:
        stop = ["--timeout", "300ms", "--stop-timeout", "100ms"]
        assert run(*stop, name, "sleep", "60").status == 124
        signals = [event["data"]["signal"] for event in running.events() if event["kind"] == "signalled"]
        assert signals == ["37", "KILL"]
    finally:
        engine.remove_image(image, force=True)


def test_no_output_kept_and_no_samples_taken() -> None:
    said = calls(*RUN, "--log-limit", "off", "--sample", "off", IMAGE, "sh", "-c", "echo out; echo err >&2")
    assert said == (0, b"out\n", b"err\n")
    assert (running.kept(1), running.kept(2), shown()["samples"]) == (b"", b"", 0)
