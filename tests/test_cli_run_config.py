"""Every option of a container's configuration on a real engine: its record of it, and what is seen from inside."""

from __future__ import annotations

import json
import os
import socket
import uuid
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import docker
import pytest
import running
from running import IMAGE, RUN, calls, discard, run, shown, told

pytestmark = pytest.mark.engine

Inspect = Callable[..., dict[str, Any]]
NO_CHMOD = {
    "defaultAction": "SCMP_ACT_ALLOW",
    "syscalls": [{"names": ["chmod", "fchmodat", "fchmodat2"], "action": "SCMP_ACT_ERRNO"}],
}
SEEN = """
    ulimit -n; ulimit -Hn; cat /proc/self/oom_score_adj; cat /proc/sys/net/core/somaxconn
    df -k /dev/shm /scratch | awk 'NR > 1 { print $2, $6 }'; df -i /scratch | awk 'NR == 2 { print $2 }'
    grep Cpus_allowed_list /proc/self/status; hostname; id -G
    grep -o '10.9.9.9.*db.example' /etc/hosts; sort /etc/resolv.conf; cat /odd/file
    touch /odd/x 2>/dev/null || echo /odd is read-only
"""
LIMITS = (
    *("--ulimit", "nofile=100:200", "--oom-score-adj", "500", "--sysctl", "net.core.somaxconn=99"),
    *("--shm-size", "8m", "--tmpfs", "/scratch:size=1m,nr_inodes=77", "--cpuset-cpus", "0"),
    *("--hostname", "box.example", "--user", "1:1", "--group-add", "77", "--group-add", "88"),
    *("--add-host", "db.example:10.9.9.9", "--dns", "10.9.9.8", "--dns-search", "example.org"),
    *("--dns-option", "ndots:3"),
)


@pytest.fixture(autouse=True)
def nothing_left(engine: docker.APIClient) -> Iterator[None]:
    with running.nothing_left(engine):
        yield


@pytest.fixture
def inspect(engine: docker.APIClient) -> Inspect:
    """Begins a call with options; -> what the engine knows of its container."""

    def inspect(*words: str) -> dict[str, Any]:
        said = calls(*RUN, "-d", *words, IMAGE, "sleep", "600")
        assert (said.status, said.err) == (0, b"")
        found: dict[str, Any] = engine.inspect_container(said.out.decode().strip())
        assert calls("kill", "@last").status == 0
        running.until(running.settled, "the container to be removed")
        return found

    return inspect


def inside(*words: str) -> dict[str, str]:
    """/proc/self/status of a call with options."""
    said = run(*words, IMAGE, "cat", "/proc/self/status")
    assert said.status == 0, said
    return {name: value.strip() for name, _, value in (line.partition(":") for line in said.out.decode().splitlines())}


def test_limits_names_and_mounts_seen_from_inside(tmp_path: Path) -> None:
    odd = tmp_path / "a:b,c"
    odd.mkdir()
    (odd / "file").write_text("from a path with a colon\n")
    mount = f'type=bind,"source={odd}",target=/odd,readonly'
    said = run(*LIMITS, "--mount", mount, IMAGE, "sh", "-c", SEEN)
    assert said.err == b""
    assert said.out.decode().splitlines() == [
        *("100", "200", "500", "99", "8192 /dev/shm", "1024 /scratch", "77"),
        *("Cpus_allowed_list:\t0", "box.example", "1 77 88", "10.9.9.9\tdb.example"),
        *("nameserver 10.9.9.8", "options ndots:3", "search example.org"),
        *("from a path with a colon", "/odd is read-only"),
    ]
    spec = shown()["spec"]
    assert (spec["ulimit"], spec["mount"], spec["oom_score_adj"]) == (["nofile=100:200"], [mount], 500)


def test_limits_in_the_engines_record(inspect: Inspect) -> None:
    host = inspect(
        *("--memory", "64m", "--memory-reservation", "32m", "--cpu-shares", "512", "--cpus", "0.25"),
        *("--log-driver", "json-file", "--log-opt", "max-size=1m", "--cap-drop", "ALL", "--cap-add", "NET_RAW"),
    )["HostConfig"]
    assert (host["Memory"], host["MemorySwap"], host["MemoryReservation"]) == (2**26, 2**26, 2**25)
    assert (host["CpuShares"], host["NanoCpus"]) == (512, 250_000_000)
    assert host["LogConfig"] == {"Type": "json-file", "Config": {"max-size": "1m"}}
    assert (host["CapAdd"], host["CapDrop"]) in [(["NET_RAW"], ["ALL"]), (["CAP_NET_RAW"], ["ALL"])]


def test_a_reservation_and_shares_reach_the_kernel() -> None:
    if not Path("/sys/fs/cgroup/memory").exists():
        pytest.skip("control groups of version 2 have no files of these names")
    script = "cd /sys/fs/cgroup; cat memory/memory.soft_limit_in_bytes memory/memory.limit_in_bytes cpu/cpu.shares"
    said = run("-m", "64m", "--memory-reservation", "32m", "--cpu-shares", "512", IMAGE, "sh", "-c", script)
    assert said.out.split() == [b"%d" % 2**25, b"%d" % 2**26, b"512"]


