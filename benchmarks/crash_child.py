"""What the crash loop kills: a runner that carries out short calls, many at once, until it is killed.

    crash_child.py LEDGER FOLDER DRIVER

Each call appends its nonce to FOLDER/begun as its first act and ends with a code that the nonce tells, so that the
truth is known from outside. Each event that the ledger has acknowledged is appended to FOLDER/acknowledged as
"CALL SEQ"; what is in there must be in the ledger for ever.
"""

from __future__ import annotations

import itertools
import os
import random
import sys
from pathlib import Path
from typing import Any

import calls
from ledger.ledger import Ledger

AT_ONCE = 6


def acknowledge(folder: Path) -> None:
    """Write down every event that the ledger says is durable, after it has said so."""
    file = os.open(folder / "acknowledged", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    submit, append = Ledger.submit, Ledger.append

    def submitted(self: Ledger, *given: Any) -> int:
        call = submit(self, *given)
        os.write(file, f"{call} submitted\n".encode())
        return call

    def appended(self: Ledger, call_id: int, kind: Any, *given: Any) -> None:
        append(self, call_id, kind, *given)
        os.write(file, f"{call_id} {kind}\n".encode())

    Ledger.submit, Ledger.append = submitted, appended  # type: ignore[method-assign]


def asked(folder: Path, driver: str, nonce: str) -> tuple[str | None, list[str], dict[str, Any]]:
    """Image, command and options of one call: it begins, works, says something, and ends with the code in its nonce."""
    code, seconds = int(nonce.rpartition("-")[2]), random.choice((0, 0, 0.1, 0.5))
    where = "/truth" if driver == "docker" else str(folder)
    script = f"echo {nonce} >> {where}/begun; echo {nonce}; sleep {seconds}; exit {code}"
    options: dict[str, Any] = {"label": {"nonce": nonce}, "sample": "100ms"}
    if random.random() < 0.2:
        options |= {"timeout": "300ms", "stop_timeout": "100ms"}
    if driver == "docker":
        return "busybox", ["sh", "-c", script], options | {"network": "none", "volume": [f"{folder}:/truth"]}
    return None, ["sh", "-c", script], options | {"driver": "local"}


def main() -> None:
    """Never returns by itself."""
    ledger, folder, driver = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
    acknowledge(folder)
    under_way: list[calls.CallFuture] = []
    with calls.Runner(ledger, recover=False) as runner:
        for number in itertools.count():
            # Not the pid: in a long soak it comes again.
            nonce = f"{os.urandom(8).hex()}-{number}-{random.choice((0, 0, 3, 137))}"
            image, command, options = asked(folder, driver, nonce)
            under_way.append(runner.submit(image, command, **options))
            if len(under_way) >= AT_ONCE:
                under_way.pop(0).result()


main()
