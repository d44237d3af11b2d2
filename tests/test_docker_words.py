"""The docker driver's translations, without an engine: errors, answers, streams."""

from __future__ import annotations

import json
import os
import socket
import sys
import threading
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from socketserver import UnixStreamServer
from threading import Thread
from typing import Any

import docker.errors
import pytest
import requests
from hypothesis import given
from hypothesis import strategies as st
from running import LIMIT

from driver.docker.engine import connect, health_check, nanoseconds, observation, stop_signal
from driver.docker.errors import pull_reason, speaking
from driver.docker.stats import documents, reading
from driver.docker.streams import Attachment, Chunks
from driver.protocol import HealthCheck
from machine.errors import DriverError, UnknownOutcomeError
from machine.states import Reason

KNOWN = {
    "APIError", "BuildError", "ContainerError", "ContextAlreadyExists", "ContextException", "ContextNotFound",
    "DeprecatedMethod", "DockerException", "ImageLoadError", "ImageNotFound", "InvalidArgument", "InvalidConfigFile",
    "InvalidRepository", "InvalidVersion", "MissingContextParameter", "NotFound", "NullResource", "StreamParseError",
    "TLSParameterError",
}  # fmt: skip


def api_error(status: int, message: str) -> docker.errors.APIError:
    response = requests.Response()
    response.status_code = status
    return docker.errors.APIError("refused", response=response, explanation=message)


def spoken(error: Exception, reason: Reason = Reason.CREATE_REFUSED) -> DriverError:
    with pytest.raises(DriverError) as caught, speaking(reason):
        raise error
    return caught.value


