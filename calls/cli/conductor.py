"""The recording process of `calls run`: conducts one call, passes its output on, ends with its exit status."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

from calls.cli.launch import MESSAGES, hear
from calls.cli.passing import write
from calls.identity import requester
from calls.outcome import FAILED, INTERRUPTED, Call, describe, exit_status
from calls.runner import Runner
from calls.slots import CallFuture
from driver.scarcity import shortage
from machine.errors import CallsError
from machine.facts import SignalRequested
from machine.signals import signal_name
from machine.spec import Spec

_UNREAD = "nobody reads the output any more"


def main(orders: int, answers: int) -> int:
    """Read one order, `{ledger, spec, detach, json, terminal}`, from a descriptor; -> the exit status.

    `terminal`: standard input is one, and the call reads it.
    """
    with os.fdopen(orders, encoding="ascii") as pipe:
        text = pipe.read()
    if not text:
        return 0
    order: dict[str, Any] = json.loads(text)
    spec = Spec.recorded(order["spec"])
    if order["detach"]:
        os.setsid()
        _let_go(answers)
    elif not order["terminal"]:  # only the foreground group may read it
        os.setpgid(0, 0)
        # Under `stty tostop` our output would stop us. Not ignored: a local process would inherit that.
        signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGTTOU,))
    try:
        asked_by = answers if order["detach"] else None
        return _conduct(order["ledger"], spec, asked_by, as_json=order["json"], terminal=order["terminal"])
    except CallsError as error:
        return _complain(str(error))
    except RuntimeError as error:
        if shortage(error) is None:
            raise
        return _complain(str(error))


def _conduct(ledger: str | None, spec: Spec, answers: int | None, *, as_json: bool, terminal: bool) -> int:
    progress = _Progress(shown=answers is None and sys.stderr.isatty())
    with _raw(typed_to=spec.tty and terminal) as make_raw, Runner(ledger, tell=progress.show) as runner:
        output = _PassOn(make_raw) if answers is None else None
        sized = _nothing
        submitted = threading.Event()  # its process may run before we know its id

        def resize(rows: int, columns: int) -> None:
            submitted.wait()
            runner.resize(future.id, rows, columns)

        if spec.tty and answers is None:
            from calls.cli.terminal import follow

            sized = follow(resize)

        def started() -> None:
            submitted.wait()
            make_raw()
            progress.clear()
            sized()
            if answers is not None:
                _go_dark()
                os.write(answers, f"{future.id}\n".encode())
                os.close(answers)

        future = runner.submit_spec(spec, output, started)
        submitted.set()
        if output is not None:
            output.when_gone(lambda why: runner.cancel(future.id, why, "close"))
        interrupts = _Interrupts(runner, future)
        call = future.result()
        progress.clear()
    if runner.ledger.unwritten:
        return FAILED  # a warning has said why
    if as_json:
        _describe(runner, call)
    elif call.never_ran or call.reason != "exit":
        _complain(spec.redactor().text(f"{describe(call)}; calls show {call.id[-12:]}"))
    status = INTERRUPTED if interrupts.count and call.state in ("cancelled", "killed") else exit_status(call)
    return FAILED if output is not None and output.failed and status == 0 else status


def _nothing() -> None:
    """Do nothing."""


@contextlib.contextmanager
def _raw(*, typed_to: bool) -> Iterator[Callable[[], None]]:
    """-> what makes our terminal raw, until the end, if the call has one of its own that ours is `typed_to`."""
    if not typed_to:
        yield _nothing
        return
    from calls.cli.terminal import Modes

    with Modes() as modes:
        yield modes.make_raw


def _describe(runner: Runner, call: Call) -> None:
    from ledger.read import Reader

    with Reader(runner.ledger.path) as reader:
        _say(json.dumps(reader.show(call.id)))


def _complain(message: str) -> int:
    _say(f"calls: {' '.join(message.split())}")
    return FAILED


def _say(line: str) -> None:
    with contextlib.suppress(OSError):  # nobody reads it: the exit status says enough
        sys.stderr.write(f"{line}{_line_end()}")


def _line_end() -> str:
    if not sys.stderr.isatty():
        return "\n"
    from calls.cli.terminal import line_end

    return line_end()


def _go_dark() -> None:
    """Let go of the terminal: whoever waits for our output's end must not wait for the call's."""
    null = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(null, descriptor)
    os.close(null)


def _let_go(answers: int) -> None:
    """Close what whoever began us left open: a lock or a pipe of theirs must not last as long as the call."""
    for name in os.listdir("/proc/self/fd"):
        if (descriptor := int(name)) > 2 and descriptor != answers:
            with contextlib.suppress(OSError):
                os.close(descriptor)


class _Interrupts:
    """Ctrl-C cancels, again kills; SIGTERM and SIGHUP cancel; QUIT, USR1 and USR2 are passed on, as docker does.

    The call's true end is waited for, until a third Ctrl-C: then it is for another process to find out. That of
    somebody else's call is not ours to cause: it is not waited for longer.
    """

    def __init__(self, runner: Runner, future: CallFuture) -> None:
        self._runner = runner
        self._future = future
        self.count = 0
        signal.signal(signal.SIGINT, self._interrupt)
        for number in (signal.SIGTERM, signal.SIGHUP):
            hear(number, self._terminate)
        for number in MESSAGES:
            hear(number, self._pass_on)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, *MESSAGES))

    def _interrupt(self, *_: object) -> None:
        self.count += 1
        if self.count > 2:  # an engine that is silent, or output that nobody reads, holds us up
            os.kill(os.getpid(), signal.SIGKILL)
        self._leave_alone()
        if self.count == 1:
            self._act(lambda: self._runner.cancel(self._future.id, via="interrupt"))
        else:
            self._act(lambda: self._runner.kill(self._future.id, via="interrupt"))

    def _leave_alone(self) -> None:
        if self._future.followed and not self._future.done():
            _complain(f"no longer waiting for {self._future.id}, which goes on")
            os._exit(INTERRUPTED)

    def _terminate(self, *_: object) -> None:
        self._leave_alone()
        self._act(lambda: self._runner.cancel(self._future.id, via="terminate"))

    def _pass_on(self, number: int, _: object) -> None:
        def pass_on() -> None:
            fact = SignalRequested(by=requester("interrupt"), signal=signal_name(number))
            self._runner.roster.request_running(self._future.id, fact)

        self._act(pass_on)

    def _act(self, action: Callable[[], None]) -> None:
        # In a thread: a handler interrupts code that may hold the very lock that the action wants.
        threading.Thread(target=_try, args=(action,), name="interrupt", daemon=True).start()


def _try(action: Callable[[], None]) -> None:
    try:
        action()
    except CallsError as error:
        _complain(str(error))


class _PassOn:
    """The call's output becomes ours, byte for byte: the engine's streams 1 and 2 are our descriptors, too."""

    def __init__(self, ready: Callable[[], None]) -> None:
        """`ready` is called before the first of it is written."""
        self._ready = ready
        self._gone: Callable[[str], None] = lambda _: None
        self._lost: dict[int, str] = {}

    def when_gone(self, gone: Callable[[str], None]) -> None:
        """Call `gone` with the reason when a stream cannot be passed on any more, or at once if that is so already."""
        self._gone = gone
        for why in self._lost.values():
            gone(why)

    def __call__(self, stream: int, data: bytes) -> None:
        self._ready()
        self._ready = _nothing
        view = memoryview(data)
        try:
            while view and stream not in self._lost:
                view = view[write(stream, view) :]
        except OSError as error:
            self._lose(stream, error)

    @property
    def failed(self) -> bool:
        """Whether output was lost that somebody may still want: not if nobody reads it."""
        return any(why != _UNREAD for why in self._lost.values())

    def _lose(self, stream: int, error: OSError) -> None:
        # The other stream goes on: what the call has to say of its end may still be read there.
        why = self._lost[stream] = _UNREAD
        if error.errno != errno.EPIPE:
            why = self._lost[stream] = f"the output cannot be passed on: {error.strerror}"
            _complain(why)
        if len(self._lost) == 1:
            self._gone(why)


class _Progress:
    """One line on the terminal, rewritten, and gone when the call's own output begins."""

    def __init__(self, *, shown: bool) -> None:
        self._shown = shown
        self._dirty = False

    def show(self, text: str, stay: bool) -> None:  # noqa: FBT001 - see calls.conduct.Tell
        if stay:
            self.clear()
            _complain(text)
        elif self._shown:
            width = (os.get_terminal_size(2).columns or 80) - 1  # 0: the terminal does not know
            sys.stderr.write("\r\x1b[K" + text[:width])
            sys.stderr.flush()
            self._dirty = True

    def clear(self) -> None:
        if self._dirty:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()
            self._dirty = False
