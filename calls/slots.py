"""Slots: the threads in which a runner's calls are carried out, each from its beginning to its end."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING

from calls.admission import Need, Ticket
from calls.capture import Capture
from calls.conduct import Conductor
from calls.outcome import Call, outcome
from calls.recorder import Recorder
from machine import facts
from machine.errors import DriverError, RefusedError
from machine.states import Reason
from machine.verdict import Verdict

if TYPE_CHECKING:
    from calls.runner import Runner
    from calls.waiting import Order, Waiting

_FOLLOWERS = 256


class CallFuture(Future[Call]):
    """A call under way. `id` is known at once; the result is a `Call`, whatever became of it.

    `followed`: it was asked for before, by the same idempotency key, and is only waited for.
    """

    def __init__(self, uid: str) -> None:
        """Made by `Runner.submit`."""
        super().__init__()
        self.id = uid
        self.followed = False


class Slots:
    """Of one runner. Whoever gets one was let in: see `admission`."""

    def __init__(self, runner: Runner, count: int) -> None:
        """No thread begins before it is needed."""
        self._runner = runner
        self._threads = ThreadPoolExecutor(count, thread_name_prefix="call")
        self._followers = ThreadPoolExecutor(_FOLLOWERS, thread_name_prefix="follower")

    def begin(self, order: Order, ticket: Ticket, waiting: Waiting | None = None) -> None:
        """Carry a call out; `waiting`: it had to wait. DriverError when no thread is to be had for it."""
        try:
            self._threads.submit(self._carry_out, order, ticket, waiting)
        except RuntimeError as error:
            if waiting is not None:
                return  # it is in the queue, and the thread of the call that has made room takes it
            # It is in the queue all the same, for the next thread that there is; which may have taken it.
            if not order.future.cancel():
                return
            self._drop(order, ticket)
            raise DriverError(Reason.RESOURCES, f"no thread for the call: {error}") from error

    def undertake(self, future: CallFuture, conduct: Callable[[], Verdict]) -> None:
        """Do `conduct` in a slot; its verdict is the future's result."""

        def begin(ticket: Ticket) -> None:
            self._threads.submit(self._fulfil, future, conduct, ticket)

        ticket = self._runner.admission.ask(Need(), begin)
        if not ticket.lacking:
            begin(ticket)

    def follow(self, order: Order, known: str) -> None:
        """It was asked for before, and is the call `known`: its end is the order's.

        In no slot: the call may be waiting for that very one.
        """
        order.future.id, order.future.followed = known, True
        self._followers.submit(self._fulfil, order.future, lambda: self._follow(order.future, order.started))

    def _follow(self, future: CallFuture, started: Callable[[], None]) -> Verdict:
        from calls.follow import follow

        self._runner.tell(f"{future.id} is this call already: waiting for its end", True)
        started()
        return follow(self._runner.ledger.path, future.id)

    def _drop(self, order: Order, ticket: Ticket) -> None:
        """It will not be carried out, and nothing of it is recorded."""
        self._runner.roster.forget(order.future.id)
        self._runner.admission.leave(ticket)

    def _carry_out(self, order: Order, ticket: Ticket, waiting: Waiting | None) -> None:
        future, spec = order.future, order.spec
        if not future.set_running_or_notify_cancel() and waiting is None:
            self._drop(order, ticket)
            return
        runner, clock = self._runner, self._runner.clock
        recorder = waiting.recorder if waiting else Recorder(runner.ledger, clock, order.redactor)
        capture = Capture(spec.log_limit, order.redactor, clock.wall, recorder.output, order.pass_on)
        conductor = Conductor(
            future.id, spec, order.driver, runner.sampler, recorder, capture, clock, runner.tell, order.auth
        )

        def born(conductor: Conductor) -> None:
            runner.roster.enlist(conductor)
            if waiting is not None and waiting.asked is not None:
                conductor.ask(waiting.asked)  # it need not be in the log: that may be full

        def conduct() -> Verdict | None:
            admitted = facts.Admitted(waited=ticket.waited, lacking=ticket.lacking)
            try:
                return conductor.conduct(admitted if waiting else order.submitted, order.started, born)
            except RefusedError:
                if waiting is None and spec.idempotency_key and (known := runner.ledger.keyed(spec.idempotency_key)):
                    self.follow(order, known)  # somebody asked for the same call at the same moment
                    return None
                raise
            finally:
                runner.dismiss(conductor)

        self._fulfil(future, conduct, ticket)

    def _fulfil(self, future: CallFuture, conduct: Callable[[], Verdict | None], ticket: Ticket | None = None) -> None:
        """The verdict becomes the future's result; None: somebody else will see to it."""
        try:
            try:
                verdict = conduct()
            finally:
                if ticket is not None:  # first: whoever waits for the call may ask for the next one at once
                    self._runner.admission.leave(ticket)
        except BaseException as error:  # noqa: BLE001 - handed to whoever waits for the call
            if not future.cancelled():
                future.set_exception(error)
        else:
            if verdict is not None and not future.cancelled():
                future.set_result(outcome(future.id, verdict))

    def finish(self) -> None:
        """Wait for the calls; followers may still wait for theirs. Idempotent."""
        self._threads.shutdown()

    def close(self) -> None:
        """Wait for the followers as well. Idempotent."""
        self._followers.shutdown()
