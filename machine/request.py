"""The values of a request, by pydantic: types from `Spec`, and what they do not say from the table below."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache
from typing import Annotated, Any, Literal, get_type_hints

from pydantic import BeforeValidator, Field, Strict, TypeAdapter, ValidationError

from machine.errors import SpecError
from machine.signals import signal_name, signal_number
from machine.spec import Spec
from machine.units import SECOND, duration, size

SAMPLE_FLOOR = SECOND // 10
_MEMORY_FLOOR = 6 * 2**20  # the engine's own minimum
_CPUS_FLOOR = 0.01  # the engine's, too; what rounds to 0 would be no limit to it
_FLOORS = {"memory": "6m", "memory_reservation": "6m", "cpus": _CPUS_FLOOR}
_PIDS_CEILING = 2**22  # the kernel's
_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]{0,127}")


def value(option: str, given: Any) -> Any:
    """What is given for an option, as the spec has it; SpecError when it cannot be that."""
    try:
        return _type_of(option).validate_python(given)
    except ValidationError as error:
        raise _as_spec_error(option, error) from None


@cache
def _type_of(option: str) -> TypeAdapter[Any]:
    """Made when it is needed: together they take as long to make as pydantic to load, and a call has a few options."""
    hint = _HINTS[option]
    usual: dict[Any, Any] = {tuple[str, ...]: _LIST, bool: _BOOL, str: _TEXT, str | None: _TEXT | None}
    return TypeAdapter(_TYPES.get(option, usual.get(hint, hint)))


def _positive(parse: Callable[[Any], int]) -> BeforeValidator:
    def positive(value: Any) -> int:
        number = parse(value)
        if number <= 0:
            raise ValueError("must be more than zero")
        return number

    return BeforeValidator(positive)


def _or_off(parse: Callable[[Any], int]) -> BeforeValidator:
    # 0 equals False, and is no word for "off".
    return BeforeValidator(lambda value: None if value in ("off", None) or value is False else parse(value))


def _number(pattern: str, what: str) -> BeforeValidator:
    """Numbers as people write them; True is none, nor is what Python alone reads as one (`1_000`)."""

    def number(value: Any) -> Any:
        if isinstance(value, bool) or (isinstance(value, str) and not re.fullmatch(pattern, value)):
            raise ValueError(f"{value!r} is not {what}")
        return value

    return BeforeValidator(number)


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


def _probing(value: Any) -> int:
    span = duration(value)
    if span < SECOND // 1000:
        raise ValueError("the engine's minimum is 1ms")
    return span


def _list(value: Any) -> Any:
    # A command is a list, never a line to be split on blanks: quotes would be lost.
    if isinstance(value, str):
        raise ValueError(f"give a list, not the text {value!r}")  # noqa: TRY004 - pydantic reports ValueErrors
    return value


def _networks(value: Any) -> str:
    """One name or several, in one text: what a call has as a rule is one."""
    return ",".join(map(str, value)) if isinstance(value, list | tuple) else value


def _count(value: Any) -> Any:
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


_BOOL = Annotated[bool, Strict()]
_TEXT = Annotated[str, Strict()]
_DURATION = Annotated[int, _positive(duration)]
_LIST = Annotated[tuple[_TEXT, ...], BeforeValidator(_list)]
_PROBING = Annotated[int, BeforeValidator(_probing)]
_INTEGER = _number(r"-?[0-9]+", "a whole number")
_TYPES: dict[str, Any] = {
    "network": Annotated[_TEXT, BeforeValidator(_networks)],
    "memory_reservation": Annotated[int, _positive(size), Field(ge=_MEMORY_FLOOR)],
    "shm_size": Annotated[int, _positive(size)],
    "cpu_shares": Annotated[int, _INTEGER, Field(ge=2, le=262144)],
    "oom_score_adj": Annotated[int, _INTEGER, Field(ge=-1000, le=1000)],
    "memory_swappiness": Annotated[int, _INTEGER, Field(ge=0, le=100)],
    "gpus": Annotated[_TEXT, BeforeValidator(_count)],
    "name": Annotated[str, BeforeValidator(_name)],
    "idempotency_key": Annotated[_TEXT, Field(min_length=1, max_length=255)],
    "memory": Annotated[int, _positive(size), Field(ge=_MEMORY_FLOOR)],
    "cpus": Annotated[
        float,
        _number(r"[0-9]+(\.[0-9]*)?|\.[0-9]+", "a number of CPUs (write 2 or 0.5)"),
        Field(ge=_CPUS_FLOOR, le=1024, allow_inf_nan=False),
    ],
    "pids_limit": Annotated[int, _INTEGER, Field(ge=1, le=_PIDS_CEILING)],
    "pull": Literal["missing", "always", "never", "newer"],
    "pull_idle_timeout": _DURATION,
    "health_cmd": Annotated[_TEXT, Field(min_length=1)],
    "health_interval": _PROBING,
    "health_retries": Annotated[int, _INTEGER, Field(ge=1, le=2**31 - 1)],
    "health_start_period": _PROBING,
    "health_probe_timeout": _PROBING,
    "stop_signal": Annotated[str, BeforeValidator(_signal)],
    "stop_timeout": Annotated[int, BeforeValidator(duration)],
    "timeout": _DURATION,
    "prepare_timeout": _DURATION,
    "health_timeout": _DURATION,
    "sample": Annotated[int | None, _or_off(_interval)],
    "log_limit": Annotated[int | None, _or_off(size)],
}


_HINTS = get_type_hints(Spec)


def _as_spec_error(option: str, error: ValidationError) -> SpecError:
    first = error.errors()[0]
    if option in _FLOORS and first["type"] == "greater_than_equal":
        return SpecError(option, f"the engine's minimum is {_FLOORS[option]}")
    message = first["msg"].removeprefix("Value error, ")
    return SpecError(option, message[0].lower() + message[1:])
