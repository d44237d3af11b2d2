"""`calls run`: like `docker run --rm`, and recorded."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from calls.runner import Call, CallFuture, Runner
    from machine.spec import Spec

_FAILED, _NOT_EXECUTABLE, _NOT_FOUND, _TIMED_OUT, _INTERRUPTED = 125, 126, 127, 124, 130
_NEVER_RAN = {"start-not-executable": _NOT_EXECUTABLE, "start-not-found": _NOT_FOUND}


def _options(command: Callable[..., int]) -> Callable[..., int]:
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def _many(*names: str, metavar: str, text: str) -> Callable[[Callable[..., int]], Callable[..., int]]:
    return click.option(*names, multiple=True, metavar=metavar, help=text)


_OPTIONS = (
    _many("--env", "-e", metavar="NAME[=VALUE]", text="Set an environment variable."),
    _many("--env-file", metavar="FILE", text="Read environment variables from a file."),
    _many("--secret", metavar="NAME[=SOURCE]", text="A variable whose value is never recorded; SOURCE is env:VAR, file:PATH or cmd:COMMAND."),
    _many("--volume", "-v", metavar="SOURCE:TARGET[:ro]", text="Bind a path or a volume."),
    _many("--tmpfs", metavar="PATH[:OPTIONS]", text="Mount a tmpfs."),
    _many("--label", metavar="NAME=VALUE", text="Set a label."),
    click.option("--workdir", "-w", metavar="PATH", help="Working directory."),
    click.option("--user", "-u", metavar="USER[:GROUP]", help="User to run as."),
    click.option("--name", metavar="NAME", help="A name for the call; `calls show NAME` finds the newest of it."),
    click.option("--network", "--net", metavar="NETWORK", help="Network to join: none, bridge, host, or a name."),
    click.option("--memory", "-m", metavar="SIZE", help="Memory limit, without swap: 64m, 1g."),
    click.option("--cpus", metavar="NUMBER", help="CPUs, as a fraction: 0.5."),
    click.option("--pids-limit", metavar="NUMBER", help="Most processes and threads."),
    click.option("--read-only", is_flag=True, default=None, help="Root file system read-only."),
    click.option("--entrypoint", metavar="PATH", help="In place of the image's ENTRYPOINT."),
    click.option("--init", is_flag=True, default=None, help="An init that forwards signals and reaps processes."),
    click.option("--interactive", "-i", is_flag=True, default=None, help="Stream our standard input."),
    click.option("--detach", "-d", is_flag=True, help="Print the id once it runs; go on recording in the background."),
    click.option("--pull", metavar="always|missing|never", help="When to pull the image (missing)."),
    click.option("--health-cmd", metavar="COMMAND", help="Health check; until it passes the call waits for health."),
    click.option("--health-interval", metavar="DURATION", help="Time between checks (30s)."),
    click.option("--health-retries", metavar="NUMBER", help="Failures in a row that make it unhealthy (3)."),
    click.option("--health-start-period", metavar="DURATION", help="Time in which failures do not count (0s)."),
    click.option("--health-probe-timeout", metavar="DURATION", help="Longest one check may take (30s); Docker's --health-timeout."),
    click.option("--no-healthcheck", is_flag=True, default=None, help="Ignore the image's health check."),
    click.option("--stop-signal", metavar="SIGNAL", help="Signal that asks for the end (the image's, else TERM)."),
    click.option("--stop-timeout", metavar="DURATION", help="Grace between that and SIGKILL (10s)."),
    click.option("--timeout", metavar="DURATION", help="Longest the process may run; then it is stopped: exit status 124."),
    click.option("--prepare-timeout", metavar="DURATION", help="Longest pulling and creating may take."),
    click.option("--health-timeout", metavar="DURATION", help="Longest to wait for health (what the check can take at most)."),
    click.option("--sample", metavar="DURATION|off", help="Time between samples (1s; at least 100ms)."),
    click.option("--log-limit", metavar="SIZE|off", help="Output kept per stream, head and tail (16m)."),
    click.option("--keep", is_flag=True, default=None, help="Keep the container; otherwise it is removed, as by docker run --rm."),
    click.option("--driver", metavar="docker|local", help="docker, or local: a process of this host, not isolated."),
    click.option("--json", "as_json", is_flag=True, help="Describe the call as JSON on standard error when it ended."),
)  # fmt: skip


@click.command(
    context_settings={"ignore_unknown_options": False, "allow_interspersed_args": False},
    short_help="Run a container call, record it, pass its exit status through.",
)
@_options
@click.argument("words", nargs=-1, type=click.UNPROCESSED, metavar="IMAGE [COMMAND] [ARG]...")
@click.pass_obj
def command(ledger: str | None, words: tuple[str, ...], detach: bool, as_json: bool, **options: Any) -> int:
    """Run a container call, record it, and pass its output and exit status through.

    Options end at IMAGE: what follows is the command, taken as a list. With --driver local there is no
    IMAGE, and the command follows "--".

    Exit status: the container's own; 124 after --timeout; 125 when it never ran; 126 when the command
    cannot be executed and 127 when it is not found; 128+n when killed by signal n; 130 after Ctrl-C.
    """
    from calls.options import build_spec
    from machine.errors import SpecError

    given = {name: value for name, value in options.items() if value not in (None, ())}
    if given.get("driver") == "local":
        spec = build_spec(None, words, **given)
    elif not words:
        raise SpecError("image", "no image given: calls run [OPTIONS] IMAGE [COMMAND] [ARG]...")
    else:
        spec = build_spec(words[0], words[1:], **given)
    if detach:
        if spec.interactive:
            raise SpecError("detach", "contradicts --interactive: nobody would be there to type")
        return _detach(ledger, spec)
    return _attended(ledger, spec, as_json=as_json)


def _attended(ledger: str | None, spec: Spec, *, as_json: bool) -> int:
    from calls.runner import Runner

    progress = _Progress()
    if spec.driver == "local" and sys.stderr.isatty():
        click.echo("calls: local process, not isolated: it can read and write whatever you can", err=True)
    with Runner(ledger, tell=progress.show) as runner:
        output = _PassOn()
        future = runner.submit_spec(spec, output, progress.clear)
        output.gone = lambda: runner.cancel(future.id, "nobody reads the output any more", "close")
        interrupts = _Interrupts(runner, future)
        call = interrupts.wait()
        progress.clear()
        _report(runner, call, as_json=as_json)
    return _INTERRUPTED if interrupts.count and call.state in ("cancelled", "killed") else exit_status(call)


def _detach(ledger: str | None, spec: Spec) -> int:
    """A child of ours goes on with the call; we tell its id as soon as its process runs.

    Forked before any thread or connection exists. The child says "id\\n" when it is under way; if it ends
    without that, its exit status is ours, and it has said why on our standard error.
    """
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        os.setsid()
        os._exit(_background(ledger, spec, writing))
    os.close(writing)
    try:
        with os.fdopen(reading, encoding="ascii") as pipe:
            told = pipe.read()
    except KeyboardInterrupt:
        os.kill(child, signal.SIGINT)
        raise
    if told:
        click.echo(told, nl=False)
        return 0
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def _background(ledger: str | None, spec: Spec, writing: int) -> int:
    from calls.runner import Runner
    from machine.errors import CallsError

    try:
        with Runner(ledger) as runner:
            under_way = []

            def started() -> None:
                under_way.append(True)
                _go_dark()
                os.write(writing, f"{future.id}\n".encode())
                os.close(writing)

            future = runner.submit_spec(spec, None, started)
            call = _Interrupts(runner, future).wait()
            if not under_way:
                _report(runner, call, as_json=False)
        return exit_status(call)
    except CallsError as error:
        click.echo(f"calls: {error}", err=True)
        return _FAILED


def _go_dark() -> None:
    """Let go of the terminal: whoever waits for our output's end must not wait for the call's."""
    null = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(null, descriptor)
    os.close(null)


class _Interrupts:
    """Ctrl-C cancels, again kills; SIGTERM and SIGHUP cancel. The call's true end is waited for."""

    def __init__(self, runner: Runner, future: CallFuture) -> None:
        self._runner = runner
        self._future = future
        self.count = 0
        signal.signal(signal.SIGINT, self._interrupt)
        signal.signal(signal.SIGTERM, self._terminate)
        signal.signal(signal.SIGHUP, self._terminate)

    def wait(self) -> Call:
        from concurrent.futures import TimeoutError as NotYet

        while True:
            try:
                return self._future.result(timeout=3600)  # a bound, so that signals get through
            except NotYet:
                if self._future.done():
                    raise

    def _interrupt(self, *_: object) -> None:
        self.count += 1
        if self.count == 1:
            self._act(lambda: self._runner.cancel(self._future.id, via="interrupt"))
        else:
            self._act(lambda: self._runner.kill(self._future.id, via="interrupt"))

    def _terminate(self, *_: object) -> None:
        self._act(lambda: self._runner.cancel(self._future.id, via="terminate"))

    def _act(self, action: Callable[[], None]) -> None:
        # In a thread: a handler interrupts code that may hold the very lock that the action wants.
        import threading

        threading.Thread(target=action, name="interrupt", daemon=True).start()


