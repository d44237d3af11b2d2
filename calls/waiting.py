"""Calls that wait to be let in: recorded when they are asked for, without a thread each, and ended at once on request.

One thread, the usher, does what there is to do about all of them, one thing after the other; it waits for nobody.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, NamedTuple

from calls.admission import Ticket
from calls.conduct import Asked, Auth, called_off
from calls.outcome import outcome
from calls.recorder import Recorder
from machine import facts
from machine.errors import RefusedError
from machine.states import Kind
from machine.table import VERDICTS
from machine.verdict import Verdict

if TYPE_CHECKING:
    from calls.capture import PassOn
    from calls.runner import Runner
    from calls.slots import CallFuture
    from driver.protocol import Driver
    from machine.secrets import Redactor
    from machine.spec import Spec


class Order(NamedTuple):
    """A call that was asked for, with all that it takes to carry it out."""

    future: CallFuture
    spec: Spec
    submitted: facts.Submitted
    driver: Driver
    pass_on: PassOn | None
    started: Callable[[], None]
    auth: Auth
    redactor: Redactor


class Waiting:
    """One of them. To its runner it is what the call's `Conductor` will be: `uid`, `spec`, `recorder` and `ask`."""

    def __init__(self, room: WaitingRoom, order: Order, ticket: Ticket, recorder: Recorder) -> None:
        """Made by `WaitingRoom.receive`."""
        self.order = order
        self.ticket = ticket
        self.recorder = recorder
        self.uid, self.spec = order.future.id, order.spec
        self.asked: Asked | None = None
        """What somebody wants who wants its end."""
        self._room = room

    def ask(self, asked: Asked) -> None:
        """Somebody wants something of the call. What is not its end waits, too: it is in the log."""
        if asked.why in ("cancel", "kill"):
            self.asked = asked
            self._room.end(self, asked)


class WaitingRoom:
    """All of one runner's. There are no threads before somebody waits, and no method waits for anything."""

    def __init__(self, runner: Runner, begin: Callable[[Waiting], None]) -> None:
        """`begin` gets each call that is recorded and was let in."""
        self._runner = runner
        self._begin = begin
        self._recorded: dict[Ticket, Waiting] = {}
        self._called: set[Ticket] = set()
        self._usher = ThreadPoolExecutor(1, thread_name_prefix="usher")
        self._teller = ThreadPoolExecutor(1, thread_name_prefix="teller")  # what futures call back may take its time

    def receive(self, order: Order, ticket: Ticket) -> None:
        """Record a call that waits. LedgerError when the ledger is closed."""
        recorder = Recorder(self._runner.ledger, self._runner.clock, order.redactor)
        waiting = Waiting(self, order, ticket, recorder)
        try:
            posted = recorder.post(order.submitted, self._runner.ledger.post_submitted)
        except BaseException:
            self._runner.dismiss(waiting)
            self._runner.admission.leave(ticket)
            raise
        posted.add_done_callback(lambda done: self._do(waiting, self._written, done))
        order.future.add_done_callback(lambda done: self._runner.cancel(waiting.uid) if done.cancelled() else None)

    def turn(self, ticket: Ticket) -> None:
        """Who waits with this ticket may begin: now, or as soon as that the call exists is durable."""
        self._usher.submit(self._turn, ticket)

    def end(self, waiting: Waiting, asked: Asked) -> None:
        """End it, unless it may begin already: then whoever conducts it finds the request in its log."""
        if self._runner.admission.withdraw(waiting.ticket):
            self._do(waiting, self._end, called_off(asked))

    def close(self) -> None:
        """Nobody waits any more."""
        self._usher.shutdown()
        self._teller.shutdown()

    def _do(self, waiting: Waiting, act: Callable[..., None], *details: Any) -> None:
        self._usher.submit(self._try, waiting, act, *details)

    # The usher's from here on.

    def _try(self, waiting: Waiting, act: Callable[..., None], *details: Any) -> None:
        try:
            act(waiting, *details)
        except BaseException as error:  # noqa: BLE001 - handed to whoever waits for the call
            self._leave(waiting, error)

    def _written(self, waiting: Waiting, posted: Future[int]) -> None:
        try:
            waiting.recorder.begin(posted.result())
        except RefusedError:
            key = waiting.spec.idempotency_key
            if key is None or (known := self._runner.ledger.keyed(key)) is None:
                raise
            self._runner.slots.follow(waiting.order, known)  # somebody asked for the same call at the same moment
            self._runner.dismiss(waiting)
            self._forget(waiting)
            return
        self._recorded[waiting.ticket] = waiting
        self._runner.roster.enlist(waiting)
        self._go_on(waiting.ticket)

    def _turn(self, ticket: Ticket) -> None:
        self._called.add(ticket)
        self._go_on(ticket)

    def _go_on(self, ticket: Ticket) -> None:
        if ticket in self._recorded and ticket in self._called:
            self._called.remove(ticket)
            self._begin(self._recorded.pop(ticket))

    def _end(self, waiting: Waiting, verdict: Verdict) -> None:
        now, mine = self._runner.clock.wall(), self._runner.id
        post, call_id = self._runner.ledger.post, waiting.recorder.call_id
        post(call_id, VERDICTS[verdict.state], verdict.state, now, verdict.ended.dump(), mine)
        last = post(call_id, Kind.CLEANED, None, now, facts.Cleaned(removed=False).dump(), mine)
        last.add_done_callback(lambda done: self._do(waiting, self._ended, verdict, done))

    def _ended(self, waiting: Waiting, verdict: Verdict, last: Future[int]) -> None:
        last.result()
        self._leave(waiting, verdict)

    def _leave(self, waiting: Waiting, end: Verdict | BaseException) -> None:
        waiting.recorder.close()
        self._runner.dismiss(waiting)
        self._forget(waiting)  # first: whoever waits for the call may ask for the next one at once
        self._teller.submit(_tell, waiting.order.future, end)

    def _forget(self, waiting: Waiting) -> None:
        self._recorded.pop(waiting.ticket, None)
        self._called.discard(waiting.ticket)
        self._runner.admission.leave(waiting.ticket)


def _tell(future: CallFuture, end: Verdict | BaseException) -> None:
    if not future.set_running_or_notify_cancel():
        return
    if isinstance(end, Verdict):
        future.set_result(outcome(future.id, end))
    else:
        future.set_exception(end)
