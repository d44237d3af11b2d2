"""Verifying a whole ledger: time and memory, for two sizes, beside what reading and hashing alone would take.

    python benchmarks/verify.py [--events 1000000] [--rounds 3]

The floor reads every row of event, sample and log in the same order and hashes its text, no more. Each measurement
is a process of its own, so that its peak memory is its own; the best of the rounds counts.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import resource
import subprocess
import sys
import tempfile
import time
from contextlib import closing
from pathlib import Path

from big_ledger import make

from ledger.sqlite import connect_reader
from ledger.verify import verify


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--measure", nargs=2, metavar=("WHAT", "FILE"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.measure:
        print(json.dumps(measure(given.measure[0], Path(given.measure[1]))))
        return
    with tempfile.TemporaryDirectory() as folder:
        for events in (given.events // 10, given.events):
            path = Path(folder) / f"{events}.db"
            make(path, events)
            floor, whole = (best(what, path, given.rounds) for what in ("floor", "verify"))
            print(f"{whole['events']} events, {path.stat().st_size / 2**20:.0f} MiB")
            for name, figures in (("floor", floor), ("verify", whole)):
                spent = f"{figures['wall']:6.2f} s, {figures['cpu']:6.2f} s of CPU"
                print(f"  {name:6}  {spent}, peak RSS {figures['rss'] / 1024:.0f} MiB")
            print(f"  ratio   {whole['wall'] / floor['wall']:.1f}; {whole['events'] / whole['wall']:,.0f} events/s")


def best(what: str, path: Path, rounds: int) -> dict[str, float]:
    """The fastest of some measurements, each in a fresh process."""
    command = [sys.executable, __file__, "--measure", what, str(path)]
    found = [json.loads(subprocess.run(command, capture_output=True, check=True).stdout) for _ in range(rounds)]
    return min(found, key=lambda figures: float(figures["wall"]))


def measure(what: str, path: Path) -> dict[str, float]:
    """Seconds and KiB."""
    begun = time.perf_counter()
    if what == "floor":
        events = floor(path)
    else:
        report = verify(path)
        assert report.findings == [], report.findings[:3]
        events = report.events
    wall, used = time.perf_counter() - begun, resource.getrusage(resource.RUSAGE_SELF)
    return {"events": events, "wall": wall, "cpu": used.ru_utime + used.ru_stime, "rss": used.ru_maxrss}


def floor(path: Path) -> int:
    """Read and hash the same rows; -> the number of events."""
    count = 0
    with closing(connect_reader(path)) as connection:
        for table in ("event", "sample", "log"):
            for row in connection.execute(f"SELECT * FROM {table} ORDER BY call_id, seq"):
                hashlib.sha256(repr(row).encode()).digest()
                count += table == "event"
    return count


if __name__ == "__main__":
    main()
