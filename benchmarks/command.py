"""What `calls run` costs as a whole command beside `docker run --rm` of the same, in turn; and `calls --help`.

python benchmarks/command.py [--rounds 20]
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

IMAGE = "busybox"
CALLS = str(Path(sys.executable).with_name("calls"))


def wall(words: list[str]) -> float:
    """Seconds of one run."""
    begun = time.perf_counter()
    subprocess.run(words, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - begun


def cpu(words: list[str]) -> float:
    """CPU seconds of one run, children included."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(words, check=True, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    """Print one line a figure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=20)
    rounds = parser.parse_args().rounds
    with tempfile.TemporaryDirectory() as folder:
        os.environ["CALLS_LEDGER"] = str(Path(folder) / "ledger.db")
        # As installed: pip compiles what it installs; from a checkout the first round, which does not count, does it.
        os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
        os.environ["PYTHONPYCACHEPREFIX"] = str(Path(folder) / "bytecode")
        for network in ("none", "bridge"):
            theirs, ours = [], []
            for _ in range(rounds + 1):
                theirs.append(wall(["docker", "run", "--rm", "--network", network, IMAGE, "true"]))
                ours.append(wall([CALLS, "run", "--network", network, IMAGE, "true"]))
            peer, mine = statistics.median(theirs[1:]), statistics.median(ours[1:])
            print(
                f"network {network:<6}  docker run --rm {peer * 1e3:5.0f} ms  calls run {mine * 1e3:5.0f} ms"
                f"  over {(mine - peer) * 1e3:+.0f} ms"
            )
        helps = [cpu([CALLS, "--help"]) for _ in range(rounds)]
        print(f"calls --help  {statistics.median(helps) * 1e3:.0f} ms of CPU")


if __name__ == "__main__":
    main()
