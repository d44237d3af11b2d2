"""What 10 callers that want one image at the same moment cost its registry: calls of one runner, beside bare docker-py.

    .venv/bin/python benchmarks/pulls.py [--callers 10] [--mib 64]

Each side pulls an image that the engine has never seen, from a registry in this process; both see every request.
"""

from __future__ import annotations

import argparse
import contextlib
import random
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import docker
import docker.errors

import calls
from ledger.read import Reader

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from registry import Registry, serving


def bare(registry: Registry, callers: int) -> float:
    """Each caller pulls for itself; -> seconds until the last one has it."""
    begun = time.perf_counter()
    with contextlib.closing(docker.from_env(max_pool_size=callers, timeout=600)) as client:
        pull = lambda _: client.api.pull(f"{registry.host}/image", tag="1")  # noqa: E731
        with ThreadPoolExecutor(callers) as threads:
            list(threads.map(pull, range(callers)))
    return time.perf_counter() - begun


def shared(registry: Registry, callers: int) -> float:
    """Calls of one runner, which then fail to start: it has no command. -> what the slowest pull took, as recorded."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "ledger.db"
        with calls.Runner(path) as runner:
            futures = [runner.submit(registry.image, network="none", sample="off") for _ in range(callers)]
            reasons = {future.result().reason for future in futures}
        assert reasons == {"start-not-found"}, reasons
        with Reader(path) as reader:
            found = reader.query("SELECT max(data ->> '$.seconds') FROM events WHERE kind = 'pulled'")[1]
            return float(next(iter(found))[0])


def measure(name: str, pull: Callable[[Registry, int], float], callers: int, size: int) -> None:
    """Print one line."""
    with serving(random.randbytes(size)) as registry:
        seconds = pull(registry, callers)
        pings = sum(path == "/v2/" for _, path in registry.asked)
        manifests = registry.count("HEAD", "manifests") + registry.count("GET", "manifests")
        blobs = registry.count("GET", "blobs")
        with contextlib.closing(docker.from_env()) as client, contextlib.suppress(docker.errors.ImageNotFound):
            client.images.remove(registry.image)
    print(f"{name:<22} {pings:>3} of /v2/  {manifests:>3} for manifests  {blobs:>3} for blobs  {seconds:6.2f} s")


def main() -> None:
    """Measure both, in turn."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--callers", type=int, default=10)
    parser.add_argument("--mib", type=int, default=64)
    asked = parser.parse_args()
    for name, pull in (("bare docker-py", bare), ("calls of one runner", shared)) * 2:
        measure(name, pull, asked.callers, asked.mib * 2**20)


if __name__ == "__main__":
    main()
