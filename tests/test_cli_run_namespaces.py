"""Namespaces, addresses, runtimes and GPUs of a container, seen from inside or in the engine's own words."""

from __future__ import annotations

import os
import socket
import uuid
from collections.abc import Iterator
from pathlib import Path

import docker
import pytest
import running
from docker.types import IPAMConfig, IPAMPool
from running import IMAGE, calls, run, shown, told

pytestmark = pytest.mark.engine

NETWORK = f"10.213.{os.getpid() % 256}"
SUBNET, ADDRESS, MAC = f"{NETWORK}.0/24", f"{NETWORK}.9", "02:42:0a:d5:4e:09"


@pytest.fixture(autouse=True)
def nothing_left(engine: docker.APIClient) -> Iterator[None]:
    with running.nothing_left(engine):
        yield


@pytest.fixture
def network(engine: docker.APIClient) -> Iterator[str]:
    """A network with addresses of our choice."""
    name = f"test-own-{os.getpid()}-{uuid.uuid4().hex[:8]}"
    engine.create_network(name, ipam=IPAMConfig(pool_configs=[IPAMPool(subnet=SUBNET)]))
    yield name
    engine.remove_network(name)


def namespace(kind: str, *words: str) -> str:
    """Which one it is in a call with options."""
    said = run(*words, IMAGE, "readlink", f"/proc/self/ns/{kind}")
    assert (said.status, said.err) == (0, b""), said
    return said.out.decode().strip()


@pytest.mark.parametrize(("kind", "option"), [("pid", "pid"), ("ipc", "ipc"), ("uts", "uts"), ("cgroup", "cgroupns")])
def test_namespaces_of_the_host(kind: str, option: str) -> None:
    """There is one of them, and a call has another."""
    first, second = (namespace(kind, f"--{option}", "host") for _ in range(2))
    assert shown()["spec"][option] == "host"
    own = namespace(kind, *(("--cgroupns", "private") if kind == "cgroup" else ()))
    assert first == second != own


def test_user_numbers_of_the_host(engine: docker.APIClient) -> None:
    """Where an engine maps none this changes nothing."""
    said = run("--userns", "host", "--keep", IMAGE, "cat", "/proc/self/uid_map")
    assert engine.inspect_container(shown()["id"])["HostConfig"]["UsernsMode"] == "host"
    running.discard(engine, shown()["id"])
    assert said.out.split() == [b"0", b"0", b"%d" % (2**32 - 1)]


def test_no_shared_memory_at_all() -> None:
    script = "[ -e /dev/shm ] || echo none"
    assert run("--ipc", "none", IMAGE, "sh", "-c", script) == (0, b"none\n", b"")
    assert run("--ipc", "private", IMAGE, "sh", "-c", script) == (0, b"", b"")


def test_another_call_by_its_id() -> None:
    """The name of a call's container is the call's id."""
    said = calls("run", "-d", "--ipc", "shareable", IMAGE, "sleep", "600")
    assert said.status == 0, said.err
    call = said.out.decode().strip()
    words = ("sh", "-c", "for kind in pid ipc net; do readlink /proc/self/ns/$kind; done")
    theirs = calls("exec", call, *words).out.split()
    of = f"container:{call}"
    joined = calls("run", "--pid", of, "--ipc", of, "--network", of, IMAGE, *words)
    alone = calls("run", IMAGE, *words)
    assert (joined.status, joined.out.split()) == (0, theirs)
    assert len({*theirs, *alone.out.split()}) == 6
    assert calls("kill", call).status == 0
    running.until(lambda: running.settled(call), "its end")


def test_a_container_that_is_not_there_is_told_in_the_engines_words() -> None:
    said = run("--pid", "container:nosuch", IMAGE, "true")
    assert (said.status, shown()["never_ran"]) == (125, True)
    assert "No such container: nosuch" in told(said)


def test_an_address_of_ones_own(network: str) -> None:
    words = ("--network", network, "--ip", ADDRESS, "--mac-address", MAC)
    said = calls("run", *words, IMAGE, "sh", "-c", "ip -o -4 addr show eth0; cat /sys/class/net/eth0/address")
    assert (said.status, said.err) == (0, b"")
    assert f" inet {ADDRESS}/24 " in said.out.decode()
    assert said.out.decode().splitlines()[-1] == MAC
    assert (shown()["spec"]["ip"], shown()["spec"]["mac_address"]) == (ADDRESS, MAC)


def test_a_mac_address_in_the_default_network() -> None:
    said = calls("run", "--mac-address", MAC, IMAGE, "cat", "/sys/class/net/eth0/address")
    assert said == (0, f"{MAC}\n".encode(), b"")


def test_an_address_of_another_network_is_refused_in_the_engines_words(network: str) -> None:
    said = calls("run", "--network", network, "--ip", "192.0.2.1", IMAGE, "true")
    assert (said.status, shown()["never_ran"]) == (125, True)
    assert "192.0.2.1" in told(said)


def test_swappiness(engine: docker.APIClient) -> None:
    said = run(
        "-m", "64m", "--memory-swappiness", "7", "--keep", IMAGE, "cat", "/sys/fs/cgroup/memory/memory.swappiness"
    )
    found = engine.inspect_container(shown()["id"])["HostConfig"]["MemorySwappiness"]
    running.discard(engine, shown()["id"])
    if Path("/sys/fs/cgroup/memory").exists():
        assert (said, found) == ((0, b"7\n", b""), 7)
    else:  # control groups of version 2 have none, and the engine says so
        assert b"swappiness" in said.err


def test_a_runtime(engine: docker.APIClient) -> None:
    said = run("--runtime", "runc", "--keep", IMAGE, "true")
    assert said.status == 0
    assert engine.inspect_container(shown()["id"])["HostConfig"]["Runtime"] == "runc"
    running.discard(engine, shown()["id"])
    said = run("--runtime", "nosuch", IMAGE, "true")
    assert (said.status, shown()["never_ran"]) == (125, True)
    assert "nosuch" in told(said)


def test_gpus(engine: docker.APIClient) -> None:
    """As a rule there are none where this is tested, and the engine says that."""
    said = run("--gpus", "device=0,1", "--keep", IMAGE, "true")
    (asked,) = engine.inspect_container(shown()["id"])["HostConfig"]["DeviceRequests"]
    running.discard(engine, shown()["id"])
    assert (asked["DeviceIDs"], asked["Capabilities"], asked["Count"]) == (["0", "1"], [["gpu"]], 0)
    if said.status != 0:
        assert (said.status, shown()["reason"]) == (125, "start-refused")
        assert "could not select device driver" in told(said)


def test_a_socket_of_ours_in_a_folder_is_reached_from_inside(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ours:
        ours.bind(str(tmp_path / "log"))
        ours.settimeout(running.LIMIT)
        script = "ln -s /sockets/log /dev/log; logger hello from inside"  # what busybox has that writes to a socket
        assert run("-v", f"{tmp_path}:/sockets", IMAGE, "sh", "-c", script) == (0, b"", b"")
        assert ours.recv(4096).endswith(b"hello from inside")
