"""Loading docker-py without what comes with it and a call never uses: that takes as long as what is used."""

from __future__ import annotations

import contextlib
import importlib
import os
import re
import sys
import warnings
from collections.abc import Callable, Iterator
from functools import cache, partial
from itertools import pairwise
from types import ModuleType
from typing import Any

_UNUSED = {
    "calendar": ("timegm",),
    "docker.credentials": (),
    "docker.models.configs": ("ConfigCollection",),
    "docker.models.containers": ("ContainerCollection",),
    "docker.models.images": ("ImageCollection",),
    "docker.models.networks": ("NetworkCollection",),
    "docker.models.nodes": ("NodeCollection",),
    "docker.models.plugins": ("PluginCollection",),
    "docker.models.secrets": ("SecretCollection",),
    "docker.models.services": ("ServiceCollection",),
    "docker.models.swarm": ("Swarm",),
    "docker.models.volumes": ("VolumeCollection",),
    "encodings.idna": (),
    "hashlib": ("md5", "sha1", "sha256"),
    "hmac": (),
    "idna": (),
    "importlib.metadata": ("version",),
    "inspect": (),
    "ipaddress": ("IPv4Address", "IPv6Address"),
    "random": (),
    "shutil": ("copyfile", "rmtree"),
    "tarfile": (),
    "tempfile": (),
    "traceback": (),
    "urllib.request": (
        *("getproxies", "getproxies_environment", "parse_http_list", "proxy_bypass", "proxy_bypass_environment"),
    ),
    "zipfile": (),
}
"""Imported by requests, urllib3 and docker-py, and by what they import, for functions that a call does not come by.

With what they take out of it by name beforehand, and call at most.
"""
_OPTIONAL = (
    *("chardet", "charset_normalizer"),  # guess the encoding of a text: without them it is UTF-8, as an engine's is
    *("backports", "brotli", "brotlicffi", "compression.zstd"),  # understand what an engine does not send
)
"""What these libraries look for, and do without."""
_FOR_ELSEWHERE = (
    "docker.transport.npipeconn",
    "docker.transport.sshconn",
    "ssl",
    "urllib3.contrib.pyopenssl",
    "urllib3.contrib.socks",
)
"""Likewise, on the way to an engine by a socket file; to another one it may be needed."""
_KEPT_OUT = "inspect"
"""transitions imports it, too, later and for as little."""


class _StandIn(ModuleType):
    """Stands where a module would be, until something of it is used: then that is loaded, and answers."""

    def __getattr__(self, name: str) -> Any:
        if name == "__path__":  # `from … import` asks for it
            raise AttributeError(name)
        if name in _UNUSED.get(self.__name__, ()) and sys.modules.get(self.__name__) is self:
            return partial(self._call, name)
        return self._own(name)

    def _call(self, name: str, *given: Any, **named: Any) -> Any:
        return self._own(name)(*given, **named)

    def _own(self, name: str) -> Any:
        self.leave()
        return getattr(importlib.import_module(self.__name__), name)

    def leave(self) -> None:
        """Whoever imports the module from now on gets itself."""
        if sys.modules.get(self.__name__) is self:
            del sys.modules[self.__name__]


class _NoCertificates(_StandIn):
    """For requests, which asks at once where they are."""

    @staticmethod
    def where() -> str:
        return ""


class _Pattern:
    """A regular expression that is compiled when it is first used. Most of the 77, 9 ms of compiling, never are."""

    __class__ = property(lambda _: re.Pattern)  # `re.sub` and the like ask
    __slots__ = ("_compile",)

    def __init__(self, compile_it: Callable[[], re.Pattern[Any]]) -> None:
        self._compile = compile_it

    def __getattr__(self, name: str) -> Any:
        return getattr(self._compile(), name)


def load_client() -> None:
    """Load docker-py, if the command line seems to want it: a wrong guess costs time only.

    In a process that has nothing else to do with these libraries. Where it fails, as with a requests that insists on
    one of those that guess, docker-py is loaded whole when it is used.
    """
    if not {*_drivers()} <= {"docker"}:
        return
    standing, absent = [_StandIn(name) for name in _UNUSED], list(_OPTIONAL)
    if not _may_be_elsewhere():
        standing.append(_NoCertificates("certifi"))
        absent += _FOR_ELSEWHERE
    standing = [module for module in standing if module.__name__ not in sys.modules]
    absent = [name for name in absent if name not in sys.modules]
    sys.modules.update({module.__name__: module for module in standing})
    sys.modules.update(dict.fromkeys(absent))  # type: ignore[arg-type] # None: it cannot be imported
    before = set(sys.modules)
    try:
        with warnings.catch_warnings(), _patterns_later():
            warnings.simplefilter("ignore")  # requests says what it misses
            import driver.docker  # noqa: F401
    except Exception:  # noqa: BLE001 - if it is not our doing, it comes again where docker-py is used
        for name in sys.modules.keys() - before:  # these have done without
            del sys.modules[name]
    for name in absent:
        del sys.modules[name]
    for module in standing:
        if module.__name__ != _KEPT_OUT:
            module.leave()


def _drivers() -> Iterator[str]:
    for word, next_one in pairwise((*sys.argv, "")):
        if word == "--driver":
            yield next_one
        elif word.startswith("--driver="):
            yield word.removeprefix("--driver=")


def _may_be_elsewhere() -> bool:
    """Whether the engine may be reached by a network."""
    if host := os.environ.get("DOCKER_HOST"):
        return not host.startswith("unix://")
    if "DOCKER_CONTEXT" in os.environ:
        return True
    home = os.path.expanduser("~")
    own = os.environ.get("DOCKER_CONFIG", f"{home}/.docker")  # docker-py takes the first that there is
    return any(map(_names_a_context, (f"{own}/config.json", f"{home}/.docker/config.json", f"{home}/.dockercfg")))


def _names_a_context(config: str) -> bool:
    try:
        with open(config, encoding="utf-8", errors="replace") as file:
            text = file.read()
            return "currentContext" in text or "\\u" in text  # which may spell it
    except OSError:
        return False


@contextlib.contextmanager
def _patterns_later() -> Iterator[None]:
    at_once = re.compile
    re.compile = lambda *given, **named: _Pattern(cache(partial(at_once, *given, **named)))  # type: ignore[assignment]
    try:
        yield
    finally:
        re.compile = at_once
