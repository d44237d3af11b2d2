"""A look into a call that runs, by a process that does not conduct it: nothing is made, started or heard."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from calls.clock import SystemClock
from calls.runner import Runner
from calls.takeover import trace
from driver.deaf import Deaf
from driver.protocol import Container
from ledger.read import Reader
from machine import facts
from machine.errors import NotRunningError, RefusedError
from machine.history import History
from machine.secrets import Redactor, is_secret


class Visit:
    """The container of a call, and a pen for notes about what was done with it. Made by `visit`."""

    def __init__(self, call: str, call_id: int, container: Container, past: History, runner: Runner) -> None:
        """`call`: as it was given."""
        self.container = container
        self._call = call
        self._call_id = call_id
        self._spec = past.spec
        self._ledger = runner.ledger

    def redactor(self, given: Mapping[str, str]) -> Redactor:
        """For the secrets of the call, and those among `given`, variables that are set besides: none is recorded."""
        own = self._spec.secrets(self.container.environment())
        return Redactor([*own, *(value for name, value in given.items() if is_secret(name))])

    def note(self, fact: facts.Fact) -> None:
        """Record it. NotRunningError when the call has ended, and the table allows it only before."""
        try:
            self._ledger.append(self._call_id, fact.kind, None, SystemClock().wall(), None, fact.dump())
        except RefusedError as error:
            raise NotRunningError(f"{self._call} has ended meanwhile") from error


@contextmanager
def visit(reader: Reader, call: str, call_id: int) -> Iterator[Visit]:
    """Find the container of a call that runs. NotRunningError when it is gone."""
    past = History(reader.log(call_id))
    with Runner(reader.path, recover=False) as runner:
        container = runner.driver(past.spec.driver).recover(past.uid, past.spec, Deaf(), trace(past))
        if container is None:
            raise NotRunningError(f"{call}: its container is gone")
        try:
            yield Visit(call, call_id, container, past, runner)
        finally:
            container.close()
