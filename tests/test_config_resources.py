"""Networks and volumes of calls on a real engine: made when missing, removed when ours, and never anybody else's."""

from __future__ import annotations

import os
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import docker
import pytest
import running
from invariants import invariants
from running import IMAGE, calls, discard, kinds, shown, until

from calls.recover import Recovery
from calls.runner import Runner
from calls.slots import CallFuture
from driver.docker import DockerDriver
from driver.protocol import LABEL, Labels
from driver.pump import Pump
from ledger.ledger import Ledger
from machine.errors import UnknownCallError
from machine.spec import Spec

pytestmark = pytest.mark.engine

Name = Callable[[str], str]


@pytest.fixture(autouse=True)
def nothing_left(engine: docker.APIClient) -> Iterator[None]:
    with running.nothing_left(engine):
        yield


@pytest.fixture
def name(engine: docker.APIClient) -> Iterator[Name]:
    """Names that nobody else has; afterwards there is nothing of them."""
    own = f"test-{os.getpid()}-{uuid.uuid4().hex[:6]}"
    yield lambda what: f"{own}-{what}"
    left = named(engine, own), volumes(engine, own)
    for network in engine.networks(names=[own]):
        engine.remove_network(network["Id"])
    for volume in left[1]:
        engine.remove_volume(volume)
    assert left == ([], [])


def named(engine: docker.APIClient, part: str) -> list[str]:
    """The networks whose names have that part."""
    return sorted(network["Name"] for network in engine.networks(names=[part]))


def volumes(engine: docker.APIClient, part: str) -> list[str]:
    """The volumes whose names have that part."""
    return sorted(volume["Name"] for volume in engine.volumes(filters={"name": part})["Volumes"] or ())


def until_running(*futures: CallFuture) -> None:
    """Wait for their processes."""
    for future in futures:
        until(partial(_runs, future.id), "its start")


def _runs(uid: str) -> bool:
    with suppress(UnknownCallError):  # it is not recorded yet
        return "started" in kinds(uid)
    return False


# Made, and removed.


def test_what_is_missing_is_made_marked_and_removed(runner: Runner, engine: docker.APIClient, name: Name) -> None:
    one, data = name("one"), name("data")
    future = runner.submit(IMAGE, ["sleep", "120"], network=one, volume=[f"{data}:/data"])
    until_running(future)
    labels = {"ledger": runner.ledger.id, "runner": runner.id, "call": future.id}
    wanted = {f"{LABEL}{key}": value for key, value in labels.items()}
    assert engine.inspect_network(one)["Labels"] == engine.inspect_volume(data)["Labels"] == wanted
    assert list(engine.inspect_container(future.id)["NetworkSettings"]["Networks"]) == [one]
    runner.kill(future.id)
    assert future.result().state == "killed"
    assert (named(engine, one), volumes(engine, data)) == ([], [])


def test_what_is_somebody_elses_is_used_and_left_alone(runner: Runner, engine: docker.APIClient, name: Name) -> None:
    one, data = name("one"), name("data")
    engine.create_network(one)
    engine.create_volume(data, labels={f"{LABEL}ledger": "another"})
    mount = f"type=volume,source={data},target=/data"
    write, read = ["sh", "-c", "echo kept >/data/file"], ["cat", "/data/file"]
    assert runner.run(IMAGE, write, network=one, mount=[mount]).state == "success"
    heard: list[bytes] = []
    assert (
        runner.run(IMAGE, read, volume=[f"{data}:/data:ro"], output=lambda _, said: heard.append(said)).state
        == "success"
    )
    assert heard == [b"kept\n"]
    assert (named(engine, one), volumes(engine, data)) == ([one], [data])
    engine.remove_network(one)
    engine.remove_volume(data)


def test_the_last_one_removes_what_several_use(runner: Runner, engine: docker.APIClient, name: Name) -> None:
    one, data = name("one"), name("data")
    options: dict[str, Any] = {"network": one, "volume": [f"{data}:/data"]}
    long = runner.submit(IMAGE, ["sleep", "120"], **options)
    until_running(long)
    assert runner.run(IMAGE, ["touch", "/data/x"], **options).state == "success"
    with Runner(runner.ledger.path) as other:  # which knows nothing of the first one's claims
        assert other.run(IMAGE, ["ls", "/data/x"], **options).state == "success"
    assert (named(engine, one), volumes(engine, data)) == ([one], [data])
    runner.kill(long.id)
    long.result()
    assert (named(engine, one), volumes(engine, data)) == ([], [])


def test_many_at_once_make_one_network(runner: Runner, engine: docker.APIClient, name: Name) -> None:
    one = name("one")
    futures = [runner.submit(IMAGE, ["sleep", "0.2"], network=one) for _ in range(8)]
    assert {future.result().state for future in futures} == {"success"}
    assert named(engine, one) == []


