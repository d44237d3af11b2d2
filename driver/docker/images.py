"""Which image will run, and fetching it when it is not there, or not the newest."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

import docker
import docker.errors

from driver.docker.errors import speaking, status
from driver.protocol import Watcher
from machine.errors import DriverError, SpecError
from machine.reference import Reference, is_id, parse
from machine.spec import Spec
from machine.states import Reason

if TYPE_CHECKING:  # most calls pull nothing, and need not wait for what pulls
    from driver.docker.auth import Credentials
    from driver.docker.pulling import Pulls
    from driver.docker.stored import Stored


class Images:
    """The images of one engine, as calls want them. Thread-safe."""

    def __init__(self, connect: Callable[[], docker.APIClient]) -> None:
        """`connect` gives the engine's client."""
        self._connect = connect
        self._lock = threading.Lock()
        self._begun: Pulls | None = None
        self._digests: dict[tuple[str | None, str], str] = {}

    def fetch(self, spec: Spec, watcher: Watcher) -> tuple[str, ...]:
        """Fetch the image of `spec`; -> warnings. DriverError says which way it failed.

        Where it fails and the engine has the image, that one serves, unless the newest was asked for at any price.
        """
        image = spec.image or ""
        if is_id(image):
            raise DriverError(Reason.PULL_MISSING, f"no such image: {image} (by its id no registry knows it)")
        begun = time.monotonic()
        try:
            credentials = _credentials(parse(image).host, watcher)
            self._pulls().pull(image, credentials, watcher, idle=spec.pull_idle_timeout, platform=spec.platform)
        except DriverError as error:
            if spec.pull == "always" or watcher.given_up() or not is_here(self._connect(), image, spec.platform):
                raise
            watcher.pulled(image, time.monotonic() - begun, str(error))
            return (f"{image} could not be pulled, and the local image serves: {error}",)
        watcher.pulled(image, time.monotonic() - begun, None)
        return ()

    def _pulls(self) -> Pulls:
        from driver.docker.pulling import Pulls

        with self._lock:
            self._begun = self._begun or Pulls(self._connect)
            return self._begun

    def digest(self, image: str | None, image_id: str) -> str:
        """The digest by which a registry knows the image; else its id.

        If it has several: the one that was asked for, else one of the repository that was asked for.
        """
        key = image, image_id
        if key not in self._digests:
            self._digests[key] = _digest(self._connect(), image, image_id)
        return self._digests[key]

    def stored(self) -> list[Stored]:
        """The images that the engine has."""
        from driver.docker.stored import stored

        return stored(self._connect())

    def load(self, tar: Iterable[bytes]) -> tuple[str, ...]:
        """Load what `docker save` has written; -> names or ids. DriverError when it is nothing of the kind."""
        from driver.docker.stored import load

        return load(self._connect(), tar)

    def remove(self, image: Stored) -> None:
        """Remove one. DriverError when something needs it."""
        from driver.docker.stored import remove

        remove(self._connect(), image)

    def close(self) -> None:
        """Abandon what is being fetched. Idempotent."""
        if self._begun is not None:
            self._begun.close()


def check(spec: Spec) -> None:
    """SpecError when the name of the image cannot be one, or cannot be pulled as asked."""
    image = spec.image
    if image is None:
        raise SpecError("image", "no image given")
    if is_id(image):
        if spec.pull in ("always", "newer"):
            raise SpecError("pull", f"{spec.pull} contradicts an image that is given by its id: no registry knows it")
        return
    try:
        parse(image)
    except ValueError as error:
        raise SpecError("image", str(error)) from None


def is_missing(error: DriverError) -> bool:
    """Whether a refused create means that the image, or its variant, is not there (and not, say, a network)."""
    words = str(error).lower()
    return status(error) == 404 and ("no such image" in words or "the specified platform" in words)


def is_here(client: docker.APIClient, image: str, platform: str | None = None) -> bool:
    """Whether the engine has the image, and for that platform."""
    try:
        with speaking(Reason.PULL_FAILED):
            found = client.inspect_image(image)
    except DriverError as error:
        if status(error) == 404:
            return False
        raise
    own = "/".join(found.get(name) or "" for name in ("Os", "Architecture", "Variant"))
    return platform is None or own.startswith(platform)


def _credentials(host: str, watcher: Watcher) -> Credentials:
    from driver.docker.auth import find, of_call

    given = watcher.credentials(host)
    return find(host) if given is None else of_call(given, host)


def _digest(client: docker.APIClient, image: str | None, image_id: str) -> str:
    try:
        found: list[str] = client.inspect_image(image_id).get("RepoDigests") or []
    except (docker.errors.DockerException, OSError):
        found = []  # a record without the registry's digest is better than no call
    known = [entry for text in found if (entry := _parsed(text)) and entry.digest]
    asked = _parsed(image or "")
    if asked is not None:
        known.sort(key=lambda entry: (entry.digest != asked.digest, not entry.same_repository(asked)))
    return (known[0].digest if known else None) or image_id


def _parsed(text: str) -> Reference | None:
    with contextlib.suppress(ValueError):  # `<none>@<none>`, or an id
        return parse(text)
    return None
