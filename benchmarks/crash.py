"""The crash loop: a runner is killed at a random moment, what it left is recovered, and the record must be true.

    .venv/bin/python benchmarks/crash.py [--rounds 1000] [--driver docker|local] [--seed N]

Counts, over all rounds: acknowledged events that are not in the ledger, successes that were none, containers that
were started twice, calls without an end and containers without a call. Every third recovery is killed as well, and
done again. Exit status 1 unless all of them are 0 and the ledger verifies.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from driver.docker import DockerDriver
from driver.local import LocalDriver
from driver.protocol import Labels
from driver.pump import Pump
from ledger.read import Reader

HERE = Path(__file__).parent
CALLS = (sys.executable, "-m", "calls.cli")
BOUND = 120  # seconds: what takes longer hangs


def killed_soon(words: list[str], most: float, at_work: Callable[[], bool] = lambda: True) -> None:
    """Begin a program and kill it at a random moment, at most `most` seconds after it was first seen `at_work`."""
    process = subprocess.Popen(words, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    until = time.monotonic() + BOUND
    while not at_work() and process.poll() is None and time.monotonic() < until:
        time.sleep(0.01)
    try:
        process.wait(random.uniform(0, most))
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGKILL)
    process.wait()


def recover(ledger: Path) -> None:
    """Recover, and wait until nothing is under way any more."""
    words = [*CALLS, "--ledger", str(ledger), "recover", "--grace", "0s"]
    if random.random() < 1 / 3:
        killed_soon(words, 0.6)  # the front, which has let go of whoever does it
        subprocess.run(["pkill", "-9", "-f", "--", f"--ledger {ledger} recover"], check=False)
    subprocess.run(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, timeout=BOUND, check=True)
    deadline = time.monotonic() + BOUND
    with Reader(ledger) as reader:
        while open_calls := reader.unsettled():
            if time.monotonic() > deadline:
                sys.exit(f"still not settled: {[call.uid for call in open_calls]}")
            time.sleep(0.02)


class Judge:
    """Compares the ledger with what is known from outside."""

    def __init__(self, ledger: Path, folder: Path, driver: str) -> None:
        """`folder` is where the children write down the truth."""
        self.ledger = ledger
        self.folder = folder
        self.driver = driver
        self.faults: Counter[str] = Counter()
        self.calls = self.events = 0

    def look(self) -> None:
        """Look at everything that was recorded so far."""
        begun = Counter(self._lines("begun"))
        with Reader(self.ledger) as reader:
            recorded = Counter((f"{call} {kind}") for call, kind in reader.query("SELECT call_id, kind FROM events")[1])
            rows = list(reader.query("SELECT uid, state, exit_code, cleaned, spec ->> '$.label.nonce' FROM call")[1])
        acknowledged = Counter(self._lines("acknowledged"))
        self.events, self.calls = acknowledged.total(), len(rows)
        self.faults = Counter(
            lost=(acknowledged - recorded).total(),
            double_starts=sum(count > 1 for count in begun.values()),
            false_success=sum(
                state == "success" and (not nonce.endswith("-0") or nonce not in begun)
                for _, state, _, _, nonce in rows
            ),
            false_code=sum(
                state == "error" and code is not None and not nonce.endswith(f"-{code}")
                for _, state, code, _, nonce in rows
            ),
            not_settled=sum(not cleaned for _, _, _, cleaned, _ in rows),
            orphans=self._orphans(),
        )

    def written(self) -> int:
        """The bytes of acknowledgements so far."""
        path = self.folder / "acknowledged"
        return path.stat().st_size if path.exists() else 0

    def _lines(self, name: str) -> list[str]:
        path = self.folder / name
        return path.read_text().splitlines() if path.exists() else []

    def _orphans(self) -> int:
        with Reader(self.ledger) as reader:
            ledger = str(next(reader.query("SELECT value FROM meta WHERE key = 'ledger'")[1])[0])
        pump = Pump()
        make = DockerDriver if self.driver == "docker" else LocalDriver
        found = make(pump, Labels(ledger, ""))
        try:
            return len(found.leftovers())
        finally:
            found.close()
            pump.close()


def main() -> int:
    """-> the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--rounds", type=int, default=1000)
    parser.add_argument("--driver", choices=("docker", "local"), default="docker")
    parser.add_argument("--seed", type=int, default=None)
    given = parser.parse_args()
    random.seed(given.seed)
    with tempfile.TemporaryDirectory(prefix="crash.") as name:
        folder = Path(name)
        ledger, judge = folder / "ledger.db", Judge(folder / "ledger.db", folder, given.driver)
        child = [sys.executable, str(HERE / "crash_child.py"), str(ledger), str(folder), given.driver]
        began = time.monotonic()
        for number in range(1, given.rounds + 1):
            # Mostly while calls are under way, however long it takes to begin, and sometimes before the first.
            wanted = judge.written() + (random.random() < 3 / 4)
            killed_soon(child, 1.5, lambda wanted=wanted: judge.written() >= wanted)  # type: ignore[misc]
            if not ledger.exists():
                continue  # killed before it had even begun
            recover(ledger)
            judge.look()
            if judge.faults["orphans"]:  # an engine may still have been creating it: it is for the next recovery
                recover(ledger)
                judge.look()
            if sys.stderr.isatty():
                sys.stderr.write(f"\r{number}/{given.rounds} {judge.calls} calls")
            if judge.faults.total():
                break
        verified = subprocess.run(
            [*CALLS, "--ledger", str(ledger), "verify", "--json"], capture_output=True, check=False
        )
        told = {
            "driver": given.driver,
            "rounds": number,
            "seconds": round(time.monotonic() - began),
            "calls": judge.calls,
            "acknowledged": judge.events,
            **judge.faults,
            "verified": verified.returncode == 0,
        }
        print(json.dumps(told))
        if judge.faults.total() or verified.returncode:
            keep = tempfile.mkdtemp(prefix="crash.kept.")
            subprocess.run(["cp", "-a", f"{folder}/.", keep], check=True)
            print(f"the ledger is kept in {keep}: {verified.stdout.decode()[:2000]} {verified.stderr.decode()[:2000]}")
            return 1
    return 0


if __name__ == "__main__":
    os.environ.pop("CALLS_LEDGER", None)
    sys.exit(main())
