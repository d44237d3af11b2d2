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


_UNTRUSTED = (
    "For what nobody vouches for: user 1000, no capabilities, no new privileges, no network, read-only but for a small "
    "/tmp, 50 processes, few files. Other options go before it."
)
_OPTIONS = (
    _many("--env", "-e", metavar="NAME[=VALUE]", text="Set an environment variable."),
    _many("--env-file", metavar="FILE", text="Read environment variables from a file."),
    _many("--secret", metavar="NAME[=SOURCE]", text="A variable not recorded; from env:VAR, file:PATH, cmd:COMMAND."),
    _many("--volume", "-v", metavar="SOURCE:TARGET[:ro]", text="Bind a path or a volume."),
    _many("--mount", metavar="KEY=VALUE,…", text="type=bind|volume|tmpfs,source=…,target=…[,readonly]: any path."),
    _many("--tmpfs", metavar="PATH[:OPTIONS]", text="Mount a tmpfs: size=64m, nr_inodes=1024, mode=1777."),
    _many("--label", "-l", metavar="NAME=VALUE", text="Set a label."),
    click.option("--workdir", "-w", metavar="PATH", help="Working directory."),
    click.option("--user", "-u", metavar="USER[:GROUP]", help="User to run as."),
    click.option("--name", metavar="NAME", help="A name for the call; `calls show NAME` finds the newest of it."),
    _many("--network", "--net", metavar="NETWORK", text="Network: none, bridge, host, or a name; made if missing."),
    _many("--network-of", metavar="A,B,…", text="Join the one of these networks that has the fewest containers."),
    _many("--network-alias", metavar="NAME", text="Another name of the container in its networks."),
    click.option("--ip", metavar="ADDRESS", help="Its IPv4 address in the network."),
    click.option("--ip6", metavar="ADDRESS", help="Its IPv6 address in the network."),
    click.option("--mac-address", metavar="ADDRESS", help="Its MAC address in the network."),
    _many("--publish", "-p", metavar="[[IP:]PORT:]PORT", text="Publish a port; `calls show` tells where."),
    click.option("--publish-all", "-P", is_flag=True, default=None, help="Publish the ports that the image exposes."),
    click.option("--hostname", "-h", metavar="NAME", help="The container's own name."),
    _many("--add-host", metavar="NAME:ADDRESS", text="A line in /etc/hosts."),
    _many("--dns", metavar="ADDRESS", text="A name server."),
    _many("--dns-search", metavar="DOMAIN", text="A domain in which names are looked up."),
    _many("--dns-option", "--dns-opt", metavar="OPTION", text="An option of the resolver."),
    click.option("--memory", "-m", metavar="SIZE", help="Memory limit, without swap: 64m, 1g."),
    click.option("--memory-reservation", metavar="SIZE", help="What of it to keep when the host runs short."),
    click.option("--memory-swappiness", metavar="NUMBER", help="How readily the kernel swaps its memory (0 to 100)."),
    click.option("--shm-size", metavar="SIZE", help="Size of /dev/shm (64m)."),
    click.option("--cpus", metavar="NUMBER", help="CPUs, as a fraction: 0.5."),
    click.option("--cpu-shares", "-c", metavar="NUMBER", help="Weight where CPUs are scarce (1024)."),
    click.option("--cpuset-cpus", metavar="CPUS", help="CPUs it may use: 0-2,4."),
    click.option("--pids-limit", metavar="NUMBER", help="Most processes and threads."),
    _many("--ulimit", metavar="NAME=SOFT[:HARD]", text="A limit of each process: nofile=1024."),
    click.option("--oom-score-adj", metavar="NUMBER", help="How readily the kernel kills it (-1000 to 1000)."),
    click.option("--read-only", is_flag=True, default=None, help="Root file system read-only."),
    _many("--storage-opt", metavar="NAME=VALUE", text="For the storage driver: size=10g limits the root file system."),
    _many("--sysctl", metavar="NAME=VALUE", text="A kernel parameter of its own."),
    _many("--device", metavar="PATH[:PATH][:rwm]", text="A device of the host."),
    click.option("--gpus", metavar="all|NUMBER|device=ID", help="GPUs of the host."),
    _many("--group-add", metavar="GROUP", text="Another group of the user."),
    _many("--cap-add", metavar="CAPABILITY", text="Add a capability of the kernel."),
    _many("--cap-drop", metavar="CAPABILITY", text="Drop a capability, or ALL."),
    _many("--security-opt", metavar="OPTION", text="no-new-privileges, seccomp=FILE, apparmor=PROFILE, label=LABEL."),
    click.option("--privileged", is_flag=True, default=None, help="All that root of the host may do."),
    click.option("--pid", metavar="MODE", help="Whose processes it sees: host, or container:ID."),
    click.option("--ipc", metavar="MODE", help="Whose shared memory: none, private, shareable, host, container:ID."),
    click.option("--uts", metavar="host", help="With the host's own name."),
    click.option("--userns", metavar="host", help="With the host's user numbers, where the engine maps them."),
    click.option("--cgroupns", metavar="MODE", help="Which control groups it sees: host, or private."),
    click.option("--runtime", metavar="NAME", help="The engine's runtime that carries it out."),
    click.option("--untrusted", is_flag=True, default=None, help=_UNTRUSTED),
    click.option("--log-driver", metavar="NAME", help="Where else the engine logs the output: none, syslog, ..."),
    _many("--log-opt", metavar="NAME=VALUE", text="An option of the log driver."),
    click.option("--platform", metavar="OS[/ARCH]", help="Which variant of the image to run."),
    click.option("--entrypoint", metavar="PATH", help="In place of the image's ENTRYPOINT."),
    click.option("--init", is_flag=True, default=None, help="An init that forwards signals and reaps processes."),
    click.option("--interactive", "-i", is_flag=True, default=None, help="Stream our standard input."),
    click.option("--tty", "-t", is_flag=True, default=None, help="A terminal of its own; with -i, typed to at ours."),
    click.option("--detach", "-d", is_flag=True, help="Print the id once it runs; go on recording in the background."),
    click.option("--pull", metavar="WHEN", help="missing, always, never, or newer: always, but a local image will do."),
    click.option("--pull-idle-timeout", metavar="DURATION", help="Longest a pull may stand still (2m)."),
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
    click.option("--rm", is_flag=True, help="As it is without: for who is used to writing it."),
    click.option("--hot", is_flag=True, default=None, help="In a container that stays for the runner's next calls."),
    click.option("--idempotency-key", metavar="KEY", help="Asked for twice, it is run once; the second waits for it."),
    click.option("--driver", metavar="NAME", help="docker; local: a process of this host, not isolated; or another."),
    click.option("--json", "as_json", is_flag=True, help="Describe the call as JSON on stderr at its end."),
)  # fmt: skip


