"""One Docker Engine: the connection, and the requests that calls need, with our errors."""

from __future__ import annotations

import json
import os
import re
from datetime import datetime
from typing import Any, Literal

import docker
import docker.errors

from driver.docker.errors import plain, root_of, speaking, status
from driver.docker.transport import OnePool
from driver.protocol import HealthCheck, Observation
from driver.scarcity import shortage
from machine.errors import DriverError
from machine.signals import signal_name, signal_number
from machine.states import Reason

_OLDEST_API = "1.40"
_POOL = 64  # idle connections kept
_TIMEOUT = 60  # seconds for one answer; "no answer" then means unknown, never failed
_PROMPT = 10  # the same for what an engine answers at once, or not at all: a conductor waits for it
_NEVER = "0001-"
_STAMP = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.(\d+))?(Z|[+-]\d\d:\d\d)")
_ENDED = ("exited", "dead", "removing")
_REAL_TIME = re.compile(r"SIG(RTMIN|RTMAX)([+-]\d+)?")  # as the images of systemd have it
_REAL_TIME_BASE = {"RTMIN": 34, "RTMAX": 64}  # the engine's numbers
_HEALTH_DEFAULTS = (("Interval", 30), ("Timeout", 30), ("Retries", 3), ("StartPeriod", 0))


def connect() -> docker.APIClient:
    """The engine of DOCKER_HOST, the current docker context or the default socket. DriverError without one."""
    try:
        client = docker.from_env(version=_OLDEST_API, max_pool_size=_POOL, timeout=_TIMEOUT).api
        if is_local(client):
            client.trust_env = False  # else each request looks through our environment for proxies
            client.mount(client.base_url, OnePool(client.get_adapter(client.base_url).socket_path, _TIMEOUT, _POOL))
        # What `version="auto"` does costs the engine 12 ms (it runs runc to ask for its version); a ping 1 ms.
        ping = client.get(client.base_url + "/_ping", timeout=_TIMEOUT)
        client._version = ping.headers.get("Api-Version", _OLDEST_API)  # noqa: SLF001
        return client
    except (docker.errors.DockerException, OSError, ValueError) as error:
        # (requests' errors are OSErrors)
        if (missing := shortage(root_of(error))) is not None:
            raise DriverError(Reason.RESOURCES, missing) from error
        where = os.environ.get("DOCKER_HOST") or "the current docker context or unix:///var/run/docker.sock"
        raise DriverError(
            Reason.ENGINE_UNAVAILABLE,
            f"no Docker Engine at {where} ({_cause(error)}). Start it, set DOCKER_HOST, "
            "or run a command of this host with: calls run --driver local -- CMD",
        ) from error


def _cause(error: BaseException) -> str:
    text = plain(error).removeprefix("Error while fetching server API version: ")
    for cause in ("No such file or directory", "Connection refused", "Permission denied", "timed out"):
        if cause in text:
            return cause.lower()
    return text


def is_local(client: docker.APIClient) -> bool:
    """Whether the engine is reached by a socket file: then it is, as a rule, on this very host."""
    return str(client.base_url).startswith("http+docker://localhost")


# docker-py has one timeout for all requests: what needs its own is asked for one level below.


def look(client: docker.APIClient, container: str) -> dict[str, Any] | None:
    """The engine's record of a container; None when it has none."""
    try:
        with speaking(Reason.LOST):
            answer = client._get(client._url("/containers/{0}/json", container), timeout=_PROMPT)  # noqa: SLF001
            return dict(client._result(answer, json=True))  # noqa: SLF001
    except DriverError as error:
        if status(error) == 404:
            return None
        raise


def inspect(client: docker.APIClient, container: str) -> Observation:
    """The container as the engine knows it; status `gone` when it does not."""
    found = look(client, container)
    return Observation("gone") if found is None else observation(found)


