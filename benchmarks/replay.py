"""Folding a whole ledger again: `calls replay --all --check` on a million events.

    python benchmarks/replay.py [--events 1000000] [--rounds 3]

Beside it, in the same run, two floors: reading the same columns with a plain SELECT and doing nothing, and the bare
fold of the kinds by `machine.table.fold`, which neither reads nor projects. The best of the rounds, each in turn.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable
from contextlib import closing
from itertools import groupby
from operator import itemgetter
from pathlib import Path

from big_ledger import make

from ledger.replay import EVENTS
from ledger.sqlite import connect_reader
from machine.states import Kind
from machine.table import fold

PEAK = """
import re, sys
from calls.cli.group import run
run(sys.argv[1:])
print(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1], file=sys.stderr)
"""


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "ledger.db"
        make(path, given.events)
        logs = kinds(path)
        events = sum(map(len, logs))
        measured: dict[str, Callable[[Path], float]] = {
            "SELECT of the same columns": select,
            "machine.table.fold alone": lambda _: bare(logs),
            "calls replay --all --check": command,
        }
        best = dict.fromkeys(measured, float("inf"))
        for _ in range(given.rounds):
            for name, measure in measured.items():
                best[name] = min(best[name], measure(path))
        print(f"{events} events, {len(logs)} calls, {path.stat().st_size / 2**20:.0f} MiB")
        for name, seconds in best.items():
            print(f"{name:28} {seconds:6.2f} s  {events / seconds:10,.0f} events/s")
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        cpu = (used.ru_utime + used.ru_stime) / given.rounds
        print(f"CPU of the command {cpu:.2f} s in the mean, its start included; peak RSS {peak(path):.0f} MiB")


def kinds(path: Path) -> list[list[Kind]]:
    """The kinds of each call's events."""
    names = tuple(Kind)
    with closing(connect_reader(path)) as connection:
        rows = connection.execute("SELECT call_id, kind FROM event ORDER BY call_id, seq")
        return [[names[kind] for _, kind in log] for _, log in groupby(rows, itemgetter(0))]


def select(path: Path) -> float:
    """Seconds to read."""
    with closing(connect_reader(path)) as connection:
        begun = time.perf_counter()
        deque(connection.execute(f"{EVENTS} ORDER BY call_id, seq"), maxlen=0)
        return time.perf_counter() - begun


def bare(logs: list[list[Kind]]) -> float:
    """Seconds to fold what is in memory already."""
    begun = time.perf_counter()
    deque(map(fold, logs), maxlen=0)
    return time.perf_counter() - begun


def arguments(path: Path) -> list[str]:
    """The command line that is measured."""
    return ["replay", "--ledger", str(path), "--all", "--check", "--json"]


def command(path: Path) -> float:
    """Seconds that the command says it took; it must find nothing."""
    words = [sys.executable, "-m", "calls.cli", *arguments(path)]
    done = subprocess.run(words, check=True, capture_output=True, text=True)
    told = json.loads(done.stdout)
    assert told["differences"] == []
    return float(told["seconds"])


def peak(path: Path) -> float:
    """MiB at most. Not from getrusage, which counts what this process had when it started the other."""
    done = subprocess.run([sys.executable, "-c", PEAK, *arguments(path)], check=True, capture_output=True, text=True)
    return int(done.stderr) / 1024


if __name__ == "__main__":
    main()
