"""docker-py's and requests' errors become ours here, and nowhere else."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

import docker.errors
import requests.exceptions

from driver.scarcity import UNDONE, shortage
from machine.errors import DriverError, UnknownOutcomeError
from machine.states import Reason

_NO_ENGINE = (ConnectionRefusedError, FileNotFoundError, PermissionError, NotADirectoryError)

_PULL = (
    (r"unauthorized|denied|authentication|no basic auth|forbidden|HTTP 40[13]", Reason.PULL_DENIED),
    (
        r"no such host|dial tcp|timeout|connection refused|tls|x509|EOF|unreachable|server gave HTTP",
        Reason.PULL_UNREACHABLE,
    ),
    (r"not found|manifest unknown|name unknown|no such image|does not exist|HTTP 404", Reason.PULL_MISSING),
)
_NAMED = re.compile(r"\"https?://[^\"]*\"|(?<=\bfor )\S+|(?<=\blookup )\S+")  # an image may be called anything
_EXECUTED = r"(exec:|exec user process caused:|executable:?) .*"  # a device, say, may be missing as well
_START = (
    (_EXECUTED + r"(permission denied|is a directory)|exec format error", Reason.START_NOT_EXECUTABLE),
    (_EXECUTED + r"(not found|no such file or directory)", Reason.START_NOT_FOUND),
)


@contextmanager
def speaking(reason: Reason) -> Iterator[None]:
    """Around a request: a refusal becomes DriverError(reason), no answer becomes UnknownOutcomeError.

    Without descriptors or memory for it the reason is RESOURCES, whatever was asked.
    """
    try:
        yield
    except docker.errors.APIError as error:
        raise DriverError(_refined(reason, words(error)), words(error)) from error
    except (requests.exceptions.RequestException, docker.errors.DockerException, OSError, MemoryError) as error:
        root = root_of(error)
        if (missing := shortage(root)) is not None:
            kind = DriverError if getattr(root, "errno", None) in UNDONE else UnknownOutcomeError
            raise kind(Reason.RESOURCES, missing) from error
        if isinstance(root, _NO_ENGINE) or isinstance(error, requests.exceptions.ConnectTimeout):
            raise DriverError(Reason.ENGINE_UNAVAILABLE, f"the Docker Engine does not answer: {plain(root)}") from error
        if isinstance(error, requests.exceptions.RequestException | OSError):
            raise UnknownOutcomeError(reason, f"no answer from the Docker Engine: {plain(root)}") from error
        raise DriverError(reason, plain(error)) from error


def words(error: docker.errors.APIError) -> str:
    """The engine's own words, on one line, without the JSON and HTTP around them."""
    return " ".join(str(error.explanation or error).split())


def status(error: DriverError) -> int | None:
    """The HTTP status of the engine's answer behind one of our errors; None when it was not an answer."""
    cause = error.__cause__
    return cause.status_code if isinstance(cause, docker.errors.APIError) else None


def plain(error: BaseException) -> str:
    """An error as one line for a person."""
    return " ".join((getattr(error, "strerror", None) or str(error) or type(error).__name__).split())


def pull_reason(message: str) -> Reason:
    """Which verdict a failed pull leads to."""
    return _match(_PULL, _NAMED.sub("", message), Reason.PULL_FAILED)


def start_reason(message: str) -> Reason:
    """Which verdict a refused start leads to."""
    return _match(_START, message, Reason.START_REFUSED)


def _refined(reason: Reason, message: str) -> Reason:
    if reason is Reason.START_REFUSED:
        return start_reason(message)
    if reason is Reason.PULL_FAILED:
        return pull_reason(message)
    return reason


def _match(table: tuple[tuple[str, Reason], ...], message: str, otherwise: Reason) -> Reason:
    return next((reason for pattern, reason in table if re.search(pattern, message, re.IGNORECASE)), otherwise)


def root_of(error: BaseException) -> BaseException:
    """The innermost cause: requests and urllib3 wrap the operating system's error several times, as arguments."""
    seen: set[int] = set()
    while id(error) not in seen:
        seen.add(id(error))
        inner = [item for item in error.args if isinstance(item, BaseException)]
        error = (
            next(iter(inner), None) or getattr(error, "reason", None) or error.__cause__ or error.__context__ or error
        )
        if not isinstance(error, BaseException):
            break
    return error
