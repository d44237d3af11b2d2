"""Writing output to a stream of ours that may not be ready for it."""

from __future__ import annotations

import os
import select


def write(stream: int, data: memoryview) -> int:
    """Write to a descriptor, 1 or 2 as the engine numbers the streams; -> how much, which may be nothing after a wait.

    OSError when nobody reads it any more.
    """
    try:
        return os.write(stream, data)
    except BlockingIOError:  # a terminal or pipe that somebody, sharing it with us, has made non-blocking
        poll = select.poll()
        poll.register(stream, select.POLLOUT)
        poll.poll()
        return 0
