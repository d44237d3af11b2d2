"""What could not be written, in its order: samples and output are held here, events are safe in the spool as well."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from ledger.append import EventIn, SampleIn
from ledger.queue import Item, Posted
from ledger.spool import Spool
from ledger.sqlite import scalar, sqlite3
from machine.facts import Gap, Unseen
from machine.states import Kind

Refuse = Callable[[Posted, Exception], None]
"""Tells whoever waits for an event that it could not be kept."""
_BEGINS = (Kind.SUBMITTED, Kind.ADOPTED)


class Backlog:
    """For the thread that writes. With a spool from the first event of a runner on; `close` it."""

    def __init__(self, path: Path, runner: str | None) -> None:
        """`path`: the ledger's. Without a `runner` there is no spool, and no event can be kept."""
        self._path = path
        self._runner = runner
        self._calls: dict[int, str] = {}
        self.spool: Spool | None = None
        self.items: list[Item] = []

    def reserve(self, connection: sqlite3.Connection) -> None:
        """Make the spool. OSError when there is no room for it."""
        if self.spool is None and self._runner is not None:
            ledger = scalar(connection, "SELECT value FROM meta WHERE key = 'ledger'")
            self.spool = Spool(self._path, ledger, self._runner)

    def own(self, event: EventIn, call_id: int, connection: sqlite3.Connection) -> None:
        """This event is written: if the call is this runner's from now on, its events can be kept."""
        if event.kind in _BEGINS and self.spool is not None:
            self._calls[call_id] = event.uid or str(scalar(connection, "SELECT uid FROM call WHERE id = ?", call_id))

    def forget(self, call_id: int) -> None:
        """The call is over."""
        self._calls.pop(call_id, None)

    def takes(self, item: Item) -> bool:
        """Whether the item can wait: what is new, or not by the call's own runner, cannot."""
        if not isinstance(item, Posted):
            return True
        event = item.event
        return event.owner is not None and event.call_id in self._calls and event.kind not in _BEGINS

    def hold(self, items: Iterable[Item], fault: Exception, refuse: Refuse) -> None:
        """Keep what can wait; whoever waits for an event is told."""
        for item in items:
            if not isinstance(item, Posted):
                self.items.append(item)
            elif error := self._keep(item, fault):
                refuse(item, error)
            else:
                self.items.append(item)
                item.written.set_result(item.event.call_id or 0)

    def _keep(self, posted: Posted, fault: Exception) -> Exception | None:
        if self.spool is None or not self.takes(posted):
            return fault
        try:
            self.spool.write(posted.event._replace(uid=self._calls[posted.event.call_id or 0]))
        except Exception as error:  # noqa: BLE001 - nothing is left to try
            return error
        return None

    def clear(self) -> None:
        """All of it is written."""
        self.items = []
        if self.spool is not None and not self.spool.empty:
            self.spool.clear()

    def leave(self) -> None:
        """The end, and nothing could be written: say in the spool what else is missing, for its next reader."""
        if self.spool is None:
            return
        for gap in self._gaps():
            self.spool.write(gap)
        self.spool.finish()

    def _gaps(self) -> Iterator[EventIn]:
        lost: dict[tuple[int, Unseen], list[tuple[int, int]]] = {}
        for item in self.items:
            if isinstance(item, SampleIn):
                lost.setdefault((item.call_id, "samples"), []).append((item.at, 1))
            elif not isinstance(item, Posted):
                lost.setdefault((item.call_id, "output"), []).append((item.at, len(item.data)))
        why = "the ledger could not be written"
        for (call_id, of), missing in lost.items():
            since, until = missing[0][0], missing[-1][0]
            gap = Gap(of=of, since=since, until=until, why=why, lost=sum(count for _, count in missing))
            uid = self._calls.get(call_id, "")
            yield EventIn(call_id, Kind.GAP, None, until, None, gap.dump(), uid, self._runner)

    def close(self) -> None:
        """Let go of the spool."""
        if self.spool is not None:
            self.spool.close()
