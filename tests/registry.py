"""Registries on this host: one that does as it is told, and Debian's with htpasswd. Each has images of its own."""

from __future__ import annotations

import base64
import gzip
import hashlib
import io
import json
import random
import shutil
import socket
import subprocess
import tarfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple
from urllib.request import urlopen

import pytest
from running import until

_CODES = {401: "UNAUTHORIZED", 403: "DENIED", 404: "MANIFEST_UNKNOWN", 429: "TOOMANYREQUESTS"}
_VENDOR = "application/vnd.docker"
_MANIFEST = f"{_VENDOR}.distribution.manifest.v2+json"
SIZE = 3_000_000
"""About how many bytes a layer has that no engine has yet."""
USER, PASSWORD = "someone", "S3cret-of-this-registry"


def _digest(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


def _layer(data: bytes) -> bytes:
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w") as tar:
        entry = tarfile.TarInfo("file")
        entry.size = len(data)
        tar.addfile(entry, io.BytesIO(data))
    return target.getvalue()


def _content(data: bytes) -> tuple[bytes, dict[str, bytes]]:
    """The manifest of an image with one file, and what it names by digest."""
    layer = _layer(data)
    packed = gzip.compress(layer, mtime=0)
    asked: dict[str, Any] = {"architecture": "amd64", "os": "linux", "config": {"Cmd": ["/nothing"]}}
    config = json.dumps({**asked, "rootfs": {"type": "layers", "diff_ids": [_digest(layer)]}}).encode()
    blobs = ((f"{_VENDOR}.container.image.v1+json", config), (f"{_VENDOR}.image.rootfs.diff.tar.gzip", packed))
    named = [{"mediaType": kind, "size": len(blob), "digest": _digest(blob)} for kind, blob in blobs]
    manifest = {"schemaVersion": 2, "mediaType": _MANIFEST, "config": named[0], "layers": named[1:]}
    return json.dumps(manifest).encode(), {_digest(blob): blob for _, blob in blobs}


class Registry:
    """Has one image under any path, with the tag 1. Its command is not there: it never runs.

    `failing`: statuses that the next requests for a manifest are answered with. `gate`: while it is not set, a layer
    stops half-way. `user`: who must ask. `asked`: every request, as (method, path).
    """

    def __init__(self, data: bytes) -> None:
        """`data` is what the image's file holds."""
        self.manifest, self.blobs = _content(data)
        self.digest = _digest(self.manifest)
        self.failing: list[int] = []
        self.gate = threading.Event()
        self.gate.set()
        self.user: tuple[str, str] | None = None
        self.asked: list[tuple[str, str]] = []
        handler = type("Handler", (_Handler,), {"registry": self})
        self.server = _Server(("127.0.0.1", 0), handler)
        self.host = f"localhost:{self.server.server_address[1]}"

    @property
    def image(self) -> str:
        """The name of the image."""
        return f"{self.host}/image:1"

    def count(self, method: str, what: str) -> int:
        """How many requests came of this method for `manifests` or `blobs`."""
        return sum(one == method and f"/{what}/" in path for one, path in self.asked)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    registry: Registry

    def do_GET(self) -> None:
        """Answer as a registry does."""
        registry, what = self.registry, self.path.rpartition("/")[2]
        registry.asked.append((self.command, self.path))
        if registry.user and self.headers.get("Authorization") != _basic(*registry.user):
            self._refuse(401, "UNAUTHORIZED", "authentication required")
        elif self.path == "/v2/":
            self._answer(b"{}", "application/json")
        elif "/manifests/" in self.path and registry.failing:
            status = registry.failing.pop(0)
            self._refuse(status, _CODES.get(status, "UNKNOWN"), "told to")
        elif "/manifests/" in self.path and what in {"1", registry.digest}:
            self._answer(registry.manifest, _MANIFEST)
        elif what in registry.blobs:
            self._answer(registry.blobs[what], "application/octet-stream")
        else:
            self._refuse(404, "MANIFEST_UNKNOWN", "manifest unknown")

    do_HEAD = do_GET  # noqa: N815 - the server looks for this name

    def _refuse(self, status: int, code: str, message: str) -> None:
        body = json.dumps({"errors": [{"code": code, "message": message}]}).encode()
        self._answer(body, "application/json", status)

    def _answer(self, data: bytes, kind: str, status: int = 200) -> None:
        self.send_response(status)
        if status == 401:
            self.send_header("WWW-Authenticate", 'Basic realm="tests"')
        for name, value in (("Type", kind), ("Length", str(len(data)))):
            self.send_header(f"Content-{name}", value)
        if status == 200:
            self.send_header("Docker-Content-Digest", _digest(data))
        self.end_headers()
        if self.command == "GET":
            sent = self._halting(data) if len(data) > 10_000 and not self.registry.gate.is_set() else 0
            self.wfile.write(data[sent:])

    def _halting(self, data: bytes) -> int:
        """Send half of it, in pieces far enough apart for an engine to mention them; wait; -> how much was sent."""
        piece = len(data) // 8
        for number in range(4):
            self.wfile.write(data[number * piece : (number + 1) * piece])
            time.sleep(0.12)
        self.registry.gate.wait()
        return 4 * piece

    def log_message(self, *_: object) -> None:
        """Say nothing."""


class _Server(ThreadingHTTPServer):
    daemon_threads = True  # an engine that was told to stop may keep its connection

    def handle_error(self, *_: object) -> None:
        """Say nothing: it has hung up."""


def _basic(user: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


@contextmanager
def serving(data: bytes | None = None) -> Iterator[Registry]:
    """A registry that does as it is told; its image is one that no engine has yet, unless `data` says what is in it."""
    registry = Registry(random.randbytes(SIZE) if data is None else data)
    thread = threading.Thread(target=registry.server.serve_forever)
    thread.start()
    try:
        yield registry
    finally:
        registry.gate.set()
        registry.server.shutdown()
        thread.join()
        registry.server.server_close()


class Distribution(NamedTuple):
    """Debian's registry: where it is, and what it has written about its requests."""

    host: str
    log: Path

    def count(self, method: str, what: str) -> int:
        """How many requests of this method for `manifests` or `blobs` it has answered well."""
        lines = self.log.read_text(encoding="utf-8").splitlines()
        return sum(f'"{method} /v2/' in line and f"/{what}/" in line and '" 200 ' in line for line in lines)


@contextmanager
def distribution(folder: Path) -> Iterator[Distribution]:
    """Debian's `docker-registry`, where only USER with PASSWORD gets in; the test skips where there is none."""
    if not (shutil.which("docker-registry") and shutil.which("htpasswd")):
        pytest.skip("no docker-registry or no htpasswd (Debian: docker-registry, apache2-utils)")
    users = subprocess.run(["htpasswd", "-nbB", USER, PASSWORD], capture_output=True, text=True, check=True).stdout
    (folder / "users").write_text(users, encoding="utf-8")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    (folder / "config.yml").write_text(_CONFIG.format(folder=folder, port=port), encoding="utf-8")
    log = folder / "log"
    with log.open("wb") as target:
        process = subprocess.Popen(
            ["docker-registry", "serve", str(folder / "config.yml")], stdout=target, stderr=target
        )
        try:
            until(lambda: _answers(port), "the registry")
            yield Distribution(f"localhost:{port}", log)
        finally:
            process.terminate()
            process.wait()


_CONFIG = """
version: 0.1
log: {{level: warn, accesslog: {{disabled: false}}}}
storage: {{filesystem: {{rootdirectory: {folder}/data}}, delete: {{enabled: true}}}}
http: {{addr: "127.0.0.1:{port}"}}
auth: {{htpasswd: {{realm: tests, path: {folder}/users}}}}
"""


def _answers(port: int) -> bool:
    try:
        with urlopen(f"http://127.0.0.1:{port}/", timeout=5):
            return True
    except OSError:
        return False
