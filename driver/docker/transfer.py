"""One transfer of an image, in a thread of its own: the engine's pull, tried again while what fails is temporary."""

from __future__ import annotations

import re
import threading
import time
from typing import Any, NamedTuple

import docker
from docker.types import CancellableStream

from driver.docker.auth import Credentials
from driver.docker.errors import pull_reason, speaking
from driver.docker.stats import documents
from driver.docker.unending import BROKEN
from machine.errors import DriverError, UnknownOutcomeError
from machine.reference import Reference
from machine.secrets import Redactor
from machine.states import Reason
from machine.units import show_size

ATTEMPTS = 5
"""How often a transfer is tried in all."""
BACKOFF, LONGEST_BACKOFF = 0.25, 4.0
"""Seconds before the second attempt, doubled before each further one."""
_HEAD_SECONDS = 600  # for the engine's first word; whoever waits has less patience, or gives up
_LONGEST = 400  # characters of the engine's words: some registries answer with a page of HTML
_BAR = 24
_FINAL = frozenset((Reason.PULL_DENIED, Reason.PULL_MISSING, Reason.RESOURCES, Reason.ENGINE_UNAVAILABLE))
_TEMPORARY = re.compile(
    r"connection refused|connection reset|broken pipe|TLS handshake timeout|\bEOF\b|toomanyrequests|"
    r"HTTP (?:status:? |response status:? )?(?:5\d\d|429)|\b(?:500 Internal|502 Bad|503 Service|504 Gateway)|"
    r"server misbehaving|temporary failure",
    re.IGNORECASE,
)


class Came(NamedTuple):
    """How far it has come: bytes, those known of in all (None: nothing is known yet), and one line for a person."""

    current: int
    total: int | None
    text: str


class Layers:
    """What the engine says of the layers of one image, added up."""

    def __init__(self) -> None:
        """Nothing was said yet."""
        self._layers: dict[str, tuple[int, int]] = {}
        self._status = ""

    def hear(self, line: dict[str, Any]) -> None:
        """One line of a pull."""
        layer, self._status = str(line.get("id") or ""), str(line.get("status") or "")
        detail = line.get("progressDetail")
        current, total = (detail.get("current"), detail.get("total")) if isinstance(detail, dict) else (None, None)
        if self._status == "Downloading" and isinstance(current, int) and isinstance(total, int):
            self._layers[layer] = current, max(current, total)
        elif layer in self._layers and self._status != "Downloading":
            size = self._layers[layer][1]
            self._layers[layer] = size, size

    def came(self) -> Came:
        """The sum."""
        current = sum(current for current, _ in self._layers.values())
        total = sum(total for _, total in self._layers.values())
        if not total:
            return Came(0, None, self._status)
        full = _BAR * current // total
        rest = f", {self._status.lower()}" if current == total else ""
        bar = "#" * full + "-" * (_BAR - full)
        return Came(current, total, f"[{bar}] {show_size(current)} of {show_size(total)}{rest}")


