"""An engine reached by TCP: nothing of its host can be seen from here, so samples come from its stream."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from running import LIMIT, until

import calls
from ledger.read import Reader

pytestmark = pytest.mark.engine


class Forwarder:
    """Carries connections from a TCP port on loopback to the engine's socket file, and can cut them all."""

    def __init__(self, path: str) -> None:
        """Listens at once."""
        self._path = path
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._open: list[socket.socket] = []
        self.url = f"tcp://127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            far = socket.socket(socket.AF_UNIX)
            far.connect(self._path)
            self._open += [near, far]
            for source, sink in ((near, far), (far, near)):
                threading.Thread(target=self._carry, args=(source, sink), daemon=True).start()

    def _carry(self, source: socket.socket, sink: socket.socket) -> None:
        try:
            while data := source.recv(65536):
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)
        except OSError:
            return

    def cut(self) -> None:
        """Break every connection there is; new ones work."""
        for end in self._open:
            try:
                end.shutdown(socket.SHUT_RDWR)
            except OSError:
                continue
            finally:
                end.close()
        self._open.clear()

    def close(self) -> None:
        """End."""
        self._listener.close()
        self.cut()


@pytest.fixture
def remote(monkeypatch: pytest.MonkeyPatch) -> Iterator[Forwarder]:
    """The engine, as if it were far away."""
    host = os.environ.get("DOCKER_HOST", "unix:///var/run/docker.sock")
    if not host.startswith("unix://"):
        pytest.skip("the engine is not on a socket file")
    forwarder = Forwarder(host.removeprefix("unix://"))
    monkeypatch.setenv("DOCKER_HOST", forwarder.url)
    yield forwarder
    forwarder.close()


def samples(ledger: Path) -> list[tuple[object, ...]]:
    with Reader(ledger) as reader:
        return list(reader.query("SELECT cpu_total_ns, mem_usage_bytes, pids FROM sample ORDER BY seq")[1])


def test_samples_come_from_the_stream(remote: Forwarder, ledger: Path) -> None:
    with calls.Runner(ledger) as runner:
        future = runner.submit("busybox", ["sleep", "600"], network="none")
        # An engine that is asked while a container begins or ends may not know all of it.
        until(lambda: any(None not in row for row in samples(ledger)), "a whole sample")
        runner.kill(future.id)
        assert future.result(LIMIT).reason == "user"


def test_output_and_exit_code_arrive(remote: Forwarder, ledger: Path) -> None:
    got = bytearray()
    with calls.Runner(ledger) as runner:
        call = runner.run(
            "busybox", ["sh", "-c", "echo far; exit 7"], network="none", output=lambda _, data: got.extend(data)
        )
    assert (call.reason, call.exit_code, bytes(got)) == ("exit", 7, b"far\n")


def test_a_cut_connection_is_a_gap_not_a_verdict(remote: Forwarder, ledger: Path, tmp_path: Path) -> None:
    first = threading.Event()
    with calls.Runner(ledger) as runner:
        future = runner.submit(
            "busybox",
            ["sh", "-c", "echo up; while [ ! -e /gate/open ]; do sleep 0.05; done"],
            network="none",
            volume=[f"{tmp_path}:/gate"],
            output=lambda *_: first.set(),
        )
        assert first.wait(LIMIT)
        remote.cut()
        (tmp_path / "open").touch()
        call = future.result(LIMIT)
    assert (call.state, call.reason, call.exit_code) == ("success", "exit", 0)
    with Reader(ledger) as reader:
        (gaps,) = next(iter(reader.query("SELECT gaps FROM call")[1]))
    assert gaps >= 1
