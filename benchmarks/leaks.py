"""Whether many calls leave anything behind: threads, sockets, descriptors, containers, memory.

    python benchmarks/leaks.py [--calls 500] [--slots 16] [--hot | --pool 8]

No-op calls through a number of slots, in ten blocks; after each what this process holds. Flat is what does not grow
between the second block, when all is warm, and the last. At the end, with the runner closed, nothing may be left.
"""

from __future__ import annotations

import argparse
import gc
import os
import tempfile
import threading
from pathlib import Path
from typing import NamedTuple

import docker

import calls

IMAGE = "busybox"
BLOCKS = 10


class Held(NamedTuple):
    """What a process holds. `rss` in KiB."""

    threads: int
    descriptors: int
    sockets: int
    rss: int


def held() -> Held:
    """By this process, now."""
    gc.collect()
    names = []
    for number in os.listdir("/proc/self/fd"):
        try:
            names.append(os.readlink(f"/proc/self/fd/{number}"))
        except OSError:
            continue  # the listing's own
    resident = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return Held(
        threading.active_count(), len(names), sum(name.startswith("socket:") for name in names), resident // 1024
    )


def main() -> None:
    """Print one line a block, and what is left."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--calls", type=int, default=500)
    parser.add_argument("--slots", type=int, default=16)
    parser.add_argument("--hot", action="store_true")
    parser.add_argument("--pool", type=int, default=0)
    given = parser.parse_args()
    network = "bridge" if given.pool else "none"
    client = docker.from_env().api
    before = held()
    with tempfile.TemporaryDirectory() as folder:
        with calls.Runner(Path(folder) / "ledger.db", max_calls=given.slots, pool=given.pool) as runner:
            label = f"call-ledger.ledger={runner.ledger.id}"
            seen: list[Held] = []
            for block in range(BLOCKS):
                count = given.calls // BLOCKS
                many = [runner.submit(IMAGE, ["true"], network=network, hot=given.hot) for _ in range(count)]
                assert all(future.result().state == "success" for future in many)
                del many
                seen.append(held())
                there = len(client.containers(all=True, filters={"label": label}))
                print(f"{count * (block + 1):5} calls  {seen[-1]}  containers {there}")
        growth = [last - warm for last, warm in zip(seen[-1], seen[1], strict=True)]
        print(f"growth from the second block to the last: {Held(*growth)}")
        print(f"containers left: {len(client.containers(all=True, filters={'label': label}))}")
    print(f"after closing: {held()}; before: {before}")
    client.close()


if __name__ == "__main__":
    main()
