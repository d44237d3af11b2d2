"""What the contract tests need: for each driver a stage to play on, and an ear for what it reports.

A driver joins by an entry in DRIVERS; one that needs an engine is named in NEEDS_ENGINE, too.
"""

from __future__ import annotations

import os
import queue
import uuid
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import NamedTuple, TypeVar
from unittest.mock import patch

import running
from scripted_engine import Engine

from calls.clock import Clock, SystemClock
from driver.docker import DockerDriver
from driver.local import LocalDriver
from driver.protocol import LABEL, STDERR, STDOUT, Container, Died, Driver, Fact, Labels, Trace
from driver.pump import Pump
from driver.scripted import Schedule, Script, ScriptedContainer, ScriptedDriver, Step, exits, writes
from machine.errors import DriverError
from machine.spec import Spec
from machine.states import Reason
from machine.units import SECOND

LIMIT = running.LIMIT * SECOND
"""How long to wait for what must come, ns."""

SUCCEEDS = ("true",)
FAILS = ("sh", "-c", "printf hello; printf oops >&2; exit 3")
SHOUTS = ("sh", "-c", "i=0; while [ $i -lt 20000 ]; do echo 0123456789abcdef; i=$((i+1)); done")
SHOUTED = b"0123456789abcdef\n" * 20_000
STAYS = ("sleep", "600")
TALKS = ("sh", "-c", "trap 'echo second; exit 5' TERM; echo first; while :; do sleep 0.05; done")
MISSING = ("nosuch-command",)

Seen = TypeVar("Seen", bound=Fact)


class Ear:
    """A Watcher that remembers what it heard: `facts` in order, `said` by stream, `pulls`."""

    def __init__(self, clock: Clock) -> None:
        """`clock` is the one that `until` waits by."""
        self.facts: list[Fact] = []
        self.said = {STDOUT: b"", STDERR: b""}
        self.pulls: list[tuple[str, float, str | None]] = []
        self.gives_up = False
        self._clock = clock
        self._news: queue.SimpleQueue[Fact | tuple[int, bytes]] = queue.SimpleQueue()

    def fact(self, fact: Fact) -> None:
        """See `Watcher`."""
        self._news.put(fact)

    def output(self, stream: int, data: bytes) -> None:
        """See `Watcher`."""
        self._news.put((stream, data))

    def pulled(self, image: str, seconds: float, fallback: str | None) -> None:
        """See `Watcher`."""
        self.pulls.append((image, seconds, fallback))

    def pull_progressed(self, image: str, current: int, total: int) -> None:
        """See `Watcher`."""

    def credentials(self, registry: str) -> None:
        """See `Watcher`."""

    def progress(self, text: str) -> None:
        """See `Watcher`."""

    def given_up(self) -> bool:
        """See `Watcher`."""
        return self.gives_up

    def hear(self) -> Fact | tuple[int, bytes]:
        """The next news, remembered; queue.Empty after LIMIT."""
        news = self._clock.get(self._news, LIMIT)
        if isinstance(news, Fact):
            self.facts.append(news)
        else:
            stream, data = news
            self.said[stream] += data
        return news

    def until(self, kind: type[Seen]) -> Seen:
        """The first fact of this `kind`, heard before or waited for."""
        while True:
            for fact in self.facts:
                if isinstance(fact, kind):
                    return fact
            self.hear()

    def rest(self) -> None:
        """Hear what has come by now."""
        while not self._news.empty():
            self.hear()

    def until_said(self, stream: int, text: bytes) -> None:
        """Wait until `text` was written to `stream`."""
        while text not in self.said[stream]:
            self.hear()


