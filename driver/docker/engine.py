"""One Docker Engine: the connection, and the requests that calls need, with our errors."""

from __future__ import annotations

import os
import re
from datetime import datetime
from typing import Any

import docker
import docker.errors
from docker.transport import UnixHTTPAdapter

from driver.docker.errors import plain, speaking, status
from driver.protocol import HealthCheck, Observation
from machine.errors import DriverError
from machine.signals import signal_name, signal_number
from machine.states import Reason

_OLDEST_API = "1.40"
_POOL = 64  # idle connections kept
_TIMEOUT = 60  # seconds for one answer; "no answer" then means unknown, never failed
_NEVER = "0001-"
_STAMP = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.(\d+))?(Z|[+-]\d\d:\d\d)")
_REAL_TIME = re.compile(r"SIG(RTMIN|RTMAX)([+-]\d+)?")  # as the images of systemd have it
_REAL_TIME_BASE = {"RTMIN": 34, "RTMAX": 64}  # the engine's numbers
_HEALTH_DEFAULTS = (("Interval", 30), ("Timeout", 30), ("Retries", 3), ("StartPeriod", 0))


class _OnePool(UnixHTTPAdapter):  # type: ignore[misc] # docker-py is untyped
    """One pool of connections for one socket file.

    docker-py makes a pool for every URL, and each call has URLs of its own: no connection would ever be used
    again, and a pool that is dropped while in use ends in an AttributeError (docker-py 7.2, urllib3 2.8).
    """

    def get_connection(self, url: str, proxies: Any = None) -> Any:
        """The pool."""
        del url
        return super().get_connection("http+docker://localhost", proxies)


def connect() -> docker.APIClient:
    """The engine of DOCKER_HOST, the current docker context or the default socket. DriverError without one."""
    try:
        client = docker.from_env(version=_OLDEST_API, max_pool_size=_POOL, timeout=_TIMEOUT).api
        # What `version="auto"` does costs the engine 12 ms (it runs runc to ask for its version); a ping 1 ms.
        ping = client.get(client.base_url + "/_ping", timeout=_TIMEOUT)
        if is_local(client):
            client.trust_env = False  # else each request looks through our environment for proxies
            socket = client.get_adapter(client.base_url)
            client.mount(client.base_url, _OnePool(socket.socket_path, _TIMEOUT, max_pool_size=_POOL))
        client._version = ping.headers.get("Api-Version", _OLDEST_API)  # noqa: SLF001
        return client
    except (docker.errors.DockerException, OSError, ValueError) as error:
        # (requests' errors are OSErrors)
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


def inspect(client: docker.APIClient, container: str) -> Observation:
    """The container as the engine knows it; status `gone` when it does not."""
    try:
        with speaking(Reason.LOST):
            return observation(client.inspect_container(container))
    except DriverError as error:
        if status(error) == 404:
            return Observation("gone")
        raise


def observation(found: dict[str, Any]) -> Observation:
    """An inspect answer in our words."""
    state = found["State"]
    ended = state["Status"] in ("exited", "dead", "removing")
    health = state.get("Health") or {}
    probes = health.get("Log") or [{}]
    return Observation(
        status=state["Status"]
        if state["Status"] in ("created", "running", "paused")
        else "exited"
        if ended
        else "running",
        exit_code=state["ExitCode"] if ended else None,
        started_at=nanoseconds(state.get("StartedAt")),
        finished_at=nanoseconds(state.get("FinishedAt")) if ended else None,
        oom_killed=bool(state.get("OOMKilled")),
        error=state.get("Error") or None,
        health=health.get("Status"),
        health_output=(probes[-1].get("Output") or "").strip()[-1024:] or None,
        pid=state.get("Pid") or None,
    )


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


def nanoseconds(text: str | None) -> int | None:
    """The engine's time stamp -> ns since the epoch; None for "never" (year 1)."""
    if not text or text.startswith(_NEVER):
        return None
    match = _STAMP.fullmatch(text)
    if match is None:
        return None
    moment = datetime.fromisoformat(match[1] + (match[3] if match[3] != "Z" else "+00:00"))
    return int(moment.timestamp()) * 10**9 + int((match[2] or "").ljust(9, "0")[:9])
