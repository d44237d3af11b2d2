"""Keeping the images that calls use within a size: the least recently used go first.

Only images that calls of this ledger have used are counted, and of them those are kept that are in use (by a
container, whosever, or by a call that has not ended), that are exempt, or that no registry knows: they could not be
fetched again.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, NamedTuple

from machine.errors import CallsError, DriverError, UsageError
from machine.reference import Reference, is_id, parse
from machine.units import show_size, size

if TYPE_CHECKING:
    from driver.docker.images import Images
    from driver.docker.stored import Stored
    from ledger.images import Use

PAUSE = 10.0
"""Seconds between two passes, at least: each reads the whole list of calls."""


class Image(NamedTuple):
    """An image that calls have used. `last` in ns; `kept`: why it is not to be removed, else None."""

    stored: Stored
    calls: int
    last: int
    kept: str | None


class Exempt:
    """Which images are to be kept whatever happens."""

    def __init__(self, given: Iterable[str]) -> None:
        """Ids, names with a tag or a digest, and names without: all images of that name. ValueError for no name."""
        self._ids: set[str] = set()
        self._versions: set[Reference] = set()
        self._repositories: set[tuple[str, str]] = set()
        for text in given:
            if is_id(text):
                self._ids.add(f"sha256:{text.removeprefix('sha256:')}")
                continue
            reference = parse(text)
            if reference == parse(f"{reference.repository}:latest") and not text.endswith(":latest"):
                self._repositories.add(reference[:2])
            else:
                self._versions.add(reference)

    def covers(self, image: Stored) -> bool:
        """Whether an image is one of them."""
        known = [parse(name) for name in (*image.names, *image.digests)]
        return image.id in self._ids or any(
            reference[:2] in self._repositories or self._is_version(reference) for reference in known
        )

    def _is_version(self, known: Reference) -> bool:
        return any(
            known.same_repository(wanted)
            and (known.digest == wanted.digest if wanted.digest else known.tag == wanted.tag)
            for wanted in self._versions
        )


def used_images(stored: Iterable[Stored], uses: Iterable[Use], exempt: Exempt) -> list[Image]:
    """The images that calls have used, least recently used first."""
    by_id: dict[str, list[Use]] = {}
    by_name: dict[str, list[Use]] = {}  # of calls that have not got, or never got, as far as an id
    for use in uses:
        if use.image_id is not None:
            by_id.setdefault(use.image_id, []).append(use)
        elif not is_id(use.image):
            by_name.setdefault(_full(use.image), []).append(use)
    found = []
    for image in stored:
        names = {_full(name) for name in (*image.names, *image.digests)}
        of_it = [*by_id.get(image.id, ()), *(use for name in names for use in by_name.get(name, ()))]
        if of_it:
            live, last = any(use.live for use in of_it), max(use.last for use in of_it)
            found.append(Image(image, sum(use.calls for use in of_it), last, _kept(image, exempt, live=live)))
    return sorted(found, key=lambda image: (image.last, image.stored.id))


def surplus(images: Sequence[Image], limit: int) -> list[Image]:
    """Those that have to go for the rest to take at most `limit` bytes, as far as they may."""
    total, going = sum(image.stored.size for image in images), []
    for image in images:
        if total > limit and image.kept is None:
            going.append(image)
            total -= image.stored.size
    return going


def _full(name: str) -> str:
    try:
        return str(parse(name))
    except ValueError:
        return name  # of another driver, or an id: no image of the engine is called that


def _kept(image: Stored, exempt: Exempt, *, live: bool) -> str | None:
    if image.used or live:
        return "in use"
    if exempt.covers(image):
        return "exempt"
    return None if image.digests else "only here"


class Cleaner:
    """Cleans up in the background whenever it is nudged, in a thread of its own."""

    def __init__(
        self,
        images: Callable[[], Images],
        uses: Callable[[], list[Use]],
        limit: str | int,
        exempt: Iterable[str],
        tell: Callable[[str, bool], None],
    ) -> None:
        """`images` of the engine and their `uses` are asked for at each pass.

        UsageError for a `limit` that is no size, or a name that is none.
        """
        try:
            self._limit = size(limit)
        except ValueError as error:
            raise UsageError(f"image_limit: {error}") from None
        try:
            self._exempt = Exempt((exempt,) if isinstance(exempt, str) else exempt)
        except ValueError as error:
            raise UsageError(f"image_exempt: {error}") from None
        self._images, self._uses, self._tell = images, uses, tell
        self._due = False
        self._wanted, self._closing = threading.Event(), threading.Event()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def nudge(self) -> None:
        """There may be too much now, or something may go that was in use."""
        with self._lock, contextlib.suppress(RuntimeError):  # no thread to be had: the next call nudges again
            if self._thread is None:
                thread = threading.Thread(target=self._work, name="cleaner", daemon=True)
                thread.start()
                self._thread = thread
        self._due = True
        self._wanted.set()

    def close(self) -> None:
        """Do what is still to be done, and end. Idempotent."""
        self._closing.set()
        self._wanted.set()
        with self._lock:
            thread = self._thread
        if thread is not None:
            thread.join()

    def _work(self) -> None:
        while True:
            self._wanted.wait()
            self._wanted.clear()
            if self._due:
                self._due = False
                self._pass()
            if self._closing.is_set():
                return
            self._closing.wait(PAUSE)

    def _pass(self) -> None:
        try:
            images = self._images()
            for image in surplus(used_images(images.stored(), self._uses(), self._exempt), self._limit):
                try:
                    images.remove(image.stored)
                except DriverError as error:
                    self._tell(f"warning: an image stays: {error}", True)
                else:
                    self._tell(f"removed image {title(image.stored)} ({show_size(image.stored.size)})", False)
        except CallsError as error:
            self._tell(f"warning: images are not cleaned up: {error}", True)


def title(image: Stored) -> str:
    """An image for a person: its names, else what a registry calls it."""
    return ", ".join(image.names or image.digests) or image.id
