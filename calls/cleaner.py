"""Removes images in the background, by the choice of `cleaning`."""

from __future__ import annotations

import contextlib
import threading
from collections import Counter
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, NamedTuple

from calls.cleaning import Exempt, Image, surplus, title, used_images
from machine.errors import CallsError, DriverError, UsageError
from machine.notation import texts
from machine.units import show_size, size

if TYPE_CHECKING:
    from calls.runner import Runner
    from driver.docker.images import Images
    from driver.docker.stored import Stored

PAUSE = 10.0
"""Seconds between two passes, at least: each reads the whole list of calls."""


class Cleaned(NamedTuple):
    """How many images calls have used, and their bytes, after the last pass: by why they are kept, else `idle`.

    `removed`: how many went, in all passes.
    """

    images: Counter[str]
    bytes: Counter[str]
    removed: int


class Cleaner:
    """Cleans up in the background whenever it is nudged, in a thread of its own."""

    def __init__(self, runner: Runner, limit: str | int, exempt: Iterable[str]) -> None:
        """UsageError for a `limit` that is no size, or a name that is none."""
        try:
            self.limit = size(limit)
        except ValueError as error:
            raise UsageError(f"image_limit: {error}") from None
        try:
            self._exempt = Exempt(texts(exempt))
        except ValueError as error:
            raise UsageError(f"image_exempt: {error}") from None
        self._runner, self._tell = runner, runner.tell
        self.cleaned = Cleaned(Counter(), Counter(), 0)
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
            driver: Any = self._runner.driver("docker")
            images: Images = driver.images
            used = used_images(images.stored(), self._runner.ledger.images(), self._exempt)
            gone = [image for image in surplus(used, self.limit) if self._remove(images, image.stored)]
            self._count([image for image in used if image not in gone], len(gone))
        except CallsError as error:
            self._tell(f"warning: images are not cleaned up: {error}", True)

    def _remove(self, images: Images, image: Stored) -> bool:
        try:
            images.remove(image)
        except DriverError as error:
            self._tell(f"warning: an image stays: {error}", True)
            return False
        self._tell(f"removed image {title(image)} ({show_size(image.size)})", False)
        return True

    def _count(self, left: list[Image], removed: int) -> None:
        numbers, sizes = Counter[str](), Counter[str]()
        for image in left:
            numbers[image.kept or "idle"] += 1
            sizes[image.kept or "idle"] += image.stored.size
        self.cleaned = Cleaned(numbers, sizes, self.cleaned.removed + removed)
