"""Loading docker-py without what comes with it and a call never uses: 18 of 105 ms."""

from __future__ import annotations

import contextlib
import importlib
import sys
import warnings
from types import ModuleType
from typing import Any

_UNUSED = (
    "bz2",
    "encodings.idna",
    "idna",
    "importlib.metadata",
    "lzma",
    "subprocess",
    "tarfile",
    "traceback",
    "zipfile",
)
"""Imported by requests, urllib3 and docker-py, and by what they import, for functions that a call does not come by."""
_GUESSERS = ("chardet", "charset_normalizer")
"""They guess the encoding of a text for requests, which without them takes it for UTF-8, as an engine's is."""


class _StandIn(ModuleType):
    """Stands where a module would be, until something of it is used: then that is loaded, and answers."""

    def __getattr__(self, name: str) -> Any:
        if name == "__path__":  # `from … import` asks for it
            raise AttributeError(name)
        self.leave()
        return getattr(importlib.import_module(self.__name__), name)

    def leave(self) -> None:
        """Whoever imports the module from now on gets itself."""
        if sys.modules.get(self.__name__) is self:
            del sys.modules[self.__name__]


class _Metadata(_StandIn):
    """What urllib3 takes out of it beforehand, for HTTP/2."""

    @staticmethod
    def version(name: str) -> str:
        from importlib.metadata import version

        return version(name)


def load_client() -> None:
    """Load docker-py, in a process that has nothing else to do with these libraries.

    Where that fails, as with a requests that insists on one of the guessers, the next import loads it whole.
    """
    standing = [_of(name) for name in _UNUSED if name not in sys.modules]
    absent = [name for name in _GUESSERS if name not in sys.modules]
    sys.modules.update({module.__name__: module for module in standing})
    sys.modules.update(dict.fromkeys(absent))  # type: ignore[arg-type] # None: it cannot be imported
    with contextlib.suppress(Exception), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # requests says what it misses
        import driver.docker  # noqa: F401
    for name in absent:
        del sys.modules[name]
    for module in standing:
        module.leave()


def _of(name: str) -> _StandIn:
    return _Metadata(name) if name == "importlib.metadata" else _StandIn(name)
