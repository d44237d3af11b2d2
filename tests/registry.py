"""A registry on this host with one small image, to pull from where there is no other."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import tarfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

_VENDOR = "application/vnd.docker"
_MANIFEST = f"{_VENDOR}.distribution.manifest.v2+json"


def _digest(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


def _layer() -> bytes:
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w") as tar:
        entry = tarfile.TarInfo("file")
        entry.size = 1_000_000
        tar.addfile(entry, io.BytesIO(bytes(range(250)) * 4000))
    return target.getvalue()


def _content() -> tuple[bytes, dict[str, bytes]]:
    """The manifest, and what it names by digest."""
    layer = _layer()
    packed = gzip.compress(layer, mtime=0)
    asked: dict[str, Any] = {"architecture": "amd64", "os": "linux", "config": {"Cmd": ["/nothing"]}}
    config = json.dumps({**asked, "rootfs": {"type": "layers", "diff_ids": [_digest(layer)]}}).encode()
    blobs = ((f"{_VENDOR}.container.image.v1+json", config), (f"{_VENDOR}.image.rootfs.diff.tar.gzip", packed))
    named = [{"mediaType": kind, "size": len(blob), "digest": _digest(blob)} for kind, blob in blobs]
    manifest = {"schemaVersion": 2, "mediaType": _MANIFEST, "config": named[0], "layers": named[1:]}
    return json.dumps(manifest).encode(), {_digest(blob): blob for _, blob in blobs}


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    manifest, blobs = _content()

    def do_GET(self) -> None:
        """Answer as a registry does."""
        what = self.path.rpartition("/")[2]
        if self.path == "/v2/":
            self._answer(b"{}", "application/json")
        elif "/manifests/" in self.path and what in {"1", _digest(self.manifest)}:
            self._answer(self.manifest, _MANIFEST)
        elif what in self.blobs:
            self._answer(self.blobs[what], "application/octet-stream")
        else:
            self.send_error(404)

    do_HEAD = do_GET  # noqa: N815 - the server looks for this name

    def _answer(self, data: bytes, kind: str) -> None:
        self.send_response(200)
        for name, value in (("Type", kind), ("Length", str(len(data)))):
            self.send_header(f"Content-{name}", value)
        self.send_header("Docker-Content-Digest", _digest(data))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@contextmanager
def registry() -> Iterator[tuple[str, str]]:
    """-> the name of the image, and the digest of its manifest. Its command is not there: it never runs."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"localhost:{server.server_address[1]}/image:1", _digest(_Handler.manifest)
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
