"""Connections to an engine's socket file, where docker-py's own will not do (7.2)."""

from __future__ import annotations

import socket
from typing import Any

from docker.transport import UnixHTTPAdapter
from docker.transport.unixconn import UnixHTTPConnection, UnixHTTPConnectionPool

_URL = "http+docker://localhost"


class _Connection(UnixHTTPConnection):  # type: ignore[misc] # docker-py is untyped
    """Closes what could not be connected, which docker-py leaves to the garbage collector."""

    def connect(self) -> None:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connection.settimeout(self.timeout)
        try:
            connection.connect(self.unix_socket)
        except BaseException:
            connection.close()
            raise
        self.sock = connection


class _Pool(UnixHTTPConnectionPool):  # type: ignore[misc]
    scheme = "http+docker"  # with http urllib3 looks for an IPv6 address in the host: 3 ms for compiling the patterns

    def _new_conn(self) -> _Connection:
        return _Connection(self.base_url, self.socket_path, self.timeout)


class OnePool(UnixHTTPAdapter):  # type: ignore[misc]
    """One pool of connections for one socket file.

    docker-py makes a pool for every URL, and each call has URLs of its own: no connection would ever be used
    again, and a pool that is dropped while in use ends in an AttributeError (docker-py 7.2, urllib3 2.8).
    """

    def get_connection(self, url: str, proxies: Any = None) -> _Pool:
        """The pool."""
        del url, proxies
        with self.pools.lock:
            pool: _Pool | None = self.pools.get(_URL)
            if pool is None:
                pool = self.pools[_URL] = _Pool(_URL, self.socket_path, self.timeout, maxsize=self.max_pool_size)
            return pool
