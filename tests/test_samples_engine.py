"""Samples of real containers, where the kernel's files are read from here: what they say, and what they do not."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import docker
import pytest
from running import LIMIT, until

import calls
from driver.docker import DockerDriver
from ledger.read import Reader

pytestmark = pytest.mark.engine

IMAGE = "busybox"
NOISE = "ping -c 3 -i 0.1 -s 50000 $(ip route | awk '/default/ {print $3}')"


@pytest.fixture(autouse=True)
def visible(runner: calls.Runner) -> None:
    """Where the engine is elsewhere there is nothing to be seen."""
    driver = runner.driver("docker")
    assert isinstance(driver, DockerDriver)
    if not driver.groups.exact:
        pytest.skip("no control groups of calls can be read here")


def sampled(ledger: Path, column: str, call: calls.Call) -> list[Any]:
    """One column of a call's samples."""
    with Reader(ledger) as reader:
        query = f"SELECT s.{column} FROM sample s JOIN call c ON c.id = s.call_id WHERE c.uid = :uid ORDER BY s.seq"
        return [value for (value,) in reader.query(query, {"uid": call.id})[1]]


def test_the_traffic_of_the_host_is_not_the_calls(runner: calls.Runner, ledger: Path) -> None:
    call = runner.run(IMAGE, ["sleep", "1"], network="host", sample="100ms")
    received = sampled(ledger, "net_rx_bytes", call)
    assert (len(received) > 1, {*received}) == (True, {None})


@pytest.fixture
def other(engine: docker.APIClient) -> Iterator[str]:
    """Another container, which has sent a lot."""
    made = engine.create_container(IMAGE, ["sh", "-c", f"{NOISE}; sleep 600"])["Id"]
    engine.start(made)
    until(lambda: engine.stats(made, stream=False)["networks"]["eth0"]["tx_bytes"] >= 150_000, "its traffic")
    yield made
    engine.remove_container(made, force=True)


def test_what_went_over_anothers_network_before_is_not_the_calls(
    runner: calls.Runner, ledger: Path, other: str
) -> None:
    call = runner.run(IMAGE, ["sleep", "1"], network=f"container:{other}", sample="100ms")
    sent = [value for value in sampled(ledger, "net_tx_bytes", call) if value is not None]
    assert sent
    assert max(sent) < 15_000


def test_what_is_only_cached_is_no_reason_for_an_end(runner: calls.Runner) -> None:
    """A program's own 137 after its files have filled the memory that it may have."""
    words = ["sh", "-c", "dd if=/dev/zero of=/file bs=1M count=60 2>/dev/null; exit 137"]
    call = runner.run(IMAGE, words, network="none", memory="16m", timeout=LIMIT)
    assert (call.state, call.reason, call.exit_code, call.oom) == ("error", "exit", 137, None)


def test_the_last_sample_takes_nothing_back(runner: calls.Runner, ledger: Path) -> None:
    """The parent group has the CPU time of what is gone, and not how long that was held back."""
    words = ["sh", "-c", "i=0; while [ $i -lt 100000 ]; do i=$((i+1)); done"]
    call = runner.run(IMAGE, words, network="none", cpus=0.1, sample="100ms")
    *before, last = sampled(ledger, "throttled_ns", call)
    assert (max(before) > 0, last) == (True, None)
    used = [value for value in sampled(ledger, "cpu_total_ns", call) if value is not None]
    assert used == sorted(used)
