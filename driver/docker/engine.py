"""One Docker Engine: the connection, and the requests that calls need, with our errors."""

from __future__ import annotations

import json
import os
import re
from datetime import datetime
from typing import Any, Literal

import docker
import docker.errors
from docker.context import ContextAPI
from docker.context.config import get_current_context_name
from docker.utils import version_lt
from requests.utils import get_environ_proxies

from driver.docker.door import Measure, attend
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
_REAL_TIME = re.compile(r"(?:SIG)?(RTMIN|RTMAX)([+-]\d+)?")  # as the images of systemd have it
_REAL_TIME_BASE = {"RTMIN": 34, "RTMAX": 64}  # the engine's numbers
_HEALTH_DEFAULTS = (("Interval", 30), ("Timeout", 30), ("Retries", 3), ("StartPeriod", 0))


def connect(measure: Measure = lambda *_: None) -> docker.APIClient:
    """The engine of DOCKER_HOST, the current docker context or the default socket. DriverError without one.

    `measure` is told of every request.
    """
    try:
        client = _configured()
        if is_local(client):
            client.trust_env = False  # else each request looks through our environment for proxies
            path = client.get_adapter(client.base_url).socket_path
            client.mount(client.base_url, OnePool(path, _TIMEOUT, max_pool_size=_POOL))
        elif isinstance(client.verify, str):  # else REQUESTS_CA_BUNDLE, where it is set, would take its place
            client.proxies = get_environ_proxies(client.base_url)
            client.trust_env = False
        attend(client, measure)
        # What `version="auto"` does costs the engine 12 ms (it runs runc to ask for its version); a ping 1 ms.
        ping = client.get(client.base_url + "/_ping", timeout=_TIMEOUT)
        client._version = _spoken(ping.headers.get("Api-Version", _OLDEST_API))  # noqa: SLF001
        client.podman = "Libpod-Api-Version" in ping.headers
        return client
    except (docker.errors.DockerException, OSError, ValueError) as error:
        # (requests' errors are OSErrors)
        if (missing := shortage(root_of(error))) is not None:
            raise DriverError(Reason.RESOURCES, missing) from error
        if isinstance(error, docker.errors.InvalidConfigFile | ValueError):  # docker-py reads all of it at once
            from driver.docker.auth import fault

            if found := fault():
                raise DriverError(Reason.ENGINE_UNAVAILABLE, found) from error
        where = os.environ.get("DOCKER_HOST") or "the current docker context or unix:///var/run/docker.sock"
        raise DriverError(
            Reason.ENGINE_UNAVAILABLE,
            f"no Docker Engine at {where} ({_cause(error)}). Start it, set DOCKER_HOST, "
            "or run a command of this host with: calls run --driver local -- CMD",
        ) from error


def _configured() -> docker.APIClient:
    try:
        _check_context()
        client = docker.from_env(version=_OLDEST_API, max_pool_size=_POOL, timeout=_TIMEOUT).api
        dict(client._general_configs.get("HttpHeaders", {}))  # noqa: SLF001 - sent along with each request
        if client.base_url.startswith("npipe:"):
            raise docker.errors.DockerException("named pipes are for Windows")
    except (AttributeError, TypeError) as error:  # it does not look what the file has where it wants an object
        raise docker.errors.InvalidConfigFile(f"Docker's configuration file cannot be used: {error}") from error
    return client


def _check_context() -> None:
    """A context that is not there is an error: docker-py would take the default socket in its place."""
    if os.environ.get("DOCKER_HOST"):
        return
    name = os.environ.get("DOCKER_CONTEXT") or get_current_context_name() or "default"
    if ContextAPI.get_context(name) is None:
        message = f"there is no docker context named {name} (docker context ls names them)"
        raise DriverError(Reason.ENGINE_UNAVAILABLE, message)


def _spoken(version: str) -> str:
    """The version of the engine's API, which is new enough."""
    if version_lt(version, _OLDEST_API):
        message = (
            f"the Docker Engine speaks version {version} of its API, and {_OLDEST_API} is the least (Docker 19.03)"
        )
        raise DriverError(Reason.ENGINE_UNAVAILABLE, message)
    return version


def _cause(error: BaseException) -> str:
    text = plain(error).removeprefix("Error while fetching server API version: ")
    for cause in ("No such file or directory", "Connection refused", "Permission denied", "timed out"):
        if cause in text:
            return cause.lower()
    return text


def is_local(client: docker.APIClient) -> bool:
    """Whether the engine is reached by a socket file: then it is, as a rule, on this very host."""
    return str(client.base_url).startswith("http+docker://localhost")