def test_what_is_claimed_by_a_call_that_has_no_container_yet_stays(engine: docker.APIClient, name: Name) -> None:
    labels, pump = Labels("a-ledger", "a-runner"), Pump()
    driver = DockerDriver(pump, labels)
    spec = Spec(image=IMAGE, network=name("one"), volume=(f"{name('data')}:/data",))
    try:
        _, first = driver.resources.provide(spec, labels.of("first"))
        _, second = driver.resources.provide(spec, labels.of("second"))
        driver.resources.release(first)
        assert (named(engine, name("")), volumes(engine, name(""))) == ([name("one")], [name("data")])
        driver.resources.release(second)
        assert (named(engine, name("")), volumes(engine, name(""))) == ([], [])
    finally:
        driver.close()
        pump.close()


def test_what_is_kept_is_kept_with_all_it_has(runner: Runner, engine: docker.APIClient, name: Name) -> None:
    one, data = name("one"), name("data")
    call = runner.run(IMAGE, ["true"], network=one, volume=[f"{data}:/data"], keep=True)
    assert call.state == "success"
    assert (named(engine, one), volumes(engine, data)) == ([one], [data])
    with Runner(runner.ledger.path) as other:  # which knows nothing of what the first one keeps
        assert other.run(IMAGE, ["true"], network=one, volume=[f"{data}:/data"]).state == "success"
    assert (named(engine, one), volumes(engine, data)) == ([one], [data])
    discard(engine, call.id)
    engine.remove_network(one)
    engine.remove_volume(data)


def test_a_refused_create_leaves_nothing(runner: Runner, engine: docker.APIClient, name: Name) -> None:
    one, data = name("one"), name("data")
    call = runner.run(IMAGE, ["true"], network=one, volume=[f"{data}:/data"], log_driver="nosuch")
    assert (call.state, call.reason, call.never_ran) == ("error", "create-refused", True)
    assert (named(engine, one), volumes(engine, data)) == ([], [])


def test_a_network_that_cannot_be_joined_leaves_nothing(runner: Runner, engine: docker.APIClient, name: Name) -> None:
    one = name("one")
    call = runner.run(
        IMAGE,
        ["true"],
        network=[one, "bridge"],
        hostname="x",
        publish=["80"],
        mount=["type=bind,source=/nowhere,target=/x"],
    )
    assert (call.state, call.reason, call.never_ran) == ("error", "create-refused", True)
    assert "/nowhere" in (call.message or "")
    assert named(engine, one) == []


def test_a_network_removed_before_the_start_is_made_again(engine: docker.APIClient, name: Name) -> None:
    from contract import Ear

    from calls.clock import SystemClock
    from driver.protocol import Died

    one, two, pump = name("one"), name("two"), Pump()
    driver, ear = DockerDriver(pump, Labels("a-ledger", "a-runner")), Ear(SystemClock())
    try:
        container = driver.prepare(name("call"), Spec(image=IMAGE, command=("true",), network=f"{one},{two}"), ear)
        engine.remove_network(one)
        engine.remove_network(two)
        container.start()
        assert ear.until(Died).exit_code == 0
        container.remove()
        container.remove()
        assert named(engine, name("")) == []
    finally:
        driver.close()
        pump.close()


# Several networks.


def test_several_networks_and_a_name_in_each(runner: Runner, name: Name, engine: docker.APIClient) -> None:
    one, two = name("one"), name("two")
    server = runner.submit(IMAGE, ["sleep", "120"], network=[one, two], network_alias=["server"])
    until_running(server)
    for network in (one, two):
        assert runner.run(IMAGE, ["nslookup", "server"], network=network).state == "success"
    assert runner.run(IMAGE, ["nslookup", "nosuch"], network=one).exit_code == 1
    found = engine.inspect_container(server.id)["NetworkSettings"]["Networks"]
    assert found.keys() == {one, two}
    assert all("server" in each["Aliases"] for each in found.values())
    runner.kill(server.id)
    server.result()
    assert named(engine, name("")) == []


def test_the_command_line_takes_several_too(name: Name) -> None:
    words = ["--network", name("one"), "--network", name("two")]
    said = calls("run", *words, IMAGE, "sh", "-c", "ls /sys/class/net | grep -c eth")
    assert said == (0, b"2\n", b"")
    assert shown()["spec"]["network"] == f"{name('one')},{name('two')}"


