"""`calls run`: like `docker run --rm`, and recorded."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from calls.cli import launch
from calls.cli.common import takes_ledger


def _options(command: Callable[..., int]) -> Callable[..., int]:
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def _many(*names: str, metavar: str, text: str) -> Callable[[Callable[..., int]], Callable[..., int]]:
    return click.option(*names, multiple=True, metavar=metavar, help=text)


_OPTIONS = (
    _many("--env", "-e", metavar="NAME[=VALUE]", text="Set an environment variable."),
    _many("--env-file", metavar="FILE", text="Read environment variables from a file."),
    _many("--secret", metavar="NAME[=SOURCE]", text="A variable not recorded; from env:VAR, file:PATH, cmd:COMMAND."),
    _many("--volume", "-v", metavar="SOURCE:TARGET[:ro]", text="Bind a path or a volume."),
    _many("--tmpfs", metavar="PATH[:OPTIONS]", text="Mount a tmpfs."),
    _many("--label", "-l", metavar="NAME=VALUE", text="Set a label."),
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
    click.option("--health-probe-timeout", metavar="DURATION", help="Longest for a check; Docker's --health-timeout."),
    click.option("--no-healthcheck", is_flag=True, default=None, help="Ignore the image's health check."),
    click.option("--stop-signal", metavar="SIGNAL", help="Signal that asks for the end (the image's, else TERM)."),
    click.option("--stop-timeout", metavar="DURATION", help="Grace between that and SIGKILL (10s)."),
    click.option("--timeout", metavar="DURATION", help="Longest the process may run, then it is stopped (124)."),
    click.option("--prepare-timeout", metavar="DURATION", help="Longest pulling and creating may take."),
    click.option("--health-timeout", metavar="DURATION", help="Longest to wait for health (what the check can take)."),
    click.option("--sample", metavar="DURATION|off", help="Time between samples (1s; at least 100ms)."),
    click.option("--log-limit", metavar="SIZE|off", help="Output kept per stream, head and tail (16m)."),
    click.option("--keep", is_flag=True, default=None, help="Keep the container; else it is removed, as by --rm."),
    click.option("--idempotency-key", metavar="KEY", help="Asked for twice, it is run once; the second waits for it."),
    click.option("--driver", metavar="docker|local", help="docker, or local: a process of this host, not isolated."),
    click.option("--json", "as_json", is_flag=True, help="Describe the call as JSON on stderr at its end."),
)  # fmt: skip


@click.command(
    context_settings={"allow_interspersed_args": False},
    short_help="Run a container call, record it, pass its exit status through.",
)
@_options
@click.argument("words", nargs=-1, type=click.UNPROCESSED, metavar="IMAGE [COMMAND] [ARG]...")
@takes_ledger
def command(ledger: Path, words: tuple[str, ...], *, detach: bool, as_json: bool, **options: Any) -> int:
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
    if detach and spec.interactive:
        raise SpecError("detach", "contradicts --interactive: nobody would be there to type")
    terminal = spec.interactive and os.isatty(0)
    order = {"ledger": str(ledger), "spec": spec.asked(), "detach": detach, "json": as_json, "terminal": terminal}
    return (launch.child or launch.Child()).carry_out(order)
