"""Without descriptors, threads or memory a call is refused for that reason, nothing is begun, and others go on."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Iterator

import pytest
import requests
from contract import LIMIT
from scripted_engine import Engine

from driver.docker.errors import speaking
from driver.scarcity import frugal, shortage
from machine.errors import DriverError, UnknownOutcomeError
from machine.states import Reason
from machine.units import SECOND

# Another process is short of things, not this one. What it prints is what came of it.
SHORT = """
import os, queue, resource, sys, threading
from driver.protocol import Died, Labels
from driver.pump import Pump
from machine.errors import DriverError
from machine.spec import Spec

name, limit = sys.argv[1:]
if name == "docker":
    from driver.docker import DockerDriver as Driver
else:
    from driver.local import LocalDriver as Driver

class Ear:
    def __init__(self):
        self.ended = queue.Queue()
    def fact(self, fact):
        if isinstance(fact, Died):
            self.ended.put(fact)
    def output(self, *_):
        pass
    def given_up(self):
        return False

def spec(*command):
    image = {"image": "busybox", "network": "none"} if name == "docker" else {}
    return Spec.parse(driver=name, command=command, **image)

def run_out():
    if limit == "descriptors":
        highest = max(map(int, os.listdir("/proc/self/fd")))
        resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 1, before[1]))
        while True:
            try:
                taken.append(os.dup(0))
            except OSError:
                return
    resource.setrlimit(resource.RLIMIT_NPROC, (0, processes[1]))
    if root:
        os.setresuid(65534, 65534, 0)  # root has no such limit

def attempt(act):
    try:
        act()
        print("done")
    except DriverError as error:
        print(error.reason, type(error).__name__, error)

def have_plenty():
    if root:
        os.setresuid(0, 0, 0)
    for descriptor in taken:
        os.close(descriptor)
    resource.setrlimit(resource.RLIMIT_NOFILE, before)
    resource.setrlimit(resource.RLIMIT_NPROC, processes)

root = os.geteuid() == 0
taken = []
before, processes = resource.getrlimit(resource.RLIMIT_NOFILE), resource.getrlimit(resource.RLIMIT_NPROC)
driver = Driver(Pump(), Labels("ledger", "runner"))
early, ear = Ear(), Ear()
other = driver.prepare("early", spec("sleep", "600"), early)
container = driver.prepare("late", spec("true"), ear)
other.start()
run_out()
attempt(container.start)
attempt(container._spawn if name == "local" else container.inspect)
have_plenty()
print(other.inspect().status, container.inspect().status)
container.start()
print(ear.ended.get().exit_code)
other.signal("KILL")
print(early.ended.get().exit_code)
other.remove()
container.remove()
sys.stdout.flush()
os._exit(0)
"""


def came_of(driver: str, limit: str, **environment: str) -> list[str]:
    """The lines that SHORT prints."""
    done = subprocess.run(
        [sys.executable, "-c", SHORT, driver, limit],
        capture_output=True,
        text=True,
        timeout=LIMIT / SECOND,
        check=False,
        env={**os.environ, **environment},
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.splitlines()


@pytest.fixture
def engine() -> Iterator[Engine]:
    """A scripted one."""
    with Engine() as engine:
        yield engine


GOES_ON = ["running created", "0", "137"]
"""The other one runs, this one was not begun; it can be started later, and both come to their ends."""


def test_a_process_without_descriptors() -> None:
    refused = "resources DriverError true: this process has no file descriptors left"
    assert came_of("local", "descriptors") == [refused, refused, *GOES_ON]


def test_a_process_without_threads_or_processes() -> None:
    """None begins that nobody could wait for."""
    assert came_of("local", "processes") == [
        "resources DriverError this host has no threads left",
        "resources DriverError true: no process more is allowed",
        *GOES_ON,
    ]


def test_a_container_without_descriptors(engine: Engine) -> None:
    """There is nothing to attach through, nor to look: that is no answer about the container."""
    refused = "resources DriverError this process has no file descriptors left"
    assert came_of("docker", "descriptors", DOCKER_HOST=engine.url) == [refused, refused, *GOES_ON]


def wrapped(error: Exception) -> Exception:
    """As requests hands it on."""
    return requests.exceptions.ConnectionError(OSError("Connection aborted.", error))


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE])
def test_a_request_that_could_not_be_sent_was_not_carried_out(number: int) -> None:
    with pytest.raises(DriverError) as refused, speaking(Reason.START_REFUSED):
        raise wrapped(OSError(number, os.strerror(number)))
    assert refused.value.reason is Reason.RESOURCES
    assert not isinstance(refused.value, UnknownOutcomeError)


@pytest.mark.parametrize("error", [wrapped(OSError(errno.ENOMEM, "x")), wrapped(MemoryError()), MemoryError()])
def test_a_request_that_ran_out_of_memory_may_have_been(error: Exception) -> None:
    """The answer may be what there was no room for."""
    with pytest.raises(UnknownOutcomeError) as unknown, speaking(Reason.START_REFUSED):
        raise error
    assert unknown.value.reason is Reason.RESOURCES


@pytest.mark.parametrize("error", [OSError(errno.ENOENT, "x"), RuntimeError("something else"), ValueError("x")])
def test_other_errors_are_no_shortage(error: Exception) -> None:
    assert shortage(error) is None
    with pytest.raises(type(error)) as raised, frugal():
        raise error
    assert raised.value is error