def test_the_least_used_network_of_a_set(runner: Runner, engine: docker.APIClient, name: Name) -> None:
    """Whoever uses them: here three of ours, another runner's, and a container that is nobody's call."""
    every = [name("one"), name("two"), name("three")]
    other = engine.create_network(every[0])["Id"]
    host = engine.create_host_config(network_mode=every[0])
    strange = engine.create_container(IMAGE, ["sleep", "120"], host_config=host)["Id"]
    futures = [runner.submit(IMAGE, ["sleep", "120"], network_of=every) for _ in range(2)]
    until_running(*futures)
    with Runner(runner.ledger.path) as second:
        futures.append(second.submit(IMAGE, ["sleep", "120"], network_of=every))
        until_running(futures[2])
        assert Counter(shown(future.id)["network"] for future in futures) == dict.fromkeys(every, 1) | {every[0]: 1}
        second.kill(futures[2].id)
    joined = [event["data"]["network"] for event in running.events(futures[0].id) if event["kind"] == "prepared"]
    assert joined == [shown(futures[0].id)["network"]]
    for future in futures[:2]:
        runner.kill(future.id)
        future.result()
    engine.remove_container(strange, force=True)
    assert named(engine, name("")) == [every[0]]
    engine.remove_network(other)


# After a crash.


@pytest.mark.parametrize("point", ["prepared.begun", "prepared.durable", "started.durable", "succeeded.durable"])
def test_what_a_dead_runner_made_is_removed_with_its_container(
    point: str, engine: docker.APIClient, name: Name
) -> None:
    words = ("--network-of", name("one"), "-v", f"{name('data')}:/data", IMAGE, "sleep", "1")
    assert calls("run", *words, CALLS_FAILPOINT=f"{point}:kill9").status == 125
    until(lambda: (calls("recover"), kinds()[-1] == "cleaned")[1], "its last word")
    assert (named(engine, name("")), volumes(engine, name(""))) == ([], [])


def test_what_is_left_of_calls_that_are_over_is_reaped(runner: Runner, engine: docker.APIClient, name: Name) -> None:
    ended = runner.run(IMAGE, ["true"], network="none")
    live = runner.submit(IMAGE, ["sleep", "120"], network="none")
    until_running(live)
    marks = {"ended": (runner.ledger.id, ended.id), "live": (runner.ledger.id, live.id), "other": ("another", ended.id)}
    for what, (ledger, call) in marks.items():
        labels = {f"{LABEL}ledger": ledger, f"{LABEL}call": call, f"{LABEL}runner": runner.id}
        engine.create_network(name(what), labels=labels)
        engine.create_volume(name(what), labels=labels)
    with Runner(runner.ledger.path, recover=False) as second:
        assert list(Recovery(second).reap()) == []  # they are young
        (told,) = list(Recovery(second, dry_run=True).reap(0))
        assert (told.action, told.id, told.detail) == ("reaped", ended.id, "networks or volumes, of no open call")
        assert name("ended") in named(engine, name(""))
        (told,) = list(Recovery(second).reap(0))
        assert told.id == ended.id
        assert list(Recovery(second).reap(0)) == []
    assert named(engine, name("")) == volumes(engine, name("")) == [name("live"), name("other")]
    assert kinds(ended.id)[-2:] == ["cleaned", "cleaned"]
    runner.kill(live.id)
    live.result()
    for what in ("live", "other"):
        engine.remove_network(name(what))
        engine.remove_volume(name(what))


def test_what_a_call_still_uses_is_not_reaped(runner: Runner, engine: docker.APIClient, name: Name) -> None:
    ended = runner.run(IMAGE, ["true"], network="none")
    labels = {f"{LABEL}ledger": runner.ledger.id, f"{LABEL}call": ended.id}
    engine.create_network(name("one"), labels=labels)
    live = runner.submit(IMAGE, ["sleep", "120"], network=name("one"))
    until_running(live)
    with Runner(runner.ledger.path, recover=False) as second:
        (told,) = list(Recovery(second).reap(0))
    assert (told.action, "has active endpoints" in (told.detail or "")) == ("left", True)
    runner.kill(live.id)
    live.result()
    assert named(engine, name("")) == []


def test_a_hot_containers_network_goes_with_the_runner(ledger: Path, engine: docker.APIClient, name: Name) -> None:
    with Runner(ledger) as runner:
        assert runner.run(IMAGE, ["true"], network=name("one"), hot=True).state == "success"
        assert named(engine, name("one")) == [name("one")]
    assert named(engine, name("one")) == []


def test_the_record_of_all_this_is_sound(runner: Runner, name: Name) -> None:
    assert runner.run(IMAGE, ["true"], network_of=[name("one")], publish=["80"]).state == "success"
    invariants(runner.ledger.path)
    with Ledger(runner.ledger.path) as written:
        assert written.id == runner.ledger.id
