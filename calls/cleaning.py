"""Which images go for those that calls use to keep within a size: the least recently used first.

Only images that calls of this ledger have used are counted, and of them those are kept that are in use (by a
container, whosever, or by a call that has not ended), that are exempt, or that no registry knows: they could not be
fetched again.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, NamedTuple

from machine.reference import Reference, is_id, parse

if TYPE_CHECKING:
    from driver.docker.stored import Stored
    from ledger.images import Use


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


def title(image: Stored) -> str:
    """An image for a person: its names, else what a registry calls it."""
    return ", ".join(image.names or image.digests) or image.id