class Stage(NamedTuple):
    """A driver, the clock it lives by, and the options that its specs need besides a command.

    `prefix`: what ids begin with, so that two runs of the tests on one engine do not take each other's
    containers for their own. `make` gives another driver on the same host. `outlives`: a container is there
    before its start and after its end, and so are its output and its exit code.
    """

    driver: Driver
    labels: Labels
    make: Callable[[Labels], Driver]
    clock: Clock
    options: dict[str, str]
    prefix: str = ""
    outlives: bool = True

    def successor(self) -> Stage:
        """The same for another runner of the ledger."""
        return self._with(self.labels._replace(runner=f"{self.labels.runner}-next"))

    def stranger(self) -> Stage:
        """The same for another ledger."""
        return self._with(Labels(f"{self.labels.ledger}-other", f"{self.labels.runner}-other"))

    def _with(self, labels: Labels) -> Stage:
        return self._replace(driver=self.make(labels), labels=labels)

    def prepare(self, command: tuple[str, ...], ear: Ear | None = None, uid: str = "the-call") -> Container:
        """A container of `command`, checked and prepared."""
        spec = Spec.parse(driver=self.driver.name, command=command, **self.options)
        self.driver.check(spec)
        return self.driver.prepare(self.prefix + uid, spec, ear or self.ear())

    def recover(
        self, command: tuple[str, ...], ear: Ear | None = None, uid: str = "the-call", trace: Trace | None = None
    ) -> Container | None:
        """What there is of a call; without a `trace` nothing is known of it but its beginning, a minute ago."""
        spec = Spec.parse(driver=self.driver.name, command=command, **self.options)
        trace = trace or Trace(self.clock.wall() - 60 * SECOND)
        return self.driver.recover(self.prefix + uid, spec, ear or self.ear(), trace)

    def found(self, command: tuple[str, ...], ear: Ear | None = None, uid: str = "the-call") -> Container:
        """As `recover`, of a call that has a container."""
        container = self.recover(command, ear, uid)
        assert container is not None
        return container

    def ear(self) -> Ear:
        """A new one, on this clock."""
        return Ear(self.clock)


@contextmanager
def scripted() -> Iterator[Stage]:
    """The scripted driver: what each command would do is written down here."""
    scripts = {
        SUCCEEDS: Script([exits(0)]),
        FAILS: Script([writes(b"hello"), writes(b"oops", STDERR), exits(3, after=0.1)]),
        SHOUTS: Script([writes(SHOUTED), exits(0, after=1)]),
        STAYS: Script([exits(0, after=600)], on_signal={"WINCH": None}),
        TALKS: Script([writes(b"first\n")], on_signal={"TERM": Step(0, _says_goodbye)}),
        MISSING: Script(refuse_start=DriverError(Reason.START_NOT_FOUND, "nosuch-command: no such command")),
    }
    schedule, containers = Schedule(), dict[str, ScriptedContainer]()

    def make(labels: Labels) -> Driver:
        return ScriptedDriver(schedule, lambda _, spec: scripts[spec.command], containers, labels)

    labels = Labels(ledger="ledger-of-tests", runner="runner-of-tests")
    yield Stage(make(labels), labels, make, schedule, {})


def _says_goodbye(container: ScriptedContainer) -> None:
    container.write(STDOUT, b"second\n")
    container.happen(Died, 5, "die")


@contextmanager
def local() -> Iterator[Stage]:
    """Processes of this host."""
    pump, drivers = Pump(), list[LocalDriver]()

    def make(labels: Labels) -> Driver:
        drivers.append(LocalDriver(pump, labels))
        return drivers[-1]

    labels = Labels(ledger=str(uuid.uuid4()), runner=str(uuid.uuid4()))
    yield Stage(make(labels), labels, make, SystemClock(), {}, outlives=False)
    left = [(driver, one) for driver in drivers for one in driver.leftovers()]
    for driver, one in left:
        driver.reap(one)
    for driver in drivers:
        driver.close()
    pump.close()
    assert left == []


@contextmanager
def docker() -> Iterator[Stage]:
    """Containers of a real engine; none of them is left."""
    pump, drivers, ledgers = Pump(), list[DockerDriver](), set[str]()

    def make(labels: Labels) -> Driver:
        drivers.append(DockerDriver(pump, labels))
        ledgers.add(labels.ledger)
        return drivers[-1]

    labels = Labels(ledger=str(uuid.uuid4()), runner=str(uuid.uuid4()))
    options = {"image": "busybox", "network": "none"}
    yield Stage(make(labels), labels, make, SystemClock(), options, f"{labels.runner}-")
    drivers.append(DockerDriver(pump, labels))  # the test may have closed the others
    client = drivers[-1].client
    left = [one for each in ledgers for one in client.containers(all=True, filters={"label": f"{LABEL}ledger={each}"})]
    for container in left:
        client.remove_container(container, force=True)
    for driver in drivers:
        driver.close()
    pump.close()
    assert left == []


@contextmanager
def docker_scripted() -> Iterator[Stage]:
    """The docker driver on the scripted engine."""
    with Engine() as engine, patch.dict(os.environ, DOCKER_HOST=engine.url), docker() as stage:
        yield stage


Drivers = dict[str, Callable[[], AbstractContextManager[Stage]]]

DRIVERS: Drivers = {"scripted": scripted, "local": local, "docker": docker, "docker-scripted": docker_scripted}
NEEDS_ENGINE = frozenset(("docker",))