def test_capabilities() -> None:
    assert int(inside("--cap-drop", "ALL", "--cap-add", "net_raw")["CapBnd"], 16) == 1 << 13
    bare, more = (inside(*words)["CapBnd"] for words in ((), ("--cap-add", "SYS_PTRACE")))
    assert int(more, 16) == int(bare, 16) | 1 << 19


def test_privileged(engine: docker.APIClient) -> None:
    """Where the engine itself may not do everything it can only refuse it."""
    said = run("--privileged", "--keep", IMAGE, "sh", "-c", "echo 100 >/proc/sys/net/core/somaxconn && echo written")
    uid = shown()["id"]
    assert engine.inspect_container(uid)["HostConfig"]["Privileged"] is True
    discard(engine, uid)
    if said.status == 125:
        assert "unable to apply caps" in told(said)
    else:
        assert said == (0, b"written\n", b"")


def test_no_new_privileges() -> None:
    assert inside()["NoNewPrivs"] == "0"
    assert inside("--security-opt", "no-new-privileges")["NoNewPrivs"] == "1"


def test_a_seccomp_profile(tmp_path: Path) -> None:
    profile = tmp_path / "profile.json"
    profile.write_text(json.dumps(NO_CHMOD, indent=2))
    chmod = (IMAGE, "sh", "-c", "touch /x; chmod 600 /x && echo done")
    assert run(*chmod) == (0, b"done\n", b"")
    said = run("--security-opt", f"seccomp={profile}", *chmod)
    assert (said.status, said.out, b"Operation not permitted" in said.err) == (1, b"", True)
    (option,) = shown()["spec"]["security_opt"]
    assert json.loads(option.removeprefix("seccomp=")) == NO_CHMOD
    assert b'security_opt=["seccomp={\xe2\x80\xa6}"]' in calls("show", "@last").out
    assert inside("--security-opt", "seccomp=unconfined")["Seccomp"] == "0"


def test_a_device() -> None:
    if not Path("/dev/fuse").exists():
        pytest.skip("there is no /dev/fuse here")
    script = "ls -l /dev/inner | awk '{ print $5, $6 }'; exec 3</dev/inner && echo opened; exec 4>/dev/inner"
    said = run("--device", "/dev/fuse:/dev/inner:r", IMAGE, "sh", "-c", script)
    assert (said.status, said.out.splitlines()) == (1, [b"10, 229", b"opened"])
    assert b"/dev/inner: Operation not permitted" in said.err


def test_init_reaps() -> None:
    said = run("--init", IMAGE, "cat", "/proc/1/cmdline")
    if told_by_engine := said.status == 125:
        assert b"docker-init" in said.err
    assert told_by_engine or said.out.endswith(b"\0cat\0/proc/1/cmdline\0")


def test_the_size_of_the_root_is_the_storage_drivers_affair(engine: docker.APIClient) -> None:
    said = run("--storage-opt", "size=64m", IMAGE, "sh", "-c", "df -k / | awk 'NR == 2 { print $2 }'")
    if said.status == 0:
        assert int(said.out) <= 64 * 1024
        return
    assert (said.status, shown()["never_ran"]) == (125, True)
    assert told(said).startswith("error/create-refused: --storage-opt ")
    assert "{" not in shown()["message"]


def test_a_platform(engine: docker.APIClient) -> None:
    architecture = engine.inspect_image(IMAGE)["Architecture"]
    assert run("--platform", f"linux/{architecture}", IMAGE, "echo", "here") == (0, b"here\n", b"")
    said = run("--platform", "linux/s390x", "--pull", "never", IMAGE, "true")
    assert (said.status, shown()["reason"], shown()["never_ran"]) == (125, "pull-missing", True)
    assert "linux/s390x" in shown()["message"]


def test_without_a_log_the_output_still_comes() -> None:
    assert run("--log-driver", "none", IMAGE, "sh", "-c", "echo out; echo err >&2") == (0, b"out\n", b"err\n")
    assert (running.kept(1), running.kept(2)) == (b"out\n", b"err\n")


def test_syslog_gets_a_copy() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("127.0.0.1", 0))
        server.settimeout(running.LIMIT)
        where = f"syslog-address=udp://127.0.0.1:{server.getsockname()[1]}"
        log = (
            "--log-driver",
            "syslog",
            "--log-opt",
            where,
            "--log-opt",
            "tag=k=v",
            "--log-opt",
            "syslog-format=rfc5424",
        )
        assert run(*log, IMAGE, "echo", "to both") == (0, b"to both\n", b"")
        line = server.recv(4096)
    assert b" k=v " in line
    assert line.rstrip().endswith(b"to both")


@pytest.mark.parametrize("words", [("--sysctl", "net.nosuch=1"), ("--device", "/dev/nosuch")])
def test_what_is_missing_is_not_taken_for_a_command_that_is(words: tuple[str, str]) -> None:
    said = run(*words, IMAGE, "true")
    assert (said.status, shown()["reason"]) == (125, "start-refused")
    assert "no such file or directory" in told(said)