def kill(client: docker.APIClient, container: str, signal: int) -> None:
    """Send a signal."""
    with speaking(Reason.ENGINE_LOST):
        url = client._url("/containers/{0}/kill", container)  # noqa: SLF001
        client._raise_for_status(client._post(url, params={"signal": signal}, timeout=_PROMPT))  # noqa: SLF001


def past_events(client: docker.APIClient, filters: dict[str, Any], since: int, until: int) -> list[dict[str, Any]]:
    """What the engine remembers (the last 256 events, of all that it does) between two instants (ns)."""
    with speaking(Reason.LOST):
        params = {"since": stamp(since), "until": stamp(until), "filters": docker.utils.convert_filters(filters)}
        answer = client._get(client._url("/events"), params=params, timeout=_PROMPT)  # noqa: SLF001
        client._raise_for_status(answer)  # noqa: SLF001
        return [json.loads(line) for line in answer.content.splitlines() if line.strip()]


def log(client: docker.APIClient, container: str, *, follow: bool) -> Any:
    """The output that the engine has kept, and if we `follow` it what comes: the answer, not read yet."""
    with speaking(Reason.LOST):
        params = {"follow": int(follow), "stdout": 1, "stderr": 1}
        answer = client._get(client._url("/containers/{0}/logs", container), params=params, stream=True)  # noqa: SLF001
        client._raise_for_status(answer)  # noqa: SLF001
        return answer


def observation(found: dict[str, Any]) -> Observation:
    """An inspect answer in our words."""
    state = found["State"]
    ended = state["Status"] in _ENDED
    health = state.get("Health") or {}
    probes = health.get("Log") or [{}]
    return Observation(
        status=condition(state["Status"]),
        exit_code=state["ExitCode"] if ended else None,
        started_at=nanoseconds(state.get("StartedAt")),
        finished_at=nanoseconds(state.get("FinishedAt")) if ended else None,
        oom_killed=bool(state.get("OOMKilled")),
        error=state.get("Error") or None,
        health=health.get("Status"),
        health_output=(probes[-1].get("Output") or "").strip()[-1024:] or None,
        pid=state.get("Pid") or None,
    )


def condition(status: str) -> Literal["created", "running", "paused", "exited"]:
    """The engine's word for it in ours: one that restarts runs, one that is being removed has ended."""
    if status in _ENDED:
        return "exited"
    return status if status in ("created", "paused") else "running"  # type: ignore[return-value]


def health_check(found: dict[str, Any]) -> HealthCheck | None:
    """The health check in force in an inspect answer; absent ones and `NONE` are None."""
    check = found["Config"].get("Healthcheck") or {}
    if not check.get("Test") or check["Test"][0] == "NONE":
        return None
    interval, timeout, retries, start_period = (
        check.get(name) or default * (1 if name == "Retries" else 10**9) for name, default in _HEALTH_DEFAULTS
    )
    return HealthCheck(interval, timeout, retries, start_period)


def stop_signal(found: dict[str, Any]) -> str:
    """The stop signal in force in an inspect answer, in our words: TERM, or a number (`SIGRTMIN+3` is 37)."""
    name = str(found["Config"].get("StopSignal") or "TERM")
    if match := _REAL_TIME.fullmatch(name):
        return str(_REAL_TIME_BASE[match[1]] + int(match[2] or 0))
    try:
        return signal_name(signal_number(name))
    except ValueError:
        return "TERM"  # a name that only the engine knows: what it does when there is none


def stamp(at: int) -> str:
    """Ns since the epoch as the engine takes them."""
    return f"{at // 10**9}.{at % 10**9:09d}"


def nanoseconds(text: str | None) -> int | None:
    """The engine's time stamp -> ns since the epoch; None for "never" (year 1)."""
    if not text or text.startswith(_NEVER):
        return None
    match = _STAMP.fullmatch(text)
    if match is None:
        return None
    moment = datetime.fromisoformat(match[1] + (match[3] if match[3] != "Z" else "+00:00"))
    return int(moment.timestamp()) * 10**9 + int((match[2] or "").ljust(9, "0")[:9])
