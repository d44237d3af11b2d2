"""This host ran out of descriptors, threads or memory: an outcome of its own, and one call's, not everybody's."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager

from machine.errors import DriverError
from machine.states import Reason

_SCARCE = {
    errno.EMFILE: "this process has no file descriptors left",
    errno.ENFILE: "this host has no file descriptors left",
    errno.ENOMEM: "this host has no memory left",
    errno.ENOBUFS: "this host has no memory left for connections",
}
UNDONE = frozenset((errno.EMFILE, errno.ENFILE))
"""With these a request was never sent: there was nothing to send it through."""
_NO_THREAD = "can't start new thread"  # all that Python says when the kernel has none to give


def shortage(error: BaseException) -> str | None:
    """What was missing, in words; None when `error` is something else."""
    if isinstance(error, MemoryError):
        return "this process has no memory left"
    if isinstance(error, OSError):
        return _SCARCE.get(error.errno or 0)
    return "this host has no threads left" if _NO_THREAD in str(error) else None


@contextmanager
def frugal() -> Iterator[None]:
    """Around what takes descriptors, threads or memory: DriverError(RESOURCES) when there are none."""
    try:
        yield
    except (MemoryError, OSError, RuntimeError) as error:
        if (missing := shortage(error)) is None:
            raise
        raise DriverError(Reason.RESOURCES, missing) from error
