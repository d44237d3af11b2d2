"""The images that the engine has; loading and removing them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from typing import Any, NamedTuple

import docker

from driver.docker.errors import speaking, status
from machine.errors import DriverError
from machine.states import Reason

_LOADED = re.compile(r"Loaded image(?:\(s\))?(?: ID)?: (.+)")  # Docker's words, and Podman's


class Stored(NamedTuple):
    """An image as the engine lists it. `digests`: the names by which registries know it, `NAME@DIGEST`.

    `size` in bytes: layers that several images have are counted in each. `used`: there is a container of it.
    """

    id: str
    names: tuple[str, ...]
    digests: tuple[str, ...]
    size: int
    used: bool


def stored(client: docker.APIClient) -> list[Stored]:
    """All that have a name or are known by one to a registry, or that have neither; not the layers they are made of."""
    with speaking(Reason.ENGINE_UNAVAILABLE):
        found: list[dict[str, Any]] = client.images()
        used = {container["ImageID"] for container in client.containers(all=True)}
    return [
        Stored(image["Id"], _named(image, "RepoTags"), _named(image, "RepoDigests"), image["Size"], image["Id"] in used)
        for image in found
    ]


def load(client: docker.APIClient, tar: Iterable[bytes]) -> tuple[str, ...]:
    """Load what `docker save` has written; -> the names of the images, or the ids of those that have none.

    DriverError in the engine's words when it is nothing of the kind.
    """
    with speaking(Reason.PULL_FAILED):
        # quiet: what it would say meanwhile nobody could hear before all of it is sent.
        url = client._url("/images/load")  # noqa: SLF001
        answer = client._post(url, data=iter(tar), params={"quiet": 1}, timeout=None)  # noqa: SLF001
        client._raise_for_status(answer)  # noqa: SLF001
        said = [json.loads(line) for line in answer.content.splitlines() if line.strip()]
    if refused := next((each["error"] for each in said if "error" in each), None):
        raise DriverError(Reason.PULL_FAILED, " ".join(refused.split()))
    found = (_LOADED.match(each.get("stream", "")) for each in said)
    names = tuple(name for match in found if match for name in match[1].strip().split(","))
    if not names:
        raise DriverError(Reason.PULL_FAILED, "the engine has found no image in it")
    return names


def remove(client: docker.APIClient, image: Stored) -> None:
    """Remove it under all its names. DriverError when the engine refuses: a container or an image needs it."""
    for name in (*image.names, *image.digests, image.id):
        try:
            with speaking(Reason.ENGINE_LOST):
                client.remove_image(name)  # without force: what is in use stays
        except DriverError as error:
            if status(error) != 404:  # else it went with the name before
                raise


def _named(image: dict[str, Any], what: str) -> tuple[str, ...]:
    return tuple(name for name in image.get(what) or () if "<none>" not in name)
