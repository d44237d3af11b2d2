"""Validating a request, by pydantic: types from `Spec`, and what they do not say from the table below."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache
from typing import Annotated, Any, Literal, get_type_hints

from pydantic import BeforeValidator, Field, TypeAdapter, ValidationError

from machine import configuration
from machine.errors import SpecError
from machine.signals import signal_name, signal_number
from machine.spec import Spec
from machine.units import SECOND, duration, size

SAMPLE_FLOOR = SECOND // 10
_MEMORY_FLOOR = 6 * 2**20  # the engine's own minimum
_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]{0,127}")


def validate(options: dict[str, Any]) -> Spec:
    """-> the spec; SpecError names the first option that is wrong."""
    for option in options.keys() - set(Spec._fields):
        raise SpecError(option, "there is no such option")
    found = {}
    for option in Spec._fields:
        if option in options:
            try:
                found[option] = _type_of(option).validate_python(options[option])
            except ValidationError as error:
                raise _as_spec_error(option, error) from None
    spec = Spec(**found)
    configuration.check(spec)
    _check_together(spec)
    return spec


@cache
def _type_of(option: str) -> TypeAdapter[Any]:
    """Made when it is needed: together they take as long to make as pydantic to load, and a call has a few options."""
    hint = _HINTS[option]
    return TypeAdapter(_TYPES.get(option, _LIST if hint == tuple[str, ...] else hint))


def _positive(parse: Callable[[Any], int]) -> BeforeValidator:
    def positive(value: Any) -> int:
        number = parse(value)
        if number <= 0:
            raise ValueError("must be more than zero")
        return number

    return BeforeValidator(positive)


def _or_off(parse: Callable[[Any], int]) -> BeforeValidator:
    return BeforeValidator(lambda value: None if value in (None, "off", False) else parse(value))


def _signal(value: Any) -> str:
    return signal_name(signal_number(value))


def _name(value: str) -> str:
    if not isinstance(value, str) or not _NAME.fullmatch(value):
        raise ValueError(f"{value!r} is not a name (letters, digits, _ . - and a letter or digit first)")
    return value


def _interval(value: Any) -> int:
    interval = duration(value)
    if interval < SAMPLE_FLOOR:
        raise ValueError(f"at least {SAMPLE_FLOOR // 1_000_000}ms between samples (or off)")
    return interval


def _list(value: Any) -> Any:
    # A command is a list, never a line to be split on blanks: quotes would be lost.
    if isinstance(value, str):
        raise ValueError(f"give a list, not the text {value!r}")  # noqa: TRY004 - pydantic reports ValueErrors
    return value


def _networks(value: Any) -> str:
    """One name or several, in one text: what a call has as a rule is one."""
    return ",".join(map(str, value)) if isinstance(value, list | tuple) else value


_DURATION = Annotated[int, _positive(duration)]
_LIST = Annotated[tuple[str, ...], BeforeValidator(_list)]
_TYPES: dict[str, Any] = {
    "network": Annotated[str, BeforeValidator(_networks)],
    "memory_reservation": Annotated[int, _positive(size), Field(ge=_MEMORY_FLOOR)],
    "shm_size": Annotated[int, _positive(size)],
    "cpu_shares": Annotated[int, Field(ge=2, le=262144)],
    "oom_score_adj": Annotated[int, Field(ge=-1000, le=1000)],
    "name": Annotated[str, BeforeValidator(_name)],
    "idempotency_key": Annotated[str, Field(min_length=1, max_length=255)],
    "memory": Annotated[int, _positive(size), Field(ge=_MEMORY_FLOOR)],
    "cpus": Annotated[float, Field(gt=0, le=1024, allow_inf_nan=False)],
    "pids_limit": Annotated[int, Field(ge=1)],
    "pull": Literal["missing", "always", "never", "newer"],
    "pull_idle_timeout": _DURATION,
    "health_interval": _DURATION,
    "health_retries": Annotated[int, Field(ge=1)],
    "health_start_period": _DURATION,
    "health_probe_timeout": _DURATION,
    "stop_signal": Annotated[str, BeforeValidator(_signal)],
    "stop_timeout": Annotated[int, BeforeValidator(duration)],
    "timeout": _DURATION,
    "prepare_timeout": _DURATION,
    "health_timeout": _DURATION,
    "sample": Annotated[int | None, _or_off(_interval)],
    "log_limit": Annotated[int | None, _or_off(size)],
}


_HINTS = get_type_hints(Spec)


def _check_together(spec: Spec) -> None:
    """What single fields cannot say."""
    if spec.image == "":
        raise SpecError("image", "no image given")
    if spec.no_healthcheck and spec.health_cmd:
        raise SpecError("no_healthcheck", "contradicts --health-cmd")
    if spec.hot:
        _check_hot(spec)
    if any(not name or "=" in name for name in spec.env):
        raise SpecError("env", "a variable needs a name without '='")
    for option, value in spec.asked().items():
        text = "".join(_texts(value))
        if "\0" in text:
            raise SpecError(option, "contains a NUL character")
        if not text.isascii() and text.encode(errors="replace").decode() != text:
            raise SpecError(option, "contains bytes that are not UTF-8: neither engine nor ledger can take them")


def _check_hot(spec: Spec) -> None:
    """What one call cannot ask of a container that others use as well."""
    if spec.keep:
        raise SpecError("hot", "contradicts --keep: the container is not this call's alone")
    if spec.pull in ("always", "newer"):
        raise SpecError("hot", f"contradicts --pull {spec.pull}: the container may be there already")
    for option in spec.asked():
        if option.startswith("health_"):
            raise SpecError(
                "hot", f"contradicts --{option.replace('_', '-')}: only a container of its own has a health"
            )


def _texts(value: Any) -> list[str]:
    if isinstance(value, str):
        return [value]
    if isinstance(value, dict):
        return [*value, *value.values()]
    return list(value) if isinstance(value, tuple) else []


def _as_spec_error(option: str, error: ValidationError) -> SpecError:
    first = error.errors()[0]
    if option in ("memory", "memory_reservation") and first["type"] == "greater_than_equal":
        return SpecError(option, "the engine's minimum is 6m")
    message = first["msg"].removeprefix("Value error, ")
    return SpecError(option, message[0].lower() + message[1:])
