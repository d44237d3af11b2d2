"""Drivers by name: those that are built in, and those that other installed distributions bring.

A distribution brings one by an entry point of the group `call_ledger.drivers`: its name is the driver's, its object
takes (pump, labels) and gives a `driver.protocol.Driver`. As a rule that object is the driver's class. With an
attribute `takes_image` that is False, calls of that driver have no image.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any, NamedTuple

from driver.protocol import Driver, Labels
from driver.pump import Pump
from machine.errors import CallsError, UsageError

GROUP = "call_ledger.drivers"

Factory = Callable[[Pump, Labels], Driver]


class _BuiltIn(NamedTuple):
    # What is said of a class here need not be asked of it: a request can be understood without loading docker-py.
    home: str
    factory: str
    takes_image: bool = True


_BUILT_IN = {
    "docker": _BuiltIn("driver.docker", "DockerDriver"),
    "local": _BuiltIn("driver.local", "LocalDriver", takes_image=False),
}
_MEMBERS = (*Driver.__annotations__, *(name for name in vars(Driver) if not name.startswith("_")))
"""What a driver must have."""


def names() -> list[str]:
    """Every driver there is, the built-in ones first. Nothing is loaded."""
    return [*_BUILT_IN, *sorted({point.name for point in _installed()} - _BUILT_IN.keys())]


def takes_image(name: str) -> bool:
    """Whether calls of that driver have an image. UsageError when there is no such driver, or it cannot be loaded."""
    if name in _BUILT_IN:
        return _BUILT_IN[name].takes_image
    return bool(getattr(_load(_found(name)), "takes_image", True))


def make(name: str, pump: Pump, labels: Labels) -> Driver:
    """A new driver of that name. UsageError when there is no such driver, or it cannot be made."""
    if name in _BUILT_IN:  # imported when used: a local call need not wait for docker-py, nor the other way round
        built: Factory = getattr(importlib.import_module(_BUILT_IN[name].home), _BUILT_IN[name].factory)
        return built(pump, labels)
    point = _found(name)
    factory = _load(point)
    try:
        made = factory(pump, labels)
    except CallsError:
        raise
    except Exception as error:
        raise _broken(point, error) from error
    if absent := [member for member in _MEMBERS if not hasattr(made, member)]:
        raise _broken(point, f"what it makes has no {', '.join(absent)}")
    if made.name != name:
        raise _broken(point, f"what it makes is named {made.name!r}")
    return made


def faults() -> dict[str, str]:
    """What is wrong with drivers that are installed and cannot be loaded, by name."""
    found = {}
    for name in names()[len(_BUILT_IN) :]:
        try:
            takes_image(name)
        except UsageError as error:
            found[name] = str(error)
    return found


def _installed() -> Any:
    from importlib.metadata import entry_points  # looks at every distribution: not for who wants a built-in driver

    return entry_points(group=GROUP)


def _found(name: str) -> Any:
    found = list(dict.fromkeys(point for point in _installed() if point.name == name))
    if not found:
        raise UsageError(f"--driver: there is no driver {name!r} (there are {', '.join(names())})")
    if len(found) > 1:
        raise UsageError(f"--driver: there are several drivers {name!r}: {', '.join(map(_whose, found))}")
    return found[0]


def _load(point: Any) -> Factory:
    try:
        factory: Factory = point.load()
    except Exception as error:
        raise _broken(point, error) from error
    if not callable(factory):
        raise _broken(point, "it is nothing that makes a driver")
    return factory


def _broken(point: Any, why: Exception | str) -> UsageError:
    said = why if isinstance(why, str) else f"{type(why).__name__}: {why}"
    return UsageError(f"--driver: the driver {point.name!r} cannot be used, {_whose(point)}: {' '.join(said.split())}")


def _whose(point: Any) -> str:
    distribution = f" of {point.dist.name} {point.dist.version}" if point.dist else ""
    return f"{point.value}{distribution}"
