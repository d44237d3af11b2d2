"""Which image will run, and fetching it when it is not there."""

from __future__ import annotations

import time
from typing import Any

import docker
import docker.errors
from docker.utils import parse_repository_tag

from driver.docker.errors import pull_reason, speaking, status
from driver.protocol import Watcher
from machine.errors import DriverError
from machine.states import Reason


def pull(client: docker.APIClient, image: str, watcher: Watcher) -> None:
    """Fetch `image` with the credentials of ~/.docker/config.json. DriverError says which way it failed."""
    begun = time.monotonic()
    repository, tag = parse_repository_tag(image)
    with speaking(Reason.PULL_FAILED):
        for line in client.pull(repository, tag=tag or "latest", stream=True, decode=True):
            if "error" in line:
                message = " ".join(str(line["error"]).split())
                raise DriverError(pull_reason(message), message)
            watcher.progress(_progress(image, line))
            if watcher.given_up():
                raise DriverError(Reason.PULL_FAILED, f"given up pulling {image}")
    watcher.pulled(image, time.monotonic() - begun, None)


def is_missing(error: DriverError) -> bool:
    """Whether a refused create means that the image is not there (and not, say, a network)."""
    return status(error) == 404 and "no such image" in str(error).lower()


def digest(client: docker.APIClient, image: str | None, image_id: str) -> str:
    """The digest by which a registry knows the image (of the repository asked for, if it has several); else its id."""
    try:
        found: list[str] = client.inspect_image(image_id).get("RepoDigests") or []
    except (docker.errors.DockerException, OSError):
        found = []  # a record without the registry's digest is better than no call
    repository = parse_repository_tag(image or "")[0]
    best = [entry for entry in found if entry.split("@")[0] == repository] or found
    return best[0].split("@", 1)[1] if best else image_id


def _progress(image: str, line: dict[str, Any]) -> str:
    detail = line.get("progressDetail") or {}
    part = f" {100 * detail['current'] // detail['total']}%" if detail.get("total") and detail.get("current") else ""
    return f"pulling {image}: {line.get('id', '')} {line.get('status', '')}{part}".strip()