def test_a_log_driver_that_is_not_there_is_refused_in_the_engines_words() -> None:
    said = run("--log-driver", "nosuch", IMAGE, "true")
    assert (said.status, shown()["reason"], shown()["never_ran"]) == (125, "create-refused", True)
    assert "nosuch" in told(said)


def test_what_nobody_vouches_for() -> None:
    script = """
        id -u; id -g; grep -E '^(CapBnd|NoNewPrivs)' /proc/self/status; ulimit -n; ls /sys/class/net
        touch /x 2>/dev/null || echo / is read-only
        touch /tmp/x; df -k /tmp | awk 'NR == 2 { print $2 }'; df -i /tmp | awk 'NR == 2 { print $2 }'
        i=0; while [ $i -lt 60 ]; do sleep 600 & i=$((i+1)); done
    """
    said = calls("run", "--untrusted", IMAGE, "sh", "-c", script)
    assert said.status == 2  # the shell's own, when it cannot fork
    assert b"can't fork: Resource temporarily unavailable" in said.err
    assert said.out.decode().splitlines() == [
        *(
            "1000",
            "1000",
            "CapBnd:\t0000000000000000",
            "NoNewPrivs:\t1",
            "350",
            "lo",
            "/ is read-only",
            "65536",
            "65536",
        ),
    ]
    spec = shown()["spec"]
    assert (spec["user"], spec["network"], spec["cap_drop"], spec["pids_limit"]) == ("1000:1000", "none", ["ALL"], 50)


def test_what_is_asked_for_beside_that_goes_before_it() -> None:
    said = calls(
        "run",
        "--untrusted",
        "--user",
        "7",
        "--cap-add",
        "NET_RAW",
        IMAGE,
        "sh",
        "-c",
        "id -u; grep CapBnd /proc/self/status",
    )
    assert said == (0, b"7\nCapBnd:\t0000000000002000\n", b"")


# Ports.


def serve(*words: str) -> str:
    """Begins a call that answers on its port 80; -> its id."""
    script = "while :; do printf 'HTTP/1.0 200 OK\\r\\n\\r\\nfrom inside' | nc -l -p 80; done"
    said = calls("run", "-d", *words, "sh", "-c", script)
    assert (said.status, said.err) == (0, b"")
    return said.out.decode().strip()


def answer(place: str) -> bytes:
    """What is said at a published port; it may take a moment until somebody listens."""
    host, _, port = place.rpartition(":")
    heard = b""

    def hear() -> bool:
        nonlocal heard
        heard = b""
        with suppress(OSError), socket.create_connection((host, int(port)), timeout=running.LIMIT) as peer:
            while not heard.endswith(b"from inside") and (piece := peer.recv(4096)):
                heard += piece
        return heard.endswith(b"from inside")

    running.until(hear, "an answer")
    return heard


def test_published_ports_and_what_they_became() -> None:
    serve("-p", "127.0.0.1::80", "--publish", "127.0.0.1::90/udp", IMAGE)
    ports = shown()["ports"]
    assert ports.keys() == {"80/tcp", "90/udp"}
    (place,) = ports["80/tcp"]
    assert answer(place).endswith(b"from inside")
    (started,) = [event["data"] for event in running.events() if event["kind"] == "started"]
    assert started["ports"] == ports
    assert f"80/tcp={place}".encode() in calls("show", "@last").out
    assert calls("kill", "@last").status == 0
    assert calls("wait", "@last").status == 0
    running.until(running.settled, "its end")


def test_a_port_that_is_taken_is_refused_in_the_engines_words() -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        said = calls("run", "-p", f"127.0.0.1:{other.getsockname()[1]}:80", IMAGE, "true")
    assert (said.status, shown()["state"], shown()["reason"]) == (125, "error", "start-refused")
    assert "address already in use" in told(said)


def test_all_ports_that_the_image_exposes(engine: docker.APIClient) -> None:
    name = f"test-exposed-{os.getpid()}-{uuid.uuid4().hex[:8]}"
    made = engine.create_container(IMAGE, ["true"])
    image = engine.commit(made, repository=name, conf={"ExposedPorts": {"80/tcp": {}, "81/tcp": {}}})["Id"]
    engine.remove_container(made)
    try:
        serve("-P", name)
        ports = shown()["ports"]
        assert ports.keys() == {"80/tcp", "81/tcp"}
        place = next(each for each in ports["80/tcp"] if "[" not in each)
        assert answer(place.replace("0.0.0.0", "127.0.0.1")).endswith(b"from inside")
        assert calls("kill", "@last").status == 0
        running.until(running.settled, "its end")
    finally:
        engine.remove_image(image, force=True)


def test_help_tells_of_every_option() -> None:
    from machine.spec import Spec

    text = calls("run", "--help").out.decode()
    assert [name for name in {*Spec._fields} - {"image", "command"} if f"--{name.replace('_', '-')}" not in text] == []
    assert "--untrusted" in text
