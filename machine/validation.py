"""A request as a whole: each of its values, and what single values cannot say.

What is of its type already is taken as it is: pydantic, with all that it needs, takes longer to load (70 ms) than a
plain call has to wait for.
"""

from __future__ import annotations

from typing import Any

from machine import configuration, notation
from machine.errors import SpecError
from machine.spec import Spec

_TEXTS = (
    "driver",
    "image",
    "workdir",
    "user",
    "network",
    "hostname",
    "ip",
    "ip6",
    "mac_address",
    "cpuset_cpus",
    "gpus",
    "pid",
    "ipc",
    "uts",
    "userns",
    "cgroupns",
    "runtime",
    "log_driver",
    "platform",
    "entrypoint",
)
PLAIN: dict[str, type] = dict.fromkeys(_TEXTS, str) | {
    option: type(default)
    for option, default in Spec._field_defaults.items()
    if isinstance(default, bool | tuple | dict)
}
"""The options of which any value of one type is right as far as it goes; in tuples and dicts there are texts."""


def validate(options: dict[str, Any]) -> Spec:
    """-> the spec; SpecError names the first option that is wrong."""
    for option in options.keys() - set(Spec._fields):
        raise SpecError(option, "there is no such option")
    spec = Spec(**{option: _value(option, options[option]) for option in Spec._fields if option in options})
    configuration.check(spec)
    _check_together(spec)
    return spec


def _value(option: str, given: Any) -> Any:
    if is_plain(option, given):
        return given
    from machine.request import value

    return value(option, given)


def is_plain(option: str, given: Any) -> bool:
    """Whether there is nothing about a value that would have to be checked, or made of it."""
    kind = type(given)
    if kind is not PLAIN.get(option):
        return False
    inside = (*given, *given.values()) if kind is dict else given if kind is tuple else ()
    return all(type(text) is str for text in inside)


def _check_together(spec: Spec) -> None:
    """What single fields cannot say."""
    if spec.image == "":
        raise SpecError("image", "no image given")
    if spec.no_healthcheck and (health := _about_health(spec)):
        raise SpecError("no_healthcheck", f"contradicts {health}")
    if spec.pull == "never" and "pull_idle_timeout" in spec.asked():
        raise SpecError("pull_idle_timeout", "contradicts --pull never: nothing is pulled")
    if spec.hot:
        _check_hot(spec)
    if spec.idempotency_key and spec.interactive and spec.tty:
        raise SpecError("idempotency_key", "contradicts --interactive --tty: the second has nothing to type to")
    if any(not name or "=" in name for name in spec.env):
        raise SpecError("env", "a variable needs a name without '='")
    for option, value in spec.asked().items():
        text = "".join(_texts(value))
        if "\0" in text:
            raise SpecError(option, "contains a NUL character")
        configuration.check_text(option, text, notation.text)


def _check_hot(spec: Spec) -> None:
    """What one call cannot ask of a container that others use as well."""
    if spec.keep:
        raise SpecError("hot", "contradicts --keep: the container is not this call's alone")
    if spec.tty:
        raise SpecError("hot", "contradicts --tty: the container's input and output carry several calls")
    if spec.pull in ("always", "newer"):
        raise SpecError("hot", f"contradicts --pull {spec.pull}: the container may be there already")
    if health := _about_health(spec):
        raise SpecError("hot", f"contradicts {health}: only a container of its own has a health")


def _about_health(spec: Spec) -> str | None:
    """The first option that says something of a health check."""
    return next((f"--{name.replace('_', '-')}" for name in spec.asked() if name.startswith("health_")), None)


def _texts(value: Any) -> list[str]:
    if isinstance(value, str):
        return [value]
    if isinstance(value, dict):
        return [*value, *value.values()]
    return list(value) if isinstance(value, tuple) else []
