"""Warm networks: calls join the namespace of a holder, which serves one call at a time and outlives nobody."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import docker
import pytest
from running import LIMIT, events, until, until_kind

import calls
from calls.recover import Recovery
from driver.docker import DockerDriver
from driver.docker.pool import HOLDER, Pool, joinable
from driver.docker.warm import MOST, Warm, planned
from driver.protocol import Labels
from driver.pump import Pump
from driver.since import COUNTERS, NETWORK, MeterSince, risen, since
from ledger.read import Reader
from machine.errors import UsageError
from machine.samples import Sample
from machine.spec import Spec

IMAGE = "busybox"
Pooled = Callable[..., calls.Runner]
NOISE = "ping -c 3 -i 0.1 -s 50000 $(ip route | awk '/default/ {print $3}'); sleep 3"


@pytest.fixture
def pooled(ledger: Path) -> Iterator[Pooled]:
    """Makes a runner whose pool is full; nothing of it may be left."""
    made: list[calls.Runner] = []

    def make(pool: int = 1, **options: Any) -> calls.Runner:
        made.append(calls.Runner(ledger, pool=pool, **options))
        assert pool_of(made[-1]).ready(LIMIT)
        return made[-1]

    yield make
    for runner in made:
        runner.close()
        assert holders(runner) == []


def pool_of(runner: calls.Runner) -> Pool:
    driver = runner.driver("docker")
    assert isinstance(driver, DockerDriver)
    assert driver.pool is not None
    return driver.pool


def holders(runner: calls.Runner) -> list[dict[str, Any]]:
    """The containers of the runner that are holders."""
    client = docker.from_env()
    with closing(client):
        filters = {"label": [HOLDER, f"call-ledger.ledger={runner.ledger.id}"]}
        found: list[dict[str, Any]] = client.api.containers(all=True, filters=filters)
    return found


def holder_of(call: calls.Call) -> str | None:
    """What is recorded of the holder that a call has joined."""
    (made,) = (event["data"] for event in events(call.id) if event["kind"] == "prepared")
    holder: str | None = made.get("holder")
    return holder


# Which calls can join.


@pytest.mark.parametrize("options", [{}, {"memory": "32m", "env": {"A": "1"}, "user": "1000"}, {"network": "default"}])
def test_a_call_that_wants_nothing_of_its_own_network_can_join_one(options: dict[str, Any]) -> None:
    assert joinable(Spec.parse(image=IMAGE, **options)) == "bridge"


@pytest.mark.parametrize(
    "options",
    [
        {"publish": ["80"]},
        {"hostname": "own"},
        {"dns": ["10.0.0.1"]},
        {"network": "net", "network_alias": ["own"]},
        {"add_host": ["a:10.0.0.1"]},
        {"sysctl": {"net.ipv4.ip_forward": "1"}},
        {"cap_add": ["NET_ADMIN"]},
        {"privileged": True},
        {"keep": True},
    ],
)
def test_a_call_that_does_or_could_change_it_has_its_own(options: dict[str, Any]) -> None:
    assert joinable(Spec.parse(image=IMAGE, **options)) is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": -1}, f"pool: must be a number from 0 to {MOST}"),
        ({"size": True}, f"pool: must be a number from 0 to {MOST}"),
        ({"size": "8"}, f"pool: must be a number from 0 to {MOST}"),
        ({"size": MOST + 1}, f"pool: must be a number from 0 to {MOST}"),
        ({"networks": ()}, "pool_networks: no network given"),
        ({"networks": ("host",)}, "pool_networks: 'host' has no namespace that could be made ready"),
        ({"networks": ("none",)}, "pool_networks: 'none' has no namespace that could be made ready"),
        ({"networks": ("container:x",)}, "pool_networks: 'container:x' has no namespace that could be made ready"),
        ({"image": ""}, "pool_image: no image given"),
    ],
)
def test_a_pool_that_cannot_be_is_refused_by_name(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError) as refused:
        planned(**{"size": 1, "networks": ("bridge",), "once": False, "image": IMAGE, **options})
    assert str(refused.value) == message


def test_a_pool_that_cannot_be_makes_no_ledger(ledger: Path) -> None:
    with pytest.raises(UsageError, match=r"^pool: "):
        calls.Runner(ledger, pool=-1)
    assert not ledger.exists()


def test_a_network_may_be_one_word() -> None:
    assert planned(2, "default", once=False, image=IMAGE) == Warm(2, ("bridge",))


# What was counted before the call.


class Steps:
    """A meter that counts to ten at each reading."""

    def __init__(self, *names: str) -> None:
        self.names = names
        self.value = 0
        self.closed = False

    def read(self) -> Sample | None:
        self.value += 10
        return Sample(**dict.fromkeys(self.names, self.value))  # type: ignore[arg-type]

    def close(self) -> None:
        self.closed = True


def test_counters_begin_with_the_call() -> None:
    steps = Steps(*COUNTERS)
    before = steps.read()
    assert before is not None
    meter = MeterSince(steps, before)
    assert [meter.read(), meter.read()] == [Sample(**dict.fromkeys(COUNTERS, value)) for value in (10, 20)]  # type: ignore[arg-type]
    meter.close()
    assert steps.closed


def test_what_is_not_known_stays_unknown() -> None:
    assert since(Sample(cpu_total_ns=5), Sample(net_rx_bytes=5)) == Sample()


def test_of_the_network_alone_the_rest_is_left() -> None:
    found = since(Sample(cpu_total_ns=5, net_rx_bytes=7), Sample(cpu_total_ns=1, net_rx_bytes=2), NETWORK)
    assert found == Sample(cpu_total_ns=5, net_rx_bytes=5)


@pytest.mark.parametrize(("peak", "ours"), [(9, None), (10, None), (11, 11), (None, None)])
def test_the_highest_memory_is_a_calls_own_only_if_it_has_risen(peak: int | None, ours: int | None) -> None:
    assert risen(Sample(mem_peak_bytes=peak), Sample(mem_peak_bytes=10)).mem_peak_bytes == ours


# On an engine.


@pytest.mark.engine
def test_a_call_joins_a_holder_and_it_is_recorded(pooled: Pooled) -> None:
    runner = pooled()
    (holder,) = holders(runner)
    said = bytearray()
    call = runner.run(IMAGE, ["hostname"], output=lambda _, data: said.extend(data))
    assert (call.state, call.exit_code) == ("success", 0)
    assert holder_of(call) == holder["Id"]
    assert said.decode().strip() == holder["Id"][:12]


@pytest.mark.engine
def test_a_holder_is_lent_again(pooled: Pooled) -> None:
    runner = pooled()
    assert len({holder_of(runner.run(IMAGE, ["true"])) for _ in range(3)} - {None}) == 1


@pytest.mark.engine
def test_with_once_each_call_has_another(pooled: Pooled) -> None:
    runner = pooled(pool_once=True)
    first = holder_of(runner.run(IMAGE, ["true"]))
    assert pool_of(runner).ready(LIMIT)
    second = holder_of(runner.run(IMAGE, ["true"]))
    assert None not in (first, second)
    assert first != second
    assert first not in [each["Id"] for each in holders(runner)]


@pytest.mark.engine
def test_a_holder_serves_one_call_at_a_time_and_the_next_makes_its_own_network(pooled: Pooled) -> None:
    runner = pooled()
    futures = [runner.submit(IMAGE, ["sleep", "600"]) for _ in range(2)]
    for future in futures:
        until_kind(future.id, "started")
    runner.cancel_all()
    joined = [holder_of(future.result(LIMIT)) for future in futures]
    assert joined.count(None) == 1


@pytest.mark.engine
def test_the_networks_take_turns(pooled: Pooled, engine: docker.APIClient) -> None:
    name = f"pool-{os.getpid()}"
    engine.create_network(name)
    try:
        runner = pooled(3, pool_networks=("bridge", name))
        assert Counter(each["Labels"][HOLDER] for each in holders(runner)) == {"bridge": 2, name: 1}
        call = runner.run(IMAGE, ["true"], network=name)
        (other,) = (each["Id"] for each in holders(runner) if each["Labels"][HOLDER] == name)
        assert holder_of(call) == other
        runner.close()
    finally:
        engine.remove_network(name)


@pytest.mark.engine
def test_a_call_with_another_network_does_not_join(pooled: Pooled) -> None:
    assert holder_of(pooled().run(IMAGE, ["true"], network="none")) is None


@pytest.mark.engine
def test_a_holder_that_was_killed_is_not_joined_but_replaced(pooled: Pooled, engine: docker.APIClient) -> None:
    runner = pooled()
    (dead,) = holders(runner)
    engine.kill(dead["Id"])
    call = runner.run(IMAGE, ["true"])
    assert (call.state, holder_of(call)) == ("success", None)
    assert pool_of(runner).ready(LIMIT)
    (other,) = holders(runner)
    assert holder_of(runner.run(IMAGE, ["true"])) == other["Id"] != dead["Id"]


@pytest.mark.engine
def test_a_call_that_cannot_be_created_leaves_the_holder_to_the_next(pooled: Pooled) -> None:
    runner = pooled()
    refused = runner.run("localhost:1/nosuch", ["true"], pull="never")
    assert (refused.reason, refused.never_ran) == ("pull-missing", True)
    assert holder_of(runner.run(IMAGE, ["true"])) == holders(runner)[0]["Id"]


@pytest.mark.engine
def test_a_call_that_cannot_be_started_or_is_stopped_leaves_it_too(pooled: Pooled) -> None:
    runner = pooled()
    assert runner.run(IMAGE, ["nosuch"]).reason == "start-not-found"
    assert runner.run(IMAGE, ["sleep", "60"], timeout="200ms", stop_timeout=0).reason == "deadline"
    assert holder_of(runner.run(IMAGE, ["true"])) == holders(runner)[0]["Id"]


@pytest.mark.engine
def test_bytes_of_the_call_before_are_not_counted(pooled: Pooled, ledger: Path) -> None:
    runner = pooled()
    for script in (NOISE, "sleep 3"):
        assert runner.run(IMAGE, ["sh", "-c", script], sample="100ms").state == "success"
    with Reader(ledger) as reader:
        sent = list(reader.query("SELECT call_id, max(net_tx_bytes) FROM sample GROUP BY call_id ORDER BY 1")[1])
    (_, first), (_, second) = sent
    assert first >= 150_000
    assert second < 15_000


@pytest.mark.engine
def test_without_its_image_the_pool_says_so_and_calls_make_their_own_network(ledger: Path) -> None:
    said: list[str] = []
    with calls.Runner(
        ledger, pool=1, pool_image="localhost:1/nosuch", tell=lambda line, _: said.append(line)
    ) as runner:
        until(lambda: said, "a word of the pool")
        call = runner.run(IMAGE, ["true"])
    assert said[0].startswith("warning: the pool has no holder for network bridge, and calls make their own: ")
    assert (call.state, holder_of(call)) == ("success", None)


@pytest.mark.engine
def test_a_runner_that_is_closed_at_once_leaves_none(ledger: Path) -> None:
    with calls.Runner(ledger, pool=2) as runner:
        pass
    assert holders(runner) == []


KILLED = """
import sys, calls
runner = calls.Runner(sys.argv[1], pool=2)
runner.driver("docker").pool.ready(60)
print("ready", flush=True)
input()
"""


@pytest.mark.engine
def test_recovery_removes_the_holders_of_a_runner_that_was_killed_and_not_those_of_one_that_lives(ledger: Path) -> None:
    """It has not begun any call: its lease says that it lives."""
    words = [sys.executable, "-c", KILLED, str(ledger)]
    with (
        subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process,
        calls.Runner(ledger, recover=False) as runner,
    ):
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        try:
            assert list(Recovery(runner).reap(grace=0)) == []
            assert len(holders(runner)) == 2
        finally:
            process.send_signal(signal.SIGKILL)
            process.wait()
            told = list(Recovery(runner).reap())
    assert [each.action for each in told] == ["reaped"] * 2
    assert all((each.detail or "").endswith("of a runner that is gone") for each in told)
    assert holders(runner) == []


@pytest.mark.engine
def test_a_holder_whose_network_is_in_use_is_not_left_over(pooled: Pooled) -> None:
    """A call that goes on without its runner must not lose its network."""
    runner = pooled()
    with closing(Pump()) as pump, closing(DockerDriver(pump, Labels(runner.ledger.id, "another"))) as driver:
        assert [each.uid for each in driver.leftovers()] == [""]
        future = runner.submit(IMAGE, ["sleep", "600"])
        until(lambda: [each.uid for each in driver.leftovers()] == [future.id], "the call in place of its holder")
        runner.kill(future.id)
        future.result()
        assert [each.uid for each in driver.leftovers()] == [""]