class Transfer:
    """Under way from `run` until `done`. `changed` is notified of everything that is new."""

    def __init__(self, reference: Reference, credentials: Credentials, platform: str | None) -> None:
        """Nothing is asked for before `run`."""
        self.waiting = 0  # how many wait for it; theirs to count
        self.changed = threading.Condition()
        self.done = False
        self.error: Exception | None = None
        self.came = Came(0, None, "")
        self.heard = time.monotonic()
        """When the engine last said something."""
        self._reference = reference
        self._credentials = credentials
        self._params = {"fromImage": reference.repository, "tag": reference.version}
        if platform:
            self._params["platform"] = platform
        self._stream: CancellableStream | None = None
        self._abandoned = threading.Event()

    def run(self, client: docker.APIClient) -> None:
        """Carry it out to its end, good or bad. For a thread of its own."""
        from tenacity import Retrying, retry_if_exception, sleep_using_event, stop_after_attempt, stop_when_event_set
        from tenacity.wait import wait_exponential

        attempts = Retrying(
            retry=retry_if_exception(_is_temporary),
            stop=stop_after_attempt(ATTEMPTS) | stop_when_event_set(self._abandoned),
            wait=wait_exponential(multiplier=BACKOFF, max=LONGEST_BACKOFF),
            sleep=sleep_using_event(self._abandoned),
            before_sleep=self._before_sleep,
            reraise=True,
        )
        try:
            attempts(self._attempt, client)
        except Exception as error:  # noqa: BLE001 - handed to those who wait
            self.error = error

    def end(self) -> None:
        """Wake those who wait: it is done."""
        with self.changed:
            self.done = True
            self.changed.notify_all()

    def abandon(self) -> None:
        """Nobody waits any more: the engine stops when we hang up. Returns at once."""
        self._abandoned.set()
        with self.changed:
            stream, self._stream = self._stream, None
        _hang_up(stream)

    def _attempt(self, client: docker.APIClient) -> None:
        try:
            with speaking(Reason.PULL_FAILED):
                self._pull(client)
        except UnknownOutcomeError as error:
            raise UnknownOutcomeError(error.reason, self._clean(str(error))) from error
        except DriverError as error:
            raise DriverError(error.reason, self._said(error.reason, str(error))) from error

    def _pull(self, client: docker.APIClient) -> None:
        answer = client._post(  # noqa: SLF001 - docker-py would look for credentials by itself, and has one timeout
            client._url("/images/create"),  # noqa: SLF001
            params=self._params,
            headers=self._credentials.header,
            stream=True,
            timeout=_HEAD_SECONDS,
        )
        try:
            client._raise_for_status(answer)  # noqa: SLF001
            client._disable_socket_timeout(client._get_raw_response_socket(answer))  # noqa: SLF001
            stream = CancellableStream(None, answer)
            with self.changed:
                self._stream = stream
            if self._abandoned.is_set():
                return
            self._listen(answer)
        finally:
            with self.changed:
                self._stream = None
            answer.close()

    def _listen(self, answer: Any) -> None:
        layers = Layers()
        for line in documents(answer.iter_content(chunk_size=None), lambda _: None):
            if "error" in line:
                message = " ".join(str(line["error"]).split())
                raise DriverError(pull_reason(message), message)
            layers.hear(line)
            self._tell(layers.came())

    def _tell(self, came: Came, silence: float = 0) -> None:
        """`silence`: seconds in which nothing can be heard now, and that is nobody's fault."""
        with self.changed:
            self.came = came
            self.heard = time.monotonic() + silence
            self.changed.notify_all()

    def _before_sleep(self, state: Any) -> None:
        seconds = state.next_action.sleep
        text = f"{state.outcome.exception()}; trying again ({state.attempt_number + 1} of {ATTEMPTS})"
        self._tell(Came(0, None, text), seconds)

    def _said(self, reason: Reason, message: str) -> str:
        if reason is Reason.PULL_DENIED:
            source = self._credentials.source
            used = f"with the credentials from {source}" if source else f"no credentials for {self._reference.host}"
            message = f"{message} ({used})"
        return self._clean(message)

    def _clean(self, message: str) -> str:
        clean = Redactor(self._credentials.secrets).text(message)
        return clean if len(clean) <= _LONGEST else f"{clean[:_LONGEST]}…"


def _is_temporary(error: BaseException) -> bool:
    """Whether the same may go well in a moment: never what the registry has refused."""
    if not isinstance(error, DriverError) or error.reason in _FINAL:
        return False
    return isinstance(error, UnknownOutcomeError) or _TEMPORARY.search(str(error)) is not None


def _hang_up(stream: CancellableStream | None) -> None:
    if stream is not None:
        try:
            stream.close()
        except (*BROKEN, AttributeError):  # it has ended meanwhile
            return
