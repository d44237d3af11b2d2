"""`calls metrics`: the figures of a ledger, for Prometheus."""

from __future__ import annotations

import signal
from pathlib import Path

import click

from calls.cli.common import takes_ledger
from calls.cli.render import put


@click.command()
@click.option(
    "--port", metavar="[ADDRESS:]PORT", help="Serve them there (this host only, without ADDRESS), until Ctrl-C."
)
@takes_ledger
def command(ledger: Path, port: str | None) -> None:
    """Print what all calls of the ledger add up to, for Prometheus, or serve it at /metrics.

    Calls by state and reason, how long they were in each state and waited, image pulls, gaps and lost samples.
    """
    from calls.metrics import Endpoint, LedgerFigures, place, text

    where = None if port is None else place(port, "--port")
    figures = LedgerFigures(ledger)
    figures.check()
    if where is None:
        put(text(figures))
        return
    endpoint = Endpoint(where, "--port", figures)
    try:
        click.echo(endpoint.url)
        while True:
            signal.pause()
    finally:
        endpoint.close()
