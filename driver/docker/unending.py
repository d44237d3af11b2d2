"""An answer of the engine that goes on and on: events, samples."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import docker
import docker.errors
import requests.exceptions
from docker.types import CancellableStream

BROKEN = (requests.exceptions.RequestException, docker.errors.DockerException, OSError, ValueError)
"""What is raised when there is no answer, or no more of it."""
_HEAD_SECONDS = 60  # an engine that is busy sends the head of a stats stream with its first sample


class Unending:
    """Iterates over pieces as they come. Its head must come in time; after that it may be silent for any time."""

    def __init__(self, client: docker.APIClient, url: str, params: dict[str, Any]) -> None:
        """Asks for it. APIError when it is refused."""
        self._answer = client._get(url, params=params, stream=True, timeout=_HEAD_SECONDS)  # noqa: SLF001
        client._disable_socket_timeout(client._get_raw_response_socket(self._answer))  # noqa: SLF001
        self._pieces = CancellableStream(self._answer.raw.stream(65536, decode_content=False), self._answer)

    def __iter__(self) -> Iterator[bytes]:
        """The pieces. What breaks the connection ends them, as the engine would."""
        return iter(self._pieces)

    def end(self) -> None:
        """End the reading, from another thread: closing alone would wait for the next piece."""
        with contextlib.suppress(*BROKEN, AttributeError):  # ended already
            self._pieces.close()

    def close(self) -> None:
        """Let go of the connection, in the thread that reads."""
        self.end()
        self._answer.close()
