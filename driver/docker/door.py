"""The door through which all requests to an engine go: which operation, what came of it, how long its answer took."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from typing import Any

import docker
import requests.exceptions

Measure = Callable[[str, str, float], None]
"""Takes an operation, its outcome, and the seconds until the answer began. Called from any thread.

Operations are those below, or `other`; an outcome is `ok`, the HTTP status of a refusal (`404`), `timeout`,
`unreachable` or `error`. What is streamed (output, events, pulls) goes on after its answer has begun.
"""

_VERSION = re.compile(r"v\d+\.\d+\Z")
_OPERATIONS = {
    **{f"GET {name}": name for name in ("version", "info", "events")},
    "GET _ping": "ping",
    "GET containers/json": "container_list",
    "POST containers/create": "container_create",
    "GET containers/*/json": "container_inspect",
    **{f"GET containers/*/{name}": f"container_{name}" for name in ("logs", "stats", "top")},
    **{f"POST containers/*/{name}": f"container_{name}" for name in ("attach", "kill", "pause", "start", "unpause")},
    "DELETE containers/*": "container_remove",
    "POST containers/*/exec": "exec_create",
    "POST exec/*/start": "exec_start",
    "GET exec/*/json": "exec_inspect",
    "GET images/json": "image_list",
    "POST images/create": "image_pull",
    "GET images/*/json": "image_inspect",
    "DELETE images/*": "image_remove",
    **{f"GET {kind}s": f"{kind}_list" for kind in ("network", "volume")},
    **{f"GET {kind}s/*": f"{kind}_inspect" for kind in ("network", "volume")},
    **{f"POST {kind}s/create": f"{kind}_create" for kind in ("network", "volume")},
    **{f"DELETE {kind}s/*": f"{kind}_remove" for kind in ("network", "volume")},
    "POST networks/*/connect": "network_connect",
}


def attend(client: docker.APIClient, measure: Measure) -> None:
    """Tell `measure` of every request of this client from now on."""
    send = client.send

    def timed(request: Any, **options: Any) -> Any:
        begun, outcome = time.perf_counter(), "error"
        try:
            answer = send(request, **options)
            outcome = "ok" if answer.status_code < 400 else str(answer.status_code)
            return answer
        except requests.exceptions.Timeout:
            outcome = "timeout"
            raise
        except (requests.exceptions.ConnectionError, OSError):
            outcome = "unreachable"
            raise
        finally:
            measure(operation(request.method, request.path_url), outcome, time.perf_counter() - begun)

    client.send = timed


def operation(method: str, path: str) -> str:
    """What a request asks for, in words of which there are not many: names and ids are not among them."""
    words = path.partition("?")[0].strip("/").split("/")
    if _VERSION.match(words[0]):
        del words[0]
    kind, *rest = words
    shapes = [f"{method} {kind}"] if not rest else [f"{method} {kind}/*"]
    if len(rest) > 1:
        shapes.insert(0, f"{method} {kind}/*/{rest[-1]}")
    elif rest:
        shapes.insert(0, f"{method} {kind}/{rest[0]}")
    return next((_OPERATIONS[shape] for shape in shapes if shape in _OPERATIONS), "other")
