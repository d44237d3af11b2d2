"""Two processes for one `calls run`: this one understands the request, a child of it conducts the call.

They load their libraries at the same time, pydantic here and docker-py there, which takes a third off the
start-up. And the record does not hang on the terminal: what ends this process does not end the child.
Forked first of all, before any thread or connection exists.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
from collections.abc import Callable
from typing import Any, NoReturn

_FAILED = 125
MESSAGES = (signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2)
"""What is for the call's process, and ends neither of ours."""
_HELD = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, *MESSAGES)


class Child:
    """The process that conducts. It waits for an order; without one it ends quietly."""

    def __init__(self) -> None:
        """Fork."""
        orders, self._orders = os.pipe()
        self._answers, answers = os.pipe()
        signal.pthread_sigmask(signal.SIG_BLOCK, _HELD)  # until the child can act on them
        self._pid = os.fork()
        if self._pid == 0:
            os.close(self._orders)
            os.close(self._answers)
            _conduct(orders, answers)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _HELD)
        os.close(orders)
        os.close(answers)

    def carry_out(self, order: dict[str, Any]) -> int:
        """Hand over the order; -> the exit status of `calls run`.

        A detached call answers with its id as soon as its process runs; whatever ends before that has
        told why on standard error. Signals are passed on: the child is in a process group of its own,
        so that Ctrl-C reaches it once and in one way (unless it must read from the terminal).
        """
        for number in _HELD:
            hear(number, self._pass_on)
        if order["terminal"]:
            for number in (signal.SIGINT, signal.SIGQUIT):
                signal.signal(number, lambda *_: None)  # the child reads from it, and is told by it
        elif order["spec"].get("tty"):
            signal.signal(signal.SIGWINCH, self._pass_on)
        with _as_it_was(order):
            answer, status = self._hand_over(order)
        if answer:
            sys.stdout.write(answer)
        elif status < 0:
            sys.stderr.write("calls: the recording process was killed; another one takes over what it had begun\n")
            from pathlib import Path

            from calls.orphans import summon

            summon(Path(order["ledger"]))
        return status if status >= 0 else _FAILED

    def _hand_over(self, order: dict[str, Any]) -> tuple[str, int]:
        """-> its answer, and if there is none how it ended."""
        # It may have ended already: then nobody takes the order.
        with contextlib.suppress(BrokenPipeError), os.fdopen(self._orders, "w", encoding="ascii") as orders:
            json.dump(order, orders)
        with os.fdopen(self._answers, encoding="ascii") as answers:
            answer = answers.read()
        return answer, 0 if answer else os.waitstatus_to_exitcode(os.waitpid(self._pid, 0)[1])

    def _pass_on(self, number: int, _: object) -> None:
        with contextlib.suppress(ProcessLookupError):  # it has just ended
            os.kill(self._pid, number)


def hear(number: int, handler: Callable[[int, Any], object]) -> None:
    """Handle a signal, unless it is the hangup and we were told to ignore that: by nohup."""
    if number != signal.SIGHUP or signal.getsignal(number) is not signal.SIG_IGN:
        signal.signal(number, handler)


def _as_it_was(order: dict[str, Any]) -> contextlib.AbstractContextManager[object]:
    """The child makes the terminal raw for a call that has one of its own; it need not live to undo that."""
    if not (order["terminal"] and order["spec"].get("tty")):
        return contextlib.nullcontext()
    from calls.cli.terminal import Modes

    return Modes()


child: Child | None = None
"""The one that was forked ahead of time, if it was."""


def ahead() -> None:
    """Fork now: the command line looks like a `run`."""
    global child  # noqa: PLW0603 - one process, one child
    try:
        child = Child()
    except OSError as error:
        sys.stderr.write(f"calls: cannot go on: {error.strerror}\n")
        os._exit(_FAILED)
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C before there is a call: an end without a traceback


def detached(act: Callable[[int], object]) -> str:
    """Let a process of its own session do `act`, which gets a descriptor to answer on; -> its answer.

    It may go on after it has answered. An empty answer: it was killed, or has said on standard error why not.
    """
    answers, ours = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(answers)
        os.setsid()
        signal.pthread_sigmask(signal.SIG_SETMASK, ())  # whoever asked may be holding back what is to end us
        _finish(lambda: act(ours))
    os.close(ours)
    with os.fdopen(answers, encoding="utf-8") as pipe:
        return pipe.read()


def _conduct(orders: int, answers: int) -> NoReturn:
    def conduct() -> int:
        from calls.cli.lean import load_client

        load_client()
        from calls.cli.conductor import main

        return main(orders, answers)

    _finish(conduct)


def _finish(act: Callable[[], object]) -> NoReturn:
    """Do `act`; its result, if it is a number, is this process' exit status."""
    status = _FAILED
    try:
        result = act()
        status = result if isinstance(result, int) else 0
    except BaseException:  # noqa: BLE001 - a fork must never return into its parent's code
        import traceback

        with contextlib.suppress(OSError):
            traceback.print_exc()
    finally:
        with contextlib.suppress(OSError, ValueError):
            sys.stderr.flush()
        os._exit(status)
