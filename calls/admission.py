"""Who may begin, and who has to wait: first come, first served, within the slots and budgets of one runner."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import NamedTuple

from machine.errors import SpecError, UsageError
from machine.spec import Spec
from machine.units import show_size, size

_CPU = 1_000_000_000  # in billionths, as the engine counts them: fractions add up exactly
_MOST_CPUS = 2**20


class Need(NamedTuple):
    """What is taken from a runner: slots, bytes of memory, billionths of a CPU."""

    calls: int = 1
    memory: int = 0
    cpus: int = 0


class Ticket:
    """One who asked. `lacking`: what there was not enough of; nothing, for who was let in at once. `waited` in ns."""

    __slots__ = ("asked", "go", "holds", "lacking", "left", "need", "waited")

    def __init__(self, need: Need, asked: int, go: Callable[[Ticket], None]) -> None:
        """Made by `Admission.ask`."""
        self.need = need
        self.asked = asked
        self.go = go
        self.lacking: tuple[str, ...] = ()
        self.waited = 0
        self.holds = self.left = False


class Admission:
    """The slots and budgets of one runner. Thread-safe; nothing in it waits but `drain`.

    Nobody overtakes: a small call behind a large one waits as well, else the large one might wait for ever.
    """

    def __init__(self, calls: int, memory: str | int | None, cpus: float | None, monotonic: Callable[[], int]) -> None:
        """`memory` in bytes, or "4g"; None: that is not counted. UsageError for what is no such amount."""
        self._limits = {"calls": _slots(calls), "memory": _memory(memory), "cpus": _cpus(cpus)}
        self._free = dict(self._limits)
        self._monotonic = monotonic
        self._waiting: OrderedDict[int, Ticket] = OrderedDict()
        self._open = 0
        self._changed = threading.Condition()

    def need(self, spec: Spec) -> Need:
        """What a call takes. SpecError when it does not say how much it uses, or can never have it."""
        return Need(1, self._share(spec, "memory", spec.memory), self._share(spec, "cpus", _billionths(spec.cpus)))

    def _share(self, spec: Spec, name: str, wanted: int | None) -> int:
        limit = self._limits[name]
        if limit is None:
            return 0
        if wanted is None:
            raise SpecError(name, f"give the call a limit: this runner has {_show(name, limit)} for all calls together")
        if wanted > limit:
            has = f"this runner has {_show(name, limit)} for all calls together"
            raise SpecError(name, f"{_show(name, wanted)} can never fit: {has}")
        return wanted

    def ask(self, need: Need, go: Callable[[Ticket], None]) -> Ticket:
        """Be let in at once, or else (`lacking` says so) by `go`, called once by whoever makes room, from any thread.

        Each ticket is to `leave`.
        """
        ticket = Ticket(need, self._monotonic(), go)
        with self._changed:
            self._open += 1
            ticket.lacking = self._lacking(need) or (("turn",) if self._waiting else ())
            if ticket.lacking:
                self._waiting[id(ticket)] = ticket
            else:
                self._take(ticket)
        return ticket

    def withdraw(self, ticket: Ticket) -> bool:
        """Wait no longer; False for who is in already. `leave` is still to come."""
        with self._changed:
            if self._waiting.pop(id(ticket), None) is None:
                return False
            admitted = self._admit()
        _let_in(admitted)
        return True

    def leave(self, ticket: Ticket) -> None:
        """It is over: what was taken is free again. Idempotent."""
        with self._changed:
            if ticket.left:
                return
            ticket.left = True
            self._waiting.pop(id(ticket), None)
            self._open -= 1
            if ticket.holds:
                ticket.holds = False
                self._add(ticket.need, 1)
            admitted = self._admit()
            self._changed.notify_all()
        _let_in(admitted)

    def drain(self) -> None:
        """Return when everybody who asked has left."""
        with self._changed:
            self._changed.wait_for(lambda: not self._open)

    def counts(self) -> tuple[int, int]:
        """How many are in or on their way out, and how many wait."""
        with self._changed:
            return self._open - len(self._waiting), len(self._waiting)

    def room(self) -> int | None:
        """How many bytes of memory those who are in leave of the budget; None without one."""
        with self._changed:
            return self._free["memory"]

    # With the lock held.

    def _admit(self) -> list[Ticket]:
        admitted = []
        while self._waiting:
            ticket = next(iter(self._waiting.values()))
            if lacking := self._lacking(ticket.need):
                ticket.lacking = _united(ticket.lacking, lacking)
                break
            self._waiting.popitem(last=False)
            ticket.waited = self._monotonic() - ticket.asked
            self._take(ticket)
            admitted.append(ticket)
        return admitted

    def _lacking(self, need: Need) -> tuple[str, ...]:
        wanted = need._asdict()
        return tuple(name for name, free in self._free.items() if free is not None and wanted[name] > free)

    def _take(self, ticket: Ticket) -> None:
        ticket.holds = True
        self._add(ticket.need, -1)

    def _add(self, need: Need, sign: int) -> None:
        for name, amount in need._asdict().items():
            free = self._free[name]
            if free is not None:
                self._free[name] = free + sign * amount


def _let_in(admitted: list[Ticket]) -> None:
    # Without the lock: what they do next may well be to leave.
    for ticket in admitted:
        ticket.go(ticket)


def _united(before: tuple[str, ...], now: tuple[str, ...]) -> tuple[str, ...]:
    return (*before, *(name for name in now if name not in before))


def _slots(calls: int) -> int:
    if isinstance(calls, bool) or not isinstance(calls, int) or calls < 1:
        raise UsageError("max_calls: must be at least 1")
    return calls


def _memory(given: str | float | None) -> int | None:
    if given is None:
        return None
    try:
        amount = size(given)
    except ValueError as error:
        raise UsageError(f"memory: {error}") from None
    if not amount:
        raise UsageError("memory: must be more than 0")
    return amount


def _cpus(given: float | None) -> int | None:
    if given is None:
        return None
    if isinstance(given, bool) or not isinstance(given, int | float) or not 1 / _CPU <= given <= _MOST_CPUS:
        raise UsageError(f"cpus: {given!r} is not a number of CPUs (write 4 or 3.5)")
    return _billionths(given)


def _billionths(cpus: float | None) -> int | None:
    return None if cpus is None else round(cpus * _CPU)


def _show(name: str, amount: int) -> str:
    return show_size(amount) if name == "memory" else f"{amount / _CPU:g} CPUs"