class Old(BaseHTTPRequestHandler):
    """An engine of long ago."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Api-Version", "1.39")
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        """It says nothing."""


def test_an_engine_that_is_too_old_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/sock")
    with UnixStreamServer(f"{tmp_path}/sock", Old) as server:
        Thread(target=server.handle_request, daemon=True).start()
        with pytest.raises(DriverError, match=r"speaks version 1\.39 of its API, and 1\.40 is the least") as refused:
            connect()
    assert refused.value.reason is Reason.ENGINE_UNAVAILABLE


def test_every_error_of_docker_py_is_known() -> None:
    """When the library grows one, decide here what it means."""
    found = {
        name for name, item in vars(docker.errors).items() if isinstance(item, type) and issubclass(item, Exception)
    }
    assert found <= KNOWN, found - KNOWN


@pytest.mark.parametrize("name", sorted(KNOWN - {"BuildError", "ContainerError", "StreamParseError"}))
def test_every_error_becomes_ours(name: str) -> None:
    kind = getattr(docker.errors, name, docker.errors.DockerException)
    assert isinstance(spoken(kind("x")), DriverError)


def test_a_refusal_keeps_the_engines_words_on_one_line() -> None:
    error = spoken(api_error(400, "invalid\n  mount config"))
    assert (error.reason, str(error)) == (Reason.CREATE_REFUSED, "invalid mount config")


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        ('exec: "nosuch": executable file not found in $PATH: unknown', Reason.START_NOT_FOUND),
        ('exec: "/no/such": stat /no/such: no such file or directory: unknown', Reason.START_NOT_FOUND),
        ('exec: "/etc": permission denied: unknown', Reason.START_NOT_EXECUTABLE),
        ('exec: "/etc": is a directory: unknown', Reason.START_NOT_EXECUTABLE),
        ("exec format error", Reason.START_NOT_EXECUTABLE),
        ("network nosuch not found", Reason.START_REFUSED),
        ("open /proc/sys/net/nosuch: no such file or directory: unknown", Reason.START_REFUSED),
        ('gathering device information "/dev/nosuch": no such file or directory', Reason.START_REFUSED),
        ("write /proc/sys/net/x: permission denied: unknown", Reason.START_REFUSED),
        ("crun: executable file `nosuch` not found in $PATH: No such file or directory", Reason.START_NOT_FOUND),
        ("crun: open executable: Permission denied: OCI permission denied", Reason.START_NOT_EXECUTABLE),
    ],
)
def test_why_a_start_was_refused(message: str, reason: Reason) -> None:
    assert spoken(api_error(400, message), Reason.START_REFUSED).reason is reason


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        ("manifest for x:9 not found: manifest unknown", Reason.PULL_MISSING),
        ("pull access denied for x, repository does not exist or may require 'docker login'", Reason.PULL_DENIED),
        ("unauthorized: authentication required", Reason.PULL_DENIED),
        ('Get "https://r/v2/": dial tcp: lookup r on 10.0.0.1:53: no such host', Reason.PULL_UNREACHABLE),
        ("net/http: TLS handshake timeout", Reason.PULL_UNREACHABLE),
        ("something else", Reason.PULL_FAILED),
    ],
)
def test_why_a_pull_failed(message: str, reason: Reason) -> None:
    assert pull_reason(message) is reason


def test_no_answer_is_unknown_not_failed() -> None:
    assert isinstance(spoken(requests.exceptions.ReadTimeout("timed out")), UnknownOutcomeError)
    cut = requests.exceptions.ConnectionError(
        OSError("Connection aborted.", ConnectionResetError(104, "reset by peer"))
    )
    assert isinstance(spoken(cut), UnknownOutcomeError)


@pytest.mark.parametrize("cause", [FileNotFoundError(2, "No such file"), ConnectionRefusedError(111, "refused")])
def test_no_engine_is_known_to_have_done_nothing(cause: OSError) -> None:
    error = spoken(requests.exceptions.ConnectionError(OSError("Connection aborted.", cause)))
    assert error.reason is Reason.ENGINE_UNAVAILABLE
    assert not isinstance(error, UnknownOutcomeError)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2026-11-21T08:22:41.513770476Z", 1795249361513770476),
        ("2026-11-21T08:22:41Z", 1795249361000000000),
        ("2026-11-21T10:22:41.5+02:00", 1795249361500000000),
        ("0001-01-01T00:00:00Z", None),
        ("", None),
        (None, None),
        ("nonsense", None),
    ],
)
def test_the_engines_times(text: str | None, expected: int | None) -> None:
    assert nanoseconds(text) == expected


def test_a_container_that_never_started_has_no_exit_code() -> None:
    state = {"Status": "created", "ExitCode": 127, "StartedAt": "0001-01-01T00:00:00Z", "Error": "no such command"}
    seen = observation({"State": state})
    assert (seen.status, seen.exit_code, seen.started_at) == ("created", None, None)


def test_health_checks_that_are_none() -> None:
    assert health_check({"Config": {}}) is None
    assert health_check({"Config": {"Healthcheck": {"Test": ["NONE"]}}}) is None
    found = health_check({"Config": {"Healthcheck": {"Test": ["CMD", "true"], "Interval": 5}}})
    assert found == HealthCheck(5, 30 * 10**9, 3, 0)


def framed(stream: int, data: bytes) -> bytes:
    return bytes([stream, 0, 0, 0]) + len(data).to_bytes(4, "big") + data


@given(st.lists(st.tuples(st.sampled_from([1, 2]), st.binary(max_size=300)), max_size=20), st.integers(1, 97))
def test_a_multiplexed_stream_arrives_byte_for_byte_however_it_is_cut(
    frames: list[tuple[int, bytes]], cut: int
) -> None:
    ours, theirs = socket.socketpair()
    got = {1: b"", 2: b""}
    ended = []

    def output(stream: int, data: bytes) -> None:
        got[stream] += data

    attachment = Attachment(ours, output, lambda: ended.append(True))
    wire = b"".join(framed(*frame) for frame in frames)
    for start in range(0, len(wire), cut):
        theirs.sendall(wire[start : start + cut])
        assert attachment.ready()
    theirs.close()
    assert not attachment.ready()
    attachment.close()
    assert got == {number: b"".join(data for stream, data in frames if stream == number) for number in (1, 2)}
    assert ended == [True]


@given(st.binary(min_size=1, max_size=300), st.integers(1, 97))
def test_the_output_of_a_terminal_is_one_stream_that_is_not_framed(wire: bytes, cut: int) -> None:
    ours, theirs = socket.socketpair()
    got: list[tuple[int, bytes]] = []
    attachment = Attachment(ours, lambda stream, data: got.append((stream, data)), lambda: None, tty=True)
    for start in range(0, len(wire), cut):
        theirs.sendall(wire[start : start + cut])
        assert attachment.ready()
        assert b"".join(data for _, data in got) == wire[: start + cut]  # nothing is held back
    theirs.close()
    assert not attachment.ready()
    attachment.close()
    assert {stream for stream, _ in got} == {1}
    assert all(data for _, data in got)


@given(st.lists(st.binary(min_size=1, max_size=300), max_size=20), st.integers(1, 97))
def test_chunks_come_apart_however_they_are_cut(pieces: list[bytes], cut: int) -> None:
    """And their end is seen, whatever follows it on the connection."""
    wire = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"
    chunks, got, over = Chunks(), b"", False
    for start in range(0, len(wire), cut):
        assert not over or start >= len(wire) - 4
        data, ended = chunks.unwrap(wire[start : start + cut])
        got, over = got + data, over or ended
    assert (got, over) == (b"".join(pieces), True)


@pytest.mark.parametrize("wire", [b"no length\r\n", b"-5\r\nxxxxx", b"fffffffff\r\n", b"5" * 100])
def test_what_is_no_chunk_is_the_end(wire: bytes) -> None:
    assert Chunks().unwrap(b"2;name=value\r\nok\r\n" + wire) == (b"ok", True)


def test_an_answer_that_is_cut_in_a_chunk_has_not_ended_in_it() -> None:
    assert Chunks().unwrap(b"a\r\nbegun") == (b"begun", False)


STATS: dict[str, Any] = {
    "read": "2026-11-21T08:22:41.5Z",
    "cpu_stats": {"cpu_usage": {"total_usage": 30, "usage_in_usermode": 20, "usage_in_kernelmode": 10}},
    "memory_stats": {"usage": 13000, "limit": 64, "stats": {"inactive_file": 1000, "anon": 8192, "file": 4096}},
    "networks": {"eth0": {"rx_bytes": 1, "tx_bytes": 2}, "eth1": {"rx_bytes": 3, "tx_bytes": 4}},
    "blkio_stats": {"io_service_bytes_recursive": [{"op": "read", "value": 5}, {"op": "Write", "value": 6}]},
    "pids_stats": {"current": 4},
}


def test_a_stats_document_of_version_2_without_percpu_usage_has_its_cpu() -> None:
    sample = reading(STATS)
    assert sample is not None
    assert (sample.cpu_total_ns, sample.mem_usage_bytes, sample.mem_rss_bytes) == (30, 12000, 8192)
    assert (sample.net_rx_bytes, sample.disk_read_bytes, sample.disk_write_bytes, sample.pids) == (4, 5, 6, 4)


def test_the_empty_documents_of_a_stopped_container_are_no_samples() -> None:
    assert reading({"read": "0001-01-01T00:00:00Z", "id": "x"}) is None
    assert reading({}) is None


def test_what_a_document_does_not_say_is_none() -> None:
    sample = reading(
        {"read": STATS["read"], "memory_stats": {"usage": -5}, "networks": None, "pids_stats": {"current": 2.5}}
    )
    assert sample is not None
    assert set(sample) == {None}


@given(st.lists(st.sampled_from(["good", "bad", "list"]), max_size=12), st.integers(1, 50))
def test_a_malformed_line_is_counted_and_the_next_good_one_is_used(lines: list[str], cut: int) -> None:
    texts = {"good": json.dumps(STATS), "bad": '{"read": "20', "list": "[1]"}
    wire = "".join(texts[line] + "\n" for line in lines).encode()
    bad: list[bool] = []
    pieces = (wire[start : start + cut] for start in range(0, len(wire), cut))
    found = list(documents(pieces, lambda _: bad.append(True)))
    assert (len(found), len(bad)) == (lines.count("good"), len(lines) - lines.count("good"))


@pytest.mark.parametrize("by_us", [True, False])
def test_what_is_typed_after_the_end_is_left_for_the_next(monkeypatch: pytest.MonkeyPatch, *, by_us: bool) -> None:
    near, far = socket.socketpair()
    reading, writing = os.pipe()
    with far, os.fdopen(reading, encoding="utf-8") as stdin, os.fdopen(writing, "wb", buffering=0) as typist:
        monkeypatch.setattr(sys, "stdin", stdin)
        attachment = Attachment(near, lambda *_: None, lambda: None)
        attachment.feed()
        (thread,) = (thread for thread in threading.enumerate() if thread.name == "stdin")
        typist.write(b"1")
        assert far.recv(1) == b"1"
        (attachment if by_us else far).close()
        thread.join(LIMIT)
        assert not thread.is_alive()
        typist.write(b"2")
        assert os.read(reading, 99) == b"2"
        attachment.close()


def test_who_takes_nothing_of_what_is_sent_is_not_waited_for_longer_than_was_said() -> None:
    near, far = socket.socketpair()
    with far:
        attachment = Attachment(near, lambda *_: None, lambda: None)
        with pytest.raises(TimeoutError, match=r"it has taken nothing for 0\.1 s"):
            attachment.send(b"x" * 10**7, patience=0.1)
        attachment.close()


@pytest.mark.parametrize(
    ("said", "signal"),
    [
        ("SIGRTMIN+3", "37"),
        ("RTMIN+3", "37"),
        ("RTMAX-1", "63"),
        ("SIGINT", "INT"),
        ("9", "KILL"),
        ("nonsense", "TERM"),
    ],
)
def test_the_stop_signal_by_any_of_its_names(said: str, signal: str) -> None:
    assert stop_signal({"Config": {"StopSignal": said}}) == signal
