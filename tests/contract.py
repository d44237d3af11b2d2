"""What the contract tests need: for each driver a stage to play on, and an ear for what it reports.

A driver joins by an entry in DRIVERS; one that needs an engine is named in NEEDS_ENGINE, too.
"""

from __future__ import annotations

import queue
import uuid
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import NamedTuple, TypeVar

from calls.clock import Clock, SystemClock
from driver.docker import DockerDriver
from driver.local import LocalDriver
from driver.protocol import LABEL, STDERR, STDOUT, Container, Driver, Fact, Labels
from driver.pump import Pump
from driver.scripted import Schedule, Script, ScriptedDriver, exits, writes
from machine.errors import DriverError
from machine.spec import Spec
from machine.states import Reason
from machine.units import SECOND

LIMIT = 30 * SECOND
"""How long to wait for what must come: only a failing test waits so long."""

SUCCEEDS = ("true",)
FAILS = ("sh", "-c", "printf hello; printf oops >&2; exit 3")
SHOUTS = ("sh", "-c", "i=0; while [ $i -lt 20000 ]; do echo 0123456789abcdef; i=$((i+1)); done")
SHOUTED = b"0123456789abcdef\n" * 20_000
STAYS = ("sleep", "600")
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
    containers for their own.
    """

    driver: Driver
    clock: Clock
    options: dict[str, str]
    prefix: str = ""

    def prepare(self, command: tuple[str, ...], ear: Ear | None = None, uid: str = "the-call") -> Container:
        """A container of `command`, checked and prepared."""
        spec = Spec.parse(driver=self.driver.name, command=command, **self.options)
        self.driver.check(spec)
        return self.driver.prepare(self.prefix + uid, spec, ear or self.ear())

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
        STAYS: Script([exits(0, after=600)]),
        MISSING: Script(refuse_start=DriverError(Reason.START_NOT_FOUND, "nosuch-command: no such command")),
    }
    schedule = Schedule()
    yield Stage(ScriptedDriver(schedule, lambda _, spec: scripts[spec.command]), schedule, {})


@contextmanager
def local() -> Iterator[Stage]:
    """Processes of this host."""
    pump = Pump()
    driver = LocalDriver(pump, Labels(ledger="ledger-of-tests", runner="runner-of-tests"))
    yield Stage(driver, SystemClock(), {})
    driver.close()
    pump.close()


@contextmanager
def docker() -> Iterator[Stage]:
    """Containers of a real engine; none of them is left."""
    pump = Pump()
    labels = Labels(ledger=str(uuid.uuid4()), runner=str(uuid.uuid4()))
    driver = DockerDriver(pump, labels)
    client = driver.client
    yield Stage(driver, SystemClock(), {"image": "busybox", "network": "none"}, f"{labels.runner}-")
    driver.close()
    pump.close()
    left = client.containers(all=True, filters={"label": f"{LABEL}runner={labels.runner}"})
    for container in left:
        client.remove_container(container, force=True)
    client.close()
    assert left == []


Drivers = dict[str, Callable[[], AbstractContextManager[Stage]]]

DRIVERS: Drivers = {"scripted": scripted, "local": local, "docker": docker}
NEEDS_ENGINE = frozenset(("docker",))
