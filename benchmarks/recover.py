"""How long `calls recover` takes for many open calls whose runner, and whose containers, are gone.

    .venv/bin/python benchmarks/recover.py [--calls 10000]

The calls are of the docker driver and stand in every live state; beside it, the floor: writing the same number of
events in one transaction.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from calls.identity import new_id
from ledger.append import EventIn, append_event
from ledger.sqlite import connect_writer, transaction
from machine import facts
from machine.states import Kind, State

OWNER = facts.Owner(runner=new_id(), host="elsewhere", boot="another", pid=1, pid_started=1)
CALLS = (sys.executable, "-m", "calls.cli")


def leave(path: Path, count: int) -> None:
    """`count` open calls: one in four was only submitted, one prepared, one started, one awaits health."""
    connection = connect_writer(path)
    with transaction(connection, "leave"):
        for number in range(count):
            _leave_one(connection, number)
    connection.close()


def _leave_one(connection: object, number: int) -> None:
    uid, at = new_id(), time.time_ns()
    spec = {"image": "busybox", "command": ["sleep", "60"], "timeout": 60 * 10**9}
    submitted = facts.Submitted(uid=uid, image="busybox", driver="docker", spec=spec, owner=OWNER)
    call = append_event(connection, EventIn(None, Kind.SUBMITTED, State.PREPARING, at, None, submitted.dump(), uid))  # type: ignore[arg-type]
    rest = (
        (State.PREPARED, facts.Prepared(container="c" * 64)),
        (State.RUNNING, facts.Started(engine_at=at, deadline=at + 60 * 10**9)),
        (State.HEALTH_WAIT, facts.HealthAwaited(limit=10**9)),
    )
    for state, fact in rest[: number % 4]:
        append_event(connection, EventIn(call, fact.kind, state, at, 0, fact.dump()))  # type: ignore[arg-type]


def main() -> int:
    """-> the exit status: 1 when a call is left open."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--calls", type=int, default=10_000)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "ledger.db"
        began = time.perf_counter()
        leave(path, given.calls)
        floor = (time.perf_counter() - began) / (given.calls * 2.5) * given.calls * 3  # adopted, failed, cleaned
        began = time.perf_counter()
        done = subprocess.run([*CALLS, "--ledger", str(path), "recover", "--json"], capture_output=True, check=False)
        seconds = time.perf_counter() - began
        found = json.loads(done.stdout)
        verified = subprocess.run([*CALLS, "--ledger", str(path), "verify"], capture_output=True, check=False)
    settled = sum(row["action"] == "settled" for row in found)
    told = {
        "calls": given.calls,
        "settled": settled,
        "seconds": round(seconds, 2),
        "floor_seconds": round(floor, 2),
        "verified": verified.returncode == 0,
    }
    print(json.dumps(told))
    return int(settled != given.calls or verified.returncode != 0)


if __name__ == "__main__":
    sys.exit(main())
