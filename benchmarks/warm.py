"""What warm networks and hot containers save: a no-op call cold, pooled and hot, beside the peers, in one run.

    python benchmarks/warm.py [--rounds 20] [--calls 64]

All with network bridge, in turn on one engine: `docker run --rm`, bare docker-py (create, start, wait, remove), and the
ways of a runner; hot once when the container must be woken, and once right after that. The ratios are to bare
docker-py. Throughput is with 8 calls at once, in alternating blocks. At the end nothing may be left: neither a holder
nor a hot container.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import docker
from overhead import IMAGE, bare, timed

import calls

AT_ONCE = 8
NETWORK = "bridge"


def command() -> None:
    """The other peer."""
    words = ["docker", "run", "--rm", "--network", NETWORK, IMAGE, "true"]
    subprocess.run(words, check=True, stdout=subprocess.DEVNULL)


def one(runner: calls.Runner, *, hot: bool = False) -> None:
    """A call, carried out."""
    call = runner.run(IMAGE, ["true"], network=NETWORK, hot=hot)
    assert call.state == "success", call


def many(runner: calls.Runner, count: int, *, hot: bool = False) -> None:
    """Calls, as many at once as the runner has slots."""
    for future in [runner.submit(IMAGE, ["true"], network=NETWORK, hot=hot) for _ in range(count)]:
        assert future.result().state == "success", future.result()


def bare_many(client: docker.APIClient, count: int) -> None:
    """The same without us."""
    with ThreadPoolExecutor(AT_ONCE) as threads:
        list(threads.map(lambda _: bare(client, NETWORK), range(count)))


def in_turn(ways: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """The median seconds of each, after one round that does not count."""
    spans: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds + 1):
        for name, way in ways.items():
            spans[name].append(timed(way))
    return {name: statistics.median(found[1:]) for name, found in spans.items()}


def main() -> None:
    """Print one line a figure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--calls", type=int, default=64)
    given = parser.parse_args()
    client = docker.from_env(max_pool_size=64).api
    with tempfile.TemporaryDirectory() as folder:
        ledger = Path(folder) / "ledger.db"
        with (
            calls.Runner(ledger, max_calls=AT_ONCE) as cold,
            calls.Runner(ledger, max_calls=AT_ONCE, pool=AT_ONCE) as warm,
        ):
            label = f"call-ledger.ledger={cold.ledger.id}"
            while len(client.containers(filters={"label": label})) < AT_ONCE:
                pass  # the pool is being filled
            each = in_turn(
                {
                    "docker run --rm": command,
                    "bare docker-py": lambda: bare(client, NETWORK),
                    "cold": lambda: one(cold),
                    "pooled": lambda: one(warm),
                    "idle": lambda: time.sleep(1.5),
                    "hot, paused": lambda: one(cold, hot=True),
                    "hot": lambda: one(cold, hot=True),
                },
                given.rounds,
            )
            del each["idle"]
            for name, seconds in each.items():
                print(f"{name:<16} {seconds * 1e3:6.1f} ms  ratio {seconds / each['bare docker-py']:.3f}")
            together = in_turn(
                {
                    "bare docker-py": lambda: bare_many(client, given.calls),
                    "cold": lambda: many(cold, given.calls),
                    "pooled": lambda: many(warm, given.calls),
                    "hot": lambda: many(cold, given.calls, hot=True),
                },
                3,
            )
            for name, seconds in together.items():
                print(f"{AT_ONCE} at once, {name:<16} {given.calls / seconds:6.1f} calls/s")
        print(f"containers left: {len(client.containers(all=True, filters={'label': label}))}")
    client.close()


if __name__ == "__main__":
    main()
