"""What recording costs: a no-op container call in process, beside bare docker-py, in turn on one engine.

    python benchmarks/overhead.py [--rounds 30] [--blocks 8]

Bare docker-py is create, start, wait, remove on the low-level client, kept warm. The ratio of medians is
the figure; at 32 at once it is the ratio of throughputs, over alternating blocks of 64 calls: of single blocks,
even with the same code, one takes up to a fifth longer than another.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import docker

import calls

IMAGE = "busybox"


def bare(client: docker.APIClient, network: str) -> None:
    """The peer."""
    host = client.create_host_config(network_mode=network)
    container = client.create_container(IMAGE, ["true"], host_config=host)["Id"]
    client.start(container)
    client.wait(container)
    client.remove_container(container)


def timed(action: Callable[[], object]) -> float:
    """Seconds."""
    begun = time.perf_counter()
    action()
    return time.perf_counter() - begun


def one_by_one(client: docker.APIClient, runner: calls.Runner, network: str, rounds: int) -> None:
    """Median of each, in turn."""
    ours, theirs = [], []
    for _ in range(rounds):
        theirs.append(timed(lambda: bare(client, network)))
        ours.append(timed(lambda: runner.run(IMAGE, ["true"], network=network)))
    mine, peer = statistics.median(ours), statistics.median(theirs)
    print(
        f"one by one, network {network:<6}  bare {peer * 1e3:6.1f} ms  "
        f"recorded {mine * 1e3:6.1f} ms  ratio {mine / peer:.3f}"
    )


def at_once(client: docker.APIClient, runner: calls.Runner, network: str, blocks: int, count: int = 64) -> None:
    """Calls a second with 32 under way, blocks of each in turn, and which is first in turn, too."""

    def theirs() -> None:
        with ThreadPoolExecutor(32) as pool:
            list(pool.map(lambda _: bare(client, network), range(count)))

    def ours() -> None:
        for future in [runner.submit(IMAGE, ["true"], network=network) for _ in range(count)]:
            call = future.result()
            assert call.state == "success", call

    spans = {theirs: 0.0, ours: 0.0}
    for block in range(blocks):
        for action in (theirs, ours) if block % 2 else (ours, theirs):
            spans[action] += timed(action)
    peer, mine = (blocks * count / span for span in spans.values())
    print(f"32 at once, network {network:<6}  bare {peer:6.2f}/s  recorded {mine:6.2f}/s  ratio {mine / peer:.3f}")


def main() -> None:
    """Print one line a figure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--blocks", type=int, default=8)
    given = parser.parse_args()
    client = docker.from_env(max_pool_size=64).api  # docker-py 7.2 fails when more threads than connections share a URL
    with tempfile.TemporaryDirectory() as folder, calls.Runner(Path(folder) / "ledger.db", max_calls=32) as runner:
        for network in ("none", "bridge"):
            bare(client, network)
            runner.run(IMAGE, ["true"], network=network)
            one_by_one(client, runner, network, given.rounds)
            at_once(client, runner, network, given.blocks)


if __name__ == "__main__":
    main()
