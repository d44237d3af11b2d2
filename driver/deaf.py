"""A watcher that has nothing to hear."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from driver.protocol import Fact


class Deaf:
    """A `driver.protocol.Watcher` of a container that is no call's, or that was not joined. It gives nothing up."""

    def fact(self, fact: Fact) -> None:
        """See `Watcher`."""

    def output(self, stream: int, data: bytes) -> None:
        """See `Watcher`."""

    def pulled(self, image: str, seconds: float, fallback: str | None) -> None:
        """See `Watcher`."""

    def pull_progressed(self, image: str, current: int, total: int) -> None:
        """See `Watcher`."""

    def credentials(self, registry: str) -> Mapping[str, Any] | None:
        """See `Watcher`: those of the user."""

    def progress(self, text: str) -> None:
        """See `Watcher`."""

    def given_up(self) -> bool:
        """See `Watcher`."""
        return False
