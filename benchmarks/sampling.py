"""Sampling at scale: 200 concurrent `sleep 60`, a sample a second each, for a minute.

    python benchmarks/sampling.py [--calls 200] [--seconds 60] [--interval 1s]

Expected are the beats between a call's first and last sample; a gap is the time between two samples of a
call. CPU is this process's, from its start to its end, starting and removing the containers included.
"""

from __future__ import annotations

import argparse
import itertools
import resource
import sqlite3
import tempfile
import threading
import time
from pathlib import Path

import calls
from machine.units import duration


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--calls", type=int, default=200)
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--interval", default="1s")
    given = parser.parse_args()
    begun = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "ledger.db"
        with calls.Runner(path, max_calls=given.calls) as runner:
            options = {"network": "none", "sample": given.interval}
            futures = [runner.submit("busybox", ["sleep", str(given.seconds)], **options) for _ in range(given.calls)]
            while not all(future.running() for future in futures):
                time.sleep(0.1)
            time.sleep(given.seconds / 2)
            threads = threading.active_count()
            states = {future.result().state for future in futures}
        used = resource.getrusage(resource.RUSAGE_SELF)
        print(f"calls {given.calls} {sorted(states)}, threads {threads}, wall {time.monotonic() - begun:.0f} s")
        print(f"CPU {used.ru_utime + used.ru_stime:.2f} s, peak RSS {used.ru_maxrss / 1024:.0f} MiB")
        report(path, duration(given.interval))


def report(path: Path, interval: int) -> None:
    """Read the ledger as anybody would."""
    connection = sqlite3.connect(path)
    rows = connection.execute("SELECT call_id, at FROM sample WHERE pids IS NOT NULL ORDER BY call_id, seq").fetchall()
    gaps = [later - earlier for (a, earlier), (b, later) in itertools.pairwise(rows) if a == b]
    spans = connection.execute(
        "SELECT max(at) - min(at) FROM sample WHERE pids IS NOT NULL GROUP BY call_id"
    ).fetchall()
    expected = sum(span // interval + 1 for (span,) in spans)
    print(f"samples {len(rows)} of {expected} expected, lost {100 * max(0, expected - len(rows)) / expected:.2f} %")
    recorded = connection.execute("SELECT sum(gaps) FROM call").fetchone()[0]
    print(f"worst gap {max(gaps) / 1e9:.2f} s; gaps recorded {recorded}")


if __name__ == "__main__":
    main()
