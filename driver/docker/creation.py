"""Creating one container: once, however often the engine has to be asked."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import docker

from driver.docker.engine import look
from driver.docker.errors import speaking, status
from machine.errors import DriverError, UnknownOutcomeError
from machine.states import Reason

_AGAIN = (0.2, 1, 2)
"""How long after a create that was not answered the next one is asked for."""


def create(
    client: docker.APIClient,
    request: dict[str, Any],
    name: str,
    labels: Mapping[str, str],
    platform: str | None,
    given_up: Callable[[], bool],
) -> tuple[str, tuple[str, ...]]:
    """Create a container, or find it created; -> its id and the engine's warnings. DriverError when it is refused.

    It is not asked for again once the call is `given_up`.
    """
    failed: DriverError | None = None
    for seconds in _AGAIN:  # safely: there is one container of a name
        try:
            with speaking(Reason.CREATE_REFUSED):
                answer = client.create_container_from_config(request, name, platform)
                return answer["Id"], tuple(answer.get("Warnings") or ())
        except DriverError as error:
            # Of two networks of one name, made at once, the later one is just being removed.
            taken = status(error) == 409 or "is ambiguous" in str(error)
            unknown = isinstance(error, UnknownOutcomeError)
            if not (taken or unknown) and (status(error) or 0) < 500:
                raise
            if (found := _adopted(client, name, labels)) is not None:
                return found, ()
            if not (taken or unknown):
                raise
            failed = error
        if given_up():
            break
        time.sleep(seconds)
    raise failed or DriverError(Reason.CREATE_REFUSED, "the engine does not create it")


def _adopted(client: docker.APIClient, name: str, labels: Mapping[str, str]) -> str | None:
    """The container of that name, if it is there and can be seen; a namesake of others is an error."""
    try:
        found = look(client, name)
    except UnknownOutcomeError:
        return None
    if found is None:
        return None
    if not labels.items() <= (found["Config"].get("Labels") or {}).items():
        raise DriverError(Reason.CREATE_REFUSED, f"a container named {name} exists and is not this call's")
    return str(found["Id"])
