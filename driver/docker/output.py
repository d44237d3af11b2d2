"""The output of one container: attached before its start, or taken over from whoever started it.

A log that the engine follows may end before its last lines are in it (20.10 lost an unfinished last line of 50
containers in 80), and ends with the engine itself: so at its end the log is read once more, from where we were.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from driver.docker.engine import attach, inspect, is_podman, log
from driver.docker.errors import speaking, status
from driver.docker.streams import Attachment, Chunks, early, taker
from driver.protocol import OutputEnded, OutputResumed, Unwatched, Watcher
from driver.scarcity import frugal
from machine.errors import DriverError, UnknownOutcomeError
from machine.states import Reason

if TYPE_CHECKING:
    from driver.docker.driver import DockerDriver

_CATCH_UP = 0.5  # seconds in which an engine that has come back logs what was written meanwhile
_PAUSES = (0.2, 0.5, 1, 2, 5, 10)  # seconds before a log that ended is read again: an engine that restarts
_PIECE = 64 * 1024
_NEVER_TYPED = b",".join([b"\xff"] * 16)
"""In place of Ctrl-P Ctrl-Q, by which an engine lets go of a terminal, and which it holds back meanwhile.

No character of UTF-8 has this byte.
"""


class Output:
    """Connects one container's output with its watcher."""

    def __init__(self, driver: DockerDriver, container: str, watcher: Watcher, *, tty: bool = False) -> None:
        """Not connected yet. `tty`: the process has a terminal."""
        self._driver = driver
        self._client = driver.client
        self._container = container
        self._watcher = watcher
        self._tty = tty
        self._lock = threading.Lock()
        self._attachment: Attachment | None = None
        self._passed: Counter[int] = Counter()  # bytes of each stream
        self._over: int | None = None  # since when no more of it comes
        self._closed = False

    def attach(self, *, interactive: bool = False) -> None:
        """Pass on what it writes from now on, and our standard input to it."""
        params: dict[str, Any] = {"stdin": int(interactive), "stdout": 1, "stderr": 1, "stream": 1}
        if self._tty and interactive:
            params["detachKeys"] = _NEVER_TYPED
        try:
            with speaking(Reason.START_REFUSED):
                raw = attach(self._client, self._container, params)
        except UnknownOutcomeError as error:  # of this request: that nothing was started is known
            raise DriverError(Reason.START_REFUSED, str(error)) from error
        attachment = Attachment(raw, self._pass_on, self._ended, tty=self._tty)
        self._read(attachment, raw)
        if interactive:
            with frugal():
                attachment.feed()

    def again(self) -> bool:
        """Pass on all that it wrote, and what comes; False when the engine has not kept it, and only the latter comes.

        A log keeps lines: an unfinished one comes when it is finished, or with the end. The log driver json-file
        keeps text: a byte that is not UTF-8 comes back as U+FFFD. One that rotates has lost the beginning of a
        very long output.
        """
        try:
            self._read_log()
        except DriverError as error:
            if status(error) not in (404, 409, 501):  # gone, going, or a log driver that cannot be read
                raise
            self._from_now_on()
            return False
        return True

    def resume(self) -> None:
        """After the engine was out of sight: what broke off with it goes on where it did. OutputEnded comes again."""
        if self._over is not None and not self._closed:
            since, self._over = self._over, None
            self._watcher.fact(OutputResumed(time.time_ns(), since))
            self._ended_early(_CATCH_UP)

    def _from_now_on(self) -> None:
        try:
            self.attach()
        except DriverError as error:
            if status(error) not in (404, 409):
                raise
        # An attachment to what has ended waits for ever; of what ends from here on, the end comes by itself.
        if not self._running():
            self.close()
            self._ended()

    def _read_log(self) -> None:
        if not self._running():
            answer = log(self._client, self._container, follow=False)
            with frugal():
                threading.Thread(target=self._read_rest, args=(answer,), name="output-rest", daemon=True).start()
            return
        if is_podman(self._client):  # it answers when something is written
            with frugal():
                threading.Thread(target=self._follow_later, name="output-rest", daemon=True).start()
            return
        self._follow()

    def _follow(self) -> None:
        answer = log(self._client, self._container, follow=True)
        if answer.headers.get("Content-Length") == "0":  # it wrote nothing, and ended
            answer.close()
            return self._ended_early()
        raw = self._client._get_raw_response_socket(answer)  # noqa: SLF001
        follower = Attachment(raw, self._after(self._passed), self._ended_early, Chunks(), tty=self._tty)
        return self._read(follower, raw)

    def _follow_later(self) -> None:
        try:
            self._follow()
        except DriverError as error:
            self._missing(error)

    def _read_rest(self, answer: Any) -> None:
        taken = taker(self._after(self._passed), tty=self._tty)
        try:
            with speaking(Reason.LOST):
                for piece in answer.iter_content(_PIECE):
                    if self._closed:
                        return
                    taken.feed(piece)
        except DriverError as error:
            self._missing(error)
        else:
            self._ended()

    def _ended_early(self, pause: float = 0.02) -> None:
        # Called by the pump, which must not wait for an answer.
        try:
            threading.Thread(target=self._go_on, args=(pause,), name="output-rest", daemon=True).start()
        except RuntimeError as error:  # no thread left
            self._missing(error)

    def _go_on(self, first: float) -> None:
        error: DriverError | None = None
        for pause in (first, *_PAUSES):
            time.sleep(pause)
            try:
                return self._read_log()
            except DriverError as failed:
                error = failed
                if self._closed or status(failed) is not None:
                    break  # that was an answer; else the engine may be on its way back
        return self._missing(error)

    def _missing(self, error: Exception | None) -> None:
        if not self._closed:
            now = time.time_ns()
            self._watcher.fact(Unwatched(now, now, f"the end of the output may be missing: {error}"))
            self._ended()

    def _read(self, attachment: Attachment, raw: Any) -> None:
        with self._lock:
            self._attachment = attachment
        begun = early(raw)
        goes_on = not begun or attachment.take(begun)
        with self._lock, frugal():
            if goes_on and not self._closed:
                self._driver.pump.add(attachment)
            else:
                attachment.close()

    def _running(self) -> bool:
        return inspect(self._client, self._container).status in ("running", "paused")

    def _after(self, passed: Counter[int]) -> Callable[[int, bytes], None]:
        """Pass on what comes after so many bytes of each stream."""
        known = passed.copy()

        def pass_on(stream: int, data: bytes) -> None:
            skipped = min(known[stream], len(data))
            known[stream] -= skipped
            if data := data[skipped:]:
                self._pass_on(stream, data)

        return pass_on

    def _pass_on(self, stream: int, data: bytes) -> None:
        self._passed[stream] += len(data)
        self._watcher.output(stream, data)

    def _ended(self) -> None:
        self._over = time.time_ns()
        self._watcher.fact(OutputEnded(self._over))

    def close(self) -> None:
        """Let go of the connection."""
        with self._lock:
            self._closed = True
            if self._attachment is not None:
                self._driver.pump.drop(self._attachment)