@click.command(
    context_settings={"allow_interspersed_args": False, "help_option_names": ["--help"]},  # -h is docker's --hostname
    short_help="Run a container call, record it, pass its exit status through.",
)
@_options
@click.argument("words", nargs=-1, type=click.UNPROCESSED, metavar="IMAGE [COMMAND] [ARG]...")
@takes_ledger
def command(ledger: Path, words: tuple[str, ...], *, detach: bool, as_json: bool, rm: bool, **options: Any) -> int:
    """Run a container call, record it, and pass its output and exit status through.

    Options end at IMAGE: what follows is the command, taken as a list. Where the driver takes none, as local,
    there is no IMAGE, and the command follows "--".

    Exit status: the container's own; 124 after --timeout; 125 when it never ran; 126 when the command
    cannot be executed and 127 when it is not found; 128+n when killed by signal n; 130 after Ctrl-C.
    """
    from calls.options import build_spec
    from driver.registry import takes_image
    from machine.errors import SpecError

    given = {name: value for name, value in options.items() if value not in (None, ())}
    if rm and "keep" in given:
        raise SpecError("rm", "contradicts --keep")
    if "network" in given:
        given["network"] = ",".join(given["network"])  # as the spec has it
    if "driver" in given and not takes_image(given["driver"]):
        spec = build_spec(None, words, **given)
    elif not words:
        raise SpecError("image", "no image given: calls run [OPTIONS] IMAGE [COMMAND] [ARG]...")
    else:
        spec = build_spec(words[0], words[1:], **given)
    if detach and spec.interactive:
        raise SpecError("detach", "contradicts --interactive: nobody would be there to type")
    if detach and as_json:
        raise SpecError("json", "contradicts --detach: nobody would be there to read it")
    if spec.tty and spec.interactive:
        from calls.cli.terminal import require

        require()
    terminal = spec.interactive and os.isatty(0)
    order = {"ledger": str(ledger), "spec": spec.asked(), "detach": detach, "json": as_json, "terminal": terminal}
    return (launch.child or launch.Child()).carry_out(order)
