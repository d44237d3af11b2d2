"""What a pool of warm networks is to be."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from machine.errors import UsageError
from machine.notation import texts

MOST = 256


class Warm(NamedTuple):
    """How many holders a pool has, of which networks (in turn), from which image; `once`: each serves one call only."""

    size: int
    networks: tuple[str, ...] = ("bridge",)
    once: bool = False
    image: str = "busybox"


def planned(size: int, networks: Iterable[str], *, once: bool, image: str) -> Warm:
    """What was asked of a runner by its keywords; UsageError names the one that is wrong."""
    if isinstance(size, bool) or not isinstance(size, int) or not 1 <= size <= MOST:
        raise UsageError(f"pool: must be a number from 0 to {MOST}")
    try:
        wanted = texts(networks)
    except ValueError as error:
        raise UsageError(f"pool_networks: {error}") from None
    if not wanted:
        raise UsageError("pool_networks: no network given")
    for network in wanted:
        if network in ("", "none", "host") or network.startswith("container:"):
            raise UsageError(f"pool_networks: {network!r} has no namespace that could be made ready")
    if not image or not isinstance(image, str):
        raise UsageError("pool_image: no image given")
    return Warm(size, tuple("bridge" if network == "default" else network for network in wanted), once, image)
