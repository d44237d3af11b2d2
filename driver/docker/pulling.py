"""Fetching images: calls that want the same one at the same time share its transfer."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import docker

from driver.docker.auth import Credentials
from driver.docker.transfer import Came, Transfer
from driver.protocol import Watcher
from driver.scarcity import frugal
from machine.errors import DriverError
from machine.reference import Reference, parse
from machine.states import Reason
from machine.units import SECOND, show_duration

LOOK = 0.1
"""Seconds between two looks whether the call is given up, and between two lines of progress."""
RECORD_SECONDS, RECORD_SHARE = 5.0, 0.25
"""How far apart two records of progress are: so much time, or so great a part of the image."""

_Key = tuple[Reference, Credentials, "str | None"]


class Pulls:
    """The transfers under way on one engine, by image, credentials and platform. Thread-safe."""

    def __init__(self, connect: Callable[[], docker.APIClient]) -> None:
        """`connect` gives the engine's client."""
        self._connect = connect
        self._lock = threading.Lock()
        self._transfers: dict[_Key, Transfer] = {}

    def pull(
        self,
        image: str,
        credentials: Credentials,
        watcher: Watcher,
        *,
        idle: int,
        platform: str | None = None,
    ) -> None:
        """Fetch an image, or wait for whoever fetches it already. DriverError says which way it failed.

        `idle`: for how long the engine may say nothing (ns). When the last one who waits has gone, by that or because
        its call is given up, the transfer is abandoned.
        """
        key = parse(image), credentials, platform
        transfer = self._join(key)
        try:
            _wait(transfer, image, watcher, idle / SECOND)
        finally:
            self._leave(key, transfer)

    def close(self) -> None:
        """Abandon what is under way. Idempotent."""
        with self._lock:
            transfers, self._transfers = self._transfers, {}
        for transfer in transfers.values():
            transfer.abandon()

    def _join(self, key: _Key) -> Transfer:
        client = self._connect()
        with self._lock:
            transfer = self._transfers.get(key)
            if transfer is None:
                transfer = Transfer(*key)
                thread = threading.Thread(
                    target=self._carry_out, args=(key, transfer, client), name="pull", daemon=True
                )
                with frugal():
                    thread.start()
                self._transfers[key] = transfer
            transfer.waiting += 1
            return transfer

    def _leave(self, key: _Key, transfer: Transfer) -> None:
        with self._lock:
            transfer.waiting -= 1
            if transfer.waiting or self._transfers.get(key) is not transfer:
                return
            del self._transfers[key]
        transfer.abandon()

    def _carry_out(self, key: _Key, transfer: Transfer, client: docker.APIClient) -> None:
        try:
            transfer.run(client)
        finally:
            with self._lock:  # first: who comes now wants a transfer that begins now
                if self._transfers.get(key) is transfer:
                    del self._transfers[key]
            transfer.end()


def _wait(transfer: Transfer, image: str, watcher: Watcher, patience: float) -> None:
    reports = _Reports(image, watcher)
    while True:
        with transfer.changed:
            transfer.changed.wait_for(lambda: transfer.done, LOOK)
            done, came, silent = transfer.done, transfer.came, time.monotonic() - transfer.heard
        if done:
            break
        if watcher.given_up():
            raise DriverError(Reason.PULL_FAILED, f"given up pulling {image}")
        if silent > patience:
            spent = show_duration(round(patience * SECOND))
            raise DriverError(Reason.PULL_FAILED, f"pulling {image}: nothing came for {spent}")
        reports.show(came)
    if isinstance(transfer.error, DriverError):  # one of each who waits: a traceback is not shared
        raise type(transfer.error)(transfer.error.reason, str(transfer.error)) from transfer.error
    if transfer.error is not None:
        raise transfer.error


class _Reports:
    """One waiter's reports of progress: lines for a person, and records that are far apart."""

    def __init__(self, image: str, watcher: Watcher) -> None:
        self._name = image
        self._watcher = watcher
        self._shown = ""
        self._recorded, self._recorded_at = 0, time.monotonic()

    def show(self, came: Came) -> None:
        if came.text != self._shown:
            self._shown = came.text
            self._watcher.progress(f"pulling {self._name} {came.text}")
        if came.total is None or not 0 < came.current < came.total:
            return  # the beginning and the end are recorded anyway
        now, more = time.monotonic(), came.current - self._recorded
        if more >= RECORD_SHARE * came.total or (more and now - self._recorded_at >= RECORD_SECONDS):
            self._recorded, self._recorded_at = came.current, now
            self._watcher.pull_progressed(self._name, came.current, came.total)
