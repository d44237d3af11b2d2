"""What the Docker Engine tests of itself and a call relies on, tested here through a driver, on the real engine.

Each is named as the engine's own test; what was tested already, and what is not, stands in `test_swarm.ELSEWHERE`.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import contract
import docker
import pytest
import requests.exceptions
from running import until

from calls.direct import Session
from driver.docker.engine import nanoseconds, past_events
from driver.protocol import STDERR, STDOUT, Died, Execution, HealthStatus
from driver.sampler import Sampler
from machine.samples import Sample
from machine.spec import Spec
from machine.states import Kind
from machine.units import SECOND

pytestmark = pytest.mark.engine

TAKES_ITS_TIME = "trap 'sleep {}; exit 42' TERM; echo up; while :; do sleep 0.02; done"


@pytest.fixture
def real() -> Iterator[contract.Stage]:
    """The docker driver on the real engine; nothing is left."""
    with contract.docker() as stage:
        yield stage


def session(stage: contract.Stage, *command: str, **options: Any) -> Session:
    return Session(stage.driver, Spec.parse(command=command, **{**stage.options, **options}), f"{stage.prefix}swarm")


def upped(call: Session) -> Session:
    """It has started, and written its first word."""
    call.start()
    assert next(call.logs()) == (STDOUT, b"up\n")
    return call


def test_controller_flow_integration(real: contract.Stage) -> None:
    call = session(real, "sh", "-c", "sleep 0.2; echo out; echo err >&2; exit 0")
    heard: list[tuple[int, bytes]] = []
    listener = threading.Thread(target=lambda: heard.extend(call.logs()))
    listener.start()
    assert (call.prepare(), call.start()) == (True, True)
    ended = call.wait()
    assert ended is not None
    assert (ended.state, call.stop().state) == ("success", "success")
    call.remove()
    listener.join(60)
    assert sorted(heard) == [(STDOUT, b"out\n"), (STDERR, b"err\n")]
    call.close()
    call.close()


@pytest.mark.parametrize("code", [0, 99])
def test_wait_non_blocked(real: contract.Stage, engine: docker.APIClient, code: int) -> None:
    call = session(real, "sh", "-c", f"exit {code}")
    call.start()
    until(lambda: engine.inspect_container(call.uid)["State"]["Status"] == "exited", "its end")
    ended = call.wait()
    assert ended is not None
    assert (ended.exit_code, call.wait()) == (code, ended)
    call.remove()


def test_wait_blocked(real: contract.Stage, engine: docker.APIClient) -> None:
    call = upped(session(real, "sh", "-c", "trap 'exit 99' TERM; echo up; while :; do sleep 0.02; done"))
    stopper = threading.Timer(0.2, engine.stop, (call.uid, 50))
    stopper.start()
    ended = call.wait()
    stopper.join()
    assert ended is not None
    assert (ended.state, ended.reason, ended.exit_code) == ("killed", "external", 99)
    call.remove()


@pytest.mark.parametrize(("takes", "grace", "code"), [(600, 0, 137), (600, 0.1, 137), (0.5, 180, 42)])
def test_stop_container_with_timeout(real: contract.Stage, takes: float, grace: float, code: int) -> None:
    call = upped(session(real, "sh", "-c", TAKES_ITS_TIME.format(takes)))
    ended = call.stop(grace)
    assert (ended.state, ended.exit_code) == ("cancelled", code)
    call.remove()


def test_stop_container_with_timeout_cancel(real: contract.Stage, engine: docker.APIClient) -> None:
    """A stop by somebody who has gone away is carried on by the engine; ours is never a request that could be lost."""
    call = upped(session(real, "sh", "-c", "trap '' TERM; echo up; while :; do sleep 0.02; done"))
    with pytest.raises(requests.exceptions.RequestException):
        engine.post(f"{engine.base_url}/v1.40/containers/{call.uid}/stop", params={"t": 2}, timeout=0.5)
    ended = call.wait()
    assert ended is not None
    assert (ended.state, ended.reason, ended.exit_code) == ("killed", "external", 137)
    call.remove()


def test_container_api_post_container_stop(real: contract.Stage, engine: docker.APIClient) -> None:
    """What runs is stopped; what has ended is left alone, and so is what is not there."""
    call = upped(session(real, "sh", "-c", TAKES_ITS_TIME.format(0.5)))
    ended = call.stop(grace=180)
    assert call.stop() == ended
    engine.remove_container(call.uid)
    assert call.stop() == ended
    call.remove()


@pytest.mark.parametrize(("name", "lives"), [("WINCH", True), ("SIGKILL", False), ("9", False)])
def test_kill_container(real: contract.Stage, *, name: str, lives: bool) -> None:
    call = session(real, "sleep", "600")
    call.start()
    call.signal(name)
    if lives:
        assert call.wait(timeout=0.3) is None
        call.terminate()
    ended = call.wait()
    assert ended is not None
    assert (ended.exit_code, ended.signal) == (137, "KILL")
    call.remove()


@pytest.mark.parametrize("name", ["0", "SIG42", "15a", ""])
def test_kill_with_invalid_signal(real: contract.Stage, name: str) -> None:
    call = session(real, "sleep", "600")
    call.start()
    with pytest.raises(ValueError, match="is not a signal"):
        call.signal(name)
    assert call.wait(timeout=0.1) is None
    call.terminate()
    call.remove()


def test_kill_different_user_container(real: contract.Stage) -> None:
    call = session(real, "sleep", "600", user="1:1")
    call.start()
    assert call.terminate().exit_code == 137
    call.remove()


def test_events_container_events(real: contract.Stage, engine: docker.APIClient) -> None:
    call = session(real, "true")
    call.prepare()
    assert call._container is not None
    container = call._container.preparation.container
    call.start()
    call.wait()
    call.remove()
    filters = {"container": container, "type": "container"}
    until(lambda: "destroy" in actions(engine, filters), "its last event")
    assert actions(engine, filters) == ["create", "attach", "start", "die", "destroy"]


def actions(engine: docker.APIClient, filters: dict[str, str]) -> list[str]:
    """What has happened to a container, in order."""
    found = past_events(engine, filters, 1, engine_now(engine))
    return [event["Action"].split(":")[0] for event in found]


def engine_now(engine: docker.APIClient) -> int:
    """Its clock, ns."""
    return nanoseconds(engine.info()["SystemTime"]) or 0


def test_events_exec_die(real: contract.Stage, engine: docker.APIClient) -> None:
    """The end of another command in a container is not its end."""
    ear = real.ear()
    container = real.prepare(contract.STAYS, ear)
    container.start()
    assert container.execute(Execution(("sh", "-c", "exit 3"), {}), lambda *_: None) == 3
    assert container.inspect().status == "running"
    filters = {"container": container.preparation.container}
    until(lambda: actions(engine, filters)[-1:] == ["exec_die"], "the event of its end")
    ear.rest()
    assert ear.facts == []
    container.signal("KILL")
    assert ear.until(Died).exit_code == 137
    container.remove()


def healths(ear: contract.Ear) -> list[str]:
    return [fact.status for fact in ear.facts if isinstance(fact, HealthStatus)]


def checked(stage: contract.Stage, check: str, **options: Any) -> tuple[Any, contract.Ear, Callable[[str], None]]:
    """A container with a health check, what it reports, and a way to do something in it."""
    given = {"health_cmd": check, "health_interval": "50ms", **options}
    ear, spec = stage.ear(), Spec.parse(command=contract.STAYS, **stage.options, **given)
    container = stage.driver.prepare(f"{stage.prefix}health", spec, ear)
    container.start()

    def act(script: str) -> None:
        assert container.execute(Execution(("sh", "-c", script), {}), lambda *_: None) == 0

    return container, ear, act


def test_health_states(real: contract.Stage) -> None:
    container, ear, act = checked(real, "cat /ok", health_retries=3)
    for script, status in (("true", "unhealthy"), ("touch /ok", "healthy"), ("rm /ok", "unhealthy")):
        act(script)
        count = len(healths(ear)) + 1
        while len(healths(ear)) < count:
            ear.hear()
        assert healths(ear)[-1] == status
    assert healths(ear) == ["unhealthy", "healthy", "unhealthy"]
    container.remove()


@pytest.mark.parametrize(
    ("failures", "options"),
    [(2, {"health_retries": 3}), (10, {"health_retries": 1, "health_start_period": "10m"})],
    ids=["retries", "start-period"],
)
def test_health_failures_that_do_not_count(real: contract.Stage, failures: int, options: dict[str, Any]) -> None:
    check = f"echo >> /tries; [ $(wc -l < /tries) -gt {failures} ]"
    container, ear, _ = checked(real, check, **options)
    while not healths(ear):
        ear.hear()
    assert healths(ear) == ["healthy"]
    container.remove()


def test_health_check_process_killed(real: contract.Stage) -> None:
    """A probe that takes too long is a failure, and says so."""
    options = {"health_probe_timeout": "500ms", "health_retries": 1, "stop_timeout": 0, "health_interval": "50ms"}
    call = session(real, *contract.STAYS, health_cmd="sleep 60", **options)
    call.start()
    ended = call.wait()
    assert ended is not None
    assert (ended.state, ended.reason) == ("error", "unhealthy")
    (told,) = [event.data for event in call.events if event.kind is Kind.HEALTH_CHANGED]
    assert "exceeded timeout" in told
    call.remove()


def test_health_kill_container(real: contract.Stage) -> None:
    """After a signal that ends nothing probes go on."""
    container, ear, act = checked(real, "cat /ok", health_retries=10_000)
    container.signal("USR1")
    act("touch /ok")
    while not healths(ear):
        ear.hear()
    assert healths(ear) == ["healthy"]
    container.remove()


def test_stats_container_not_found(real: contract.Stage) -> None:
    container = real.prepare(contract.SUCCEEDS)
    container.remove()
    sampler, samples = Sampler(), list[Sample]()
    container.observe(sampler, SECOND // 10, lambda _, sample: samples.append(sample))
    assert container.totals() is None
    sampler.close()
    assert samples == []