class _PassOn:
    """The call's output becomes ours, byte for byte."""

    def __init__(self) -> None:
        self.gone: Callable[[], None] = lambda: None
        self._broken = False

    def __call__(self, stream: int, data: bytes) -> None:
        view = memoryview(data)
        try:
            while view and not self._broken:
                view = view[os.write(stream, view) :]  # the engine's 1 and 2 are our descriptors, too
        except OSError:
            self._broken = True
            self.gone()


class _Progress:
    """One line, rewritten, on a terminal only."""

    def __init__(self) -> None:
        self._on = sys.stderr.isatty()
        self._shown = False

    def show(self, text: str) -> None:
        if self._on:
            width = os.get_terminal_size(2).columns - 1
            sys.stderr.write("\r\x1b[K" + text[:width])
            sys.stderr.flush()
            self._shown = True

    def clear(self) -> None:
        if self._shown:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()
            self._shown = False


def _report(runner: Runner, call: Call, *, as_json: bool) -> None:
    if as_json:
        from ledger.read import Reader

        with Reader(runner.ledger.path) as reader:
            click.echo(json.dumps(reader.show(call.id)), err=True)
        return
    if call.never_ran or call.reason not in ("exit",) or (sys.stderr.isatty() and call.state != "success"):
        click.echo(f"calls: {describe(call)}; calls show {call.id[-12:]}", err=True)


def describe(call: Call) -> str:
    """The end of a call in one line."""
    parts = [f"{call.state}/{call.reason}"]
    if call.exit_code is not None:
        parts.append(f"exit code {call.exit_code}")
    if call.signal:
        parts.append(f"signal {call.signal}")
    if call.message:
        parts.append(call.message)
    return ", ".join(parts[:-1]) + (": " if call.message else ", " if parts[:-1] else "") + parts[-1]


def exit_status(call: Call) -> int:
    """What `calls run` exits with."""
    from machine.verdict import signal_number

    if call.state == "timeout":
        return _TIMED_OUT
    if call.state == "cancelled":
        return _INTERRUPTED
    if call.state == "killed" and call.signal and not call.never_ran:
        return 128 + signal_number(call.signal)
    if call.never_ran:
        return _NEVER_RAN.get(call.reason, _FAILED)
    if call.exit_code is None or (call.state == "error" and call.exit_code == 0):
        return _FAILED
    return call.exit_code
