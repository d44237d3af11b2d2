"""The commands by name, and what their errors look like.

Each command lives in a module that is imported only when the command is used, so that `calls --help` and
`calls ps` do not wait for docker-py.
"""

from __future__ import annotations

import contextlib
from typing import Any

import click

from machine.errors import CallsError

_COMMANDS = {
    "run": ("calls.cli.run", "Run a container call, record it, pass its exit status through."),
    "ps": ("calls.cli.ps", "List calls."),
    "show": ("calls.cli.show", "Show everything about a call."),
    "events": ("calls.cli.events", "Show the event log of a call."),
    "stats": ("calls.cli.stats", "Show the resource history of a call."),
    "logs": ("calls.cli.logs", "Print the recorded output of a call."),
    "wait": ("calls.cli.wait", "Wait for calls to end; print their exit codes."),
    "kill": ("calls.cli.kill", "Send a call a signal (KILL); it ends as killed."),
    "cancel": ("calls.cli.cancel", "End a call in good order: stop signal, grace, SIGKILL."),
    "signal": ("calls.cli.signal", "Pass a signal on to a call, as a message."),
    "pause": ("calls.cli.pause", "Freeze all processes of a call."),
    "resume": ("calls.cli.resume", "Let a paused call go on."),
    "exec": ("calls.cli.exec", "Run another command in a call that runs."),
    "top": ("calls.cli.top", "Show the processes of a call."),
    "recover": ("calls.cli.recover", "Settle calls whose runner is gone."),
    "replay": ("calls.cli.replay", "Show a call as it stood at any moment, from its log."),
    "verify": ("calls.cli.verify", "Check that the ledger is whole and untouched."),
    "rebuild": ("calls.cli.rebuild", "Make all that is derived again from the log."),
    "prune": ("calls.cli.prune", "Remove what old calls have left; a tombstone says what went."),
    "backup": ("calls.cli.backup", "Copy the ledger while it is being written."),
    "salvage": ("calls.cli.salvage", "Write what is good in a damaged ledger into a new one."),
    "images": ("calls.cli.images", "List the images that calls have used; remove or load some."),
    "metrics": ("calls.cli.metrics", "Print or serve what all calls add up to, for Prometheus."),
    "sql": ("calls.cli.sql", "Query the ledger, read-only."),
    "doctor": ("calls.cli.doctor", "Say what works here: engine, samples, totals, ledger, clock, drivers."),
}
_PASS_ON = ("run", "exec")
"""The commands whose exit status is that of what they run: our own must be told from it."""


class _Lazy(click.Group):
    """A group that knows the names and the one-line helps of its commands without importing them."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        import importlib

        module = importlib.import_module(_COMMANDS[cmd_name][0])
        command: click.Command = module.command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in _COMMANDS.items()])


@click.group(cls=_Lazy, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--ledger", "-l", type=click.Path(), metavar="FILE", help="The ledger (default: CALLS_LEDGER, else by XDG)."
)
@click.version_option(package_name="call-ledger", message="calls %(version)s")
@click.pass_context
def cli(ctx: click.Context, ledger: str | None) -> None:
    """The flight recorder for container calls.

    A CALL is an id, a unique prefix or suffix of one, a --name, @last or @last-failed.
    """
    ctx.obj = ledger


def run(arguments: list[str]) -> int:
    """Carry out a command line; -> its exit status. 2 for wrong usage, 1 for "no"; 125 for both in `run` and `exec`."""
    passes = next((word for word in arguments if word in _COMMANDS), "") in _PASS_ON
    wrong, no = (125, 125) if passes else (2, 1)
    try:
        result: Any = cli.main(arguments, prog_name="calls", standalone_mode=False)
    except click.exceptions.Exit as stop:
        return stop.exit_code
    except click.ClickException as error:
        _complain(error.format_message(), error)
        return wrong
    except CallsError as error:
        _complain(str(error))
        return no if error.no else wrong
    except (KeyboardInterrupt, click.Abort):
        return 130
    except SystemExit as stop:  # click's answer to a reader that went away: quiet
        return stop.code if isinstance(stop.code, int) else 1
    except OSError as error:
        _complain(f"cannot go on: {error.strerror or error}")
        return no
    return result if isinstance(result, int) else 0


def _complain(message: str, error: click.ClickException | None = None) -> None:
    hint = ""
    if isinstance(error, click.UsageError) and error.ctx is not None:
        hint = f" (see {error.ctx.command_path} --help)"
    with contextlib.suppress(OSError):  # nobody reads it: the exit status says enough
        click.echo(f"calls: {' '.join(message.split())}{hint}", err=True)
