"""The soak: eight runners on one ledger, and every 1 to 8 seconds something breaks; at the end the record is true.

    .venv/bin/python benchmarks/soak.py [--minutes 60] [--runners 8] [--driver docker|local] [--seed N]

What breaks: a runner is killed, or stopped for a while; a container is killed, stopped, paused or removed behind
its runner's back; a call is cancelled or killed through the ledger; the ledger is locked, for longer than anybody
waits; an auditor holds a long read transaction; whoever recovers is killed. Exit status 1 when anything that the
crash loop counts is not 0, or the ledger does not verify.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from crash import CALLS, HERE, Judge, recover

from ledger.read import Reader

LOCK = """
import sys, time
from pathlib import Path
from ledger.sqlite import connect_reader, connect_writer
path, how, seconds = Path(sys.argv[1]), sys.argv[2], float(sys.argv[3])
db = (connect_writer if how == "write" else connect_reader)(path)
db.execute("BEGIN IMMEDIATE" if how == "write" else "BEGIN")
db.execute("SELECT count(*) FROM event").fetchone()
time.sleep(seconds)
"""


class Soak:
    """The runners, and what can be done to them."""

    def __init__(self, folder: Path, driver: str, runners: int) -> None:
        """Nothing runs yet."""
        self.folder = folder
        self.ledger = folder / "ledger.db"
        self.done: Counter[str] = Counter()
        self._words = [sys.executable, str(HERE / "crash_child.py"), str(self.ledger), str(folder), driver]
        self._runners = [self._begin() for _ in range(runners)]
        self._faults: list[Callable[[], None]] = [self.kill_runner] * 3
        self._faults += [self.stop_runner, self.ask, self.ask, self.lock, self.read_for_long, self.kill_recoverer]
        if driver == "docker":
            self._faults += [self.hurt_container] * 3

    def fault(self) -> None:
        """Break something; what did not work, because it had just ended, is no matter."""
        fault = random.choice(self._faults)
        self.done[fault.__name__] += 1
        with suppress(subprocess.SubprocessError, OSError):
            fault()

    def end(self) -> None:
        """Kill all runners."""
        for runner in self._runners:
            runner.kill()
            runner.wait()

    def kill_runner(self) -> None:
        """And begin another, who finds what it left."""
        place = random.randrange(len(self._runners))
        self._runners[place].kill()
        self._runners[place].wait()
        self._recover()
        self._runners[place] = self._begin()

    def stop_runner(self) -> None:
        """For one to ten seconds."""
        runner = random.choice(self._runners)
        runner.send_signal(signal.SIGSTOP)
        threading.Timer(random.uniform(1, 10), lambda: runner.send_signal(signal.SIGCONT)).start()

    def hurt_container(self) -> None:
        """Behind its runner's back."""
        if uid := self._victim():
            words = random.choice((["kill"], ["kill", "-s", "TERM"], ["stop", "-t", "0"], ["rm", "-f"], ["pause"]))
            self._quietly(["docker", *words, uid])
            if words == ["pause"]:
                threading.Timer(1, lambda: self._quietly(["docker", "unpause", uid])).start()

    def ask(self) -> None:
        """Through the ledger."""
        if uid := self._victim():
            self._quietly([*CALLS, "--ledger", str(self.ledger), random.choice(("cancel", "kill")), uid])

    def lock(self) -> None:
        """Sometimes for longer than a writer waits."""
        self._background([sys.executable, "-c", LOCK, str(self.ledger), "write", str(random.uniform(0.5, 8))])

    def read_for_long(self) -> None:
        """The log cannot be taken in meanwhile."""
        self._background([sys.executable, "-c", LOCK, str(self.ledger), "read", str(random.uniform(1, 20))])

    def kill_recoverer(self) -> None:
        """What it had adopted has lost its runner again."""
        self._quietly(["pkill", "-9", "-f", "--", f"--ledger {self.ledger} recover"])
        self._recover()

    def _recover(self) -> None:
        self._background([*CALLS, "--ledger", str(self.ledger), "recover"])

    def _victim(self) -> str | None:
        if not self.ledger.exists():
            return None
        with Reader(self.ledger) as reader:
            live = [call.uid for call in reader.unsettled()]
        return random.choice(live) if live else None

    def _begin(self) -> subprocess.Popen[bytes]:
        return subprocess.Popen(self._words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    @staticmethod
    def _quietly(words: list[str]) -> None:
        subprocess.run(words, capture_output=True, timeout=60, check=False)

    @staticmethod
    def _background(words: list[str]) -> None:
        process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        threading.Thread(target=process.wait, daemon=True).start()


def main() -> int:
    """-> the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--runners", type=int, default=8)
    parser.add_argument("--driver", choices=("docker", "local"), default="docker")
    parser.add_argument("--seed", type=int, default=None)
    given = parser.parse_args()
    random.seed(given.seed)
    folder = Path(tempfile.mkdtemp(prefix="soak."))
    soak = Soak(folder, given.driver, given.runners)
    end = time.monotonic() + given.minutes * 60
    with suppress(KeyboardInterrupt):  # ended early, it is judged all the same
        while (left := end - time.monotonic()) > 0:
            time.sleep(min(left, random.uniform(1, 8)))
            soak.fault()
            if sys.stderr.isatty():
                sys.stderr.write(f"\r{left / 60:.1f} minutes left, {soak.done.total()} faults ")
    soak.end()
    time.sleep(21)  # the longest that anybody holds the ledger
    recover(soak.ledger)
    judge = Judge(soak.ledger, folder, given.driver)
    judge.look()
    words = [*CALLS, "--ledger", str(soak.ledger), "verify", "--json"]
    verified = subprocess.run(words, capture_output=True, check=False)
    told = {"minutes": given.minutes, "faults": dict(soak.done), "calls": judge.calls, "acknowledged": judge.events}
    print(json.dumps({**told, **judge.faults, "verified": verified.returncode == 0}))
    if judge.faults.total() or verified.returncode:
        print(f"the ledger is kept in {folder}:", verified.stdout.decode()[:3000], verified.stderr.decode()[:3000])
        return 1
    shutil.rmtree(folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