def is_podman(client: docker.APIClient) -> bool:
    """Whether it is Podman that speaks the engine's language. What is different then: docs/drivers.md."""
    return bool(getattr(client, "podman", False))


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


def attach(client: docker.APIClient, container: str, params: dict[str, Any]) -> Any:
    """A connection to its output, and with `stdin` to its input: the socket, or what stands for it."""
    url, upgrade = client._url("/containers/{0}/attach", container), {"Connection": "Upgrade", "Upgrade": "tcp"}  # noqa: SLF001
    params = client._attach_params(params)  # noqa: SLF001
    answer = client._post(url, params=params, stream=True, headers=upgrade, timeout=_TIMEOUT)  # noqa: SLF001
    return client._get_raw_response_socket(answer)  # noqa: SLF001


def inspect(client: docker.APIClient, container: str) -> Observation:
    """The container as the engine knows it; status `gone` when it does not."""
    found = look(client, container)
    return Observation("gone") if found is None else observation(found)


def kill(client: docker.APIClient, container: str, signal: int) -> None:
    """Send a signal."""
    with speaking(Reason.ENGINE_LOST):
        url = client._url("/containers/{0}/kill", container)  # noqa: SLF001
        client._raise_for_status(client._post(url, params={"signal": signal}, timeout=_PROMPT))  # noqa: SLF001


def remove(client: docker.APIClient, container: str) -> None:
    """Remove it with all that runs in it, and with its anonymous volumes. Gone already is fine, and so is going."""
    try:
        with speaking(Reason.ENGINE_LOST):
            client.remove_container(container, v=True, force=True)
    except DriverError as error:
        if status(error) not in (404, 409):
            raise


def freeze(client: docker.APIClient, container: str) -> None:
    """Pause it."""
    _order(client, container, "pause")


def thaw(client: docker.APIClient, container: str) -> None:
    """Let it go on."""
    _order(client, container, "unpause")


def _order(client: docker.APIClient, container: str, what: str) -> None:
    with speaking(Reason.ENGINE_LOST):
        url = client._url("/containers/{0}/{1}", container, what)  # noqa: SLF001
        client._raise_for_status(client._post(url, timeout=_PROMPT))  # noqa: SLF001


def past_events(client: docker.APIClient, filters: dict[str, Any], since: int, until: int) -> list[dict[str, Any]]:
    """What the engine remembers (the last 256 events, of all that it does) between two instants (ns)."""
    with speaking(Reason.LOST):
        params = {"since": stamp(since), "filters": docker.utils.convert_filters(filters)}
        # Podman 4.3 has nothing to tell of before an `until` that is over, but knows how to end without one.
        params |= {"stream": "false"} if is_podman(client) else {"until": stamp(until)}
        answer = client._get(client._url("/events"), params=params, timeout=_PROMPT)  # noqa: SLF001
        client._raise_for_status(answer)  # noqa: SLF001
        events = [json.loads(line) for line in answer.content.splitlines() if line.strip()]
        return [event for event in events if event["timeNano"] >= since]  # Podman tells of some that were before


def log(client: docker.APIClient, container: str, *, follow: bool) -> Any:
    """The output that the engine has kept, and if we `follow` it what comes: the answer, not read yet.

    That of Podman comes with the first output, which may take for ever.
    """
    with speaking(Reason.LOST):
        params = {"follow": int(follow), "stdout": 1, "stderr": 1}
        url, patience = client._url("/containers/{0}/logs", container), None if is_podman(client) else _TIMEOUT  # noqa: SLF001
        answer = client._get(url, params=params, stream=True, timeout=patience)  # noqa: SLF001
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
        health=health.get("Status") or None,
        health_output=probes[-1].get("Output") or None,
        pid=state.get("Pid") or None,
        ports=_ports((found.get("NetworkSettings") or {}).get("Ports") or {}),
    )


def _ports(found: dict[str, list[dict[str, str]] | None]) -> dict[str, tuple[str, ...]] | None:
    """`{"80/tcp": [{"HostIp": "::", "HostPort": "49153"}]}` as `{"80/tcp": ("[::]:49153",)}`."""
    published = {port: tuple(_address(**where) for where in places) for port, places in found.items() if places}
    return published or None


def _address(HostIp: str, HostPort: str) -> str:  # noqa: N803 - the engine's names
    return f"[{HostIp}]:{HostPort}" if ":" in HostIp else f"{HostIp}:{HostPort}"


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


def environment(found: dict[str, Any]) -> dict[str, str]:
    """The environment in an inspect answer: the image's, and what was asked for."""
    return dict(entry.split("=", 1) for entry in found["Config"].get("Env") or () if "=" in entry)


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
