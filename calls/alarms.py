"""Things to do at an instant, for one call: by name, so that each can be set again or called off."""

from __future__ import annotations

from collections.abc import Callable


class Alarms:
    """Instants are readings of a monotonic clock, ns."""

    def __init__(self) -> None:
        """No alarm is set."""
        self._set: dict[str, tuple[int, Callable[[], None]]] = {}

    def set(self, name: str, due: int, action: Callable[[], None]) -> None:
        """Do `action` at `due`; takes the place of an alarm of the same name."""
        self._set[name] = due, action

    def clear(self, name: str) -> None:
        """Call it off, if it is set."""
        self._set.pop(name, None)

    def next_due(self) -> int | None:
        """The earliest instant at which there is something to do."""
        return min((due for due, _ in self._set.values()), default=None)

    def ring(self, now: int) -> None:
        """Do, once, what is due by `now`, earliest first."""
        for name, (due, action) in sorted(self._set.items(), key=lambda item: item[1][0]):
            if due <= now and self._set.get(name) == (due, action):
                del self._set[name]
                action()
