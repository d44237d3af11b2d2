"""What is asked for: the request of one call, validated before anything is done.

Field names are the command line's (and Docker's) with underscores. Durations are nanoseconds and sizes
bytes once validated; both are given as people write them (`"90s"`, `"64m"`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, field_validator, model_validator

from machine.errors import SpecError
from machine.secrets import Redactor, is_secret
from machine.units import SECOND, duration, size
from machine.verdict import signal_name, signal_number

SAMPLE_FLOOR = SECOND // 10
_MEMORY_FLOOR = 6 * 2**20  # the engine's own minimum
_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]{0,127}")


def _some(parse: Callable[[Any], int]) -> Callable[[Any], int]:
    def positive(value: Any) -> int:
        number = parse(value)
        if number <= 0:
            raise ValueError("must be more than zero")
        return number

    return positive


def _off(parse: Callable[[Any], int]) -> Callable[[Any], int | None]:
    return lambda value: None if value in (None, "off", False) else parse(value)


def _signal(value: Any) -> str:
    return signal_name(signal_number(value))


Duration = Annotated[int, BeforeValidator(_some(duration))]
Grace = Annotated[int, BeforeValidator(duration)]
Size = Annotated[int, BeforeValidator(_some(size))]
Signal = Annotated[str, BeforeValidator(_signal)]


class Spec(BaseModel):
    """The request. Frozen; `Spec.parse` is the door: it names the wrong option in one line."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    driver: str = "docker"
    image: str | None = None
    command: tuple[str, ...] = ()
    name: str | None = None
    env: dict[str, str] = {}
    secret: tuple[str, ...] = ()
    label: dict[str, str] = {}
    workdir: str | None = None
    user: str | None = None
    volume: tuple[str, ...] = ()
    tmpfs: tuple[str, ...] = ()
    network: str | None = None
    memory: Annotated[Size, Field(ge=_MEMORY_FLOOR)] | None = None
    cpus: Annotated[float, Field(gt=0, le=1024, allow_inf_nan=False)] | None = None
    pids_limit: Annotated[int, Field(ge=1)] | None = None
    read_only: bool = False
    entrypoint: str | None = None
    init: bool = False
    interactive: bool = False
    pull: Literal["missing", "always", "never"] = "missing"
    health_cmd: str | None = None
    health_interval: Duration | None = None
    health_retries: Annotated[int, Field(ge=1)] | None = None
    health_start_period: Duration | None = None
    health_probe_timeout: Duration | None = None
    no_healthcheck: bool = False
    stop_signal: Signal | None = None
    stop_timeout: Grace = 10 * SECOND
    timeout: Duration | None = None
    prepare_timeout: Duration | None = None
    health_timeout: Duration | None = None
    sample: Annotated[int | None, BeforeValidator(_off(duration))] = SECOND
    log_limit: Annotated[int | None, BeforeValidator(_off(size))] = 16 * 2**20
    keep: bool = False

    @classmethod
    def parse(cls, **options: Any) -> Spec:
        """Validate; SpecError names the first option that is wrong and says what to write."""
        try:
            return cls(**options)
        except ValidationError as error:
            raise _as_spec_error(error) from None

    @field_validator("name")
    @classmethod
    def _plain_name(cls, name: str | None) -> str | None:
        if name is not None and not _NAME.fullmatch(name):
            raise ValueError(f"{name!r} is not a name (letters, digits, _ . - and a letter or digit first)")
        return name

    @field_validator("sample")
    @classmethod
    def _not_too_often(cls, interval: int | None) -> int | None:
        if interval is not None and interval < SAMPLE_FLOOR:
            raise ValueError(f"at least {SAMPLE_FLOOR // 1_000_000}ms between samples (or off)")
        return interval

    @field_validator("command", "volume", "tmpfs", mode="before")
    @classmethod
    def _a_list(cls, value: Any) -> Any:
        # A command is a list, never a line to be split on blanks: quotes would be lost.
        if isinstance(value, str):
            raise ValueError(f"give a list, not the text {value!r}")
        return value

    @field_validator("command", "env", "label", "volume", "tmpfs")
    @classmethod
    def _no_nul(cls, value: Any) -> Any:
        items = [*value, *value.values()] if isinstance(value, dict) else value
        if any("\0" in item for item in items):
            raise ValueError("contains a NUL character")
        return value

    @model_validator(mode="after")
    def _consistent(self) -> Spec:
        if self.driver == "docker" and not self.image:
            raise SpecError("image", "no image given")
        if self.no_healthcheck and self.health_cmd:
            raise SpecError("no_healthcheck", "contradicts --health-cmd")
        if any(not name or "=" in name for name in self.env):
            raise SpecError("env", "a variable needs a name without '='")
        return self

    def secret_names(self) -> frozenset[str]:
        """The names of the environment variables whose values must not be recorded."""
        return frozenset(name for name in self.env if name in self.secret or is_secret(name))

    def redactor(self) -> Redactor:
        """Finds this call's secrets wherever they turn up: arguments, messages, output."""
        return Redactor(self.env[name] for name in self.secret_names())

    def record(self, fingerprint: Callable[[str], str]) -> dict[str, Any]:
        """The request as the ledger keeps it: only what was asked for, secrets as fingerprints."""
        asked = self.model_dump(mode="json", exclude_unset=True, exclude={"env", "secret"})
        secret = self.secret_names()
        record: dict[str, Any] = self.redactor().data(asked)
        if plain := {name: value for name, value in self.env.items() if name not in secret}:
            record["env"] = self.redactor().data(plain)
        if secret:
            record["secret"] = {name: fingerprint(self.env[name]) for name in sorted(secret)}
        return record

    def require(self, honoured: Mapping[str, Any] | frozenset[str], driver: str) -> None:
        """SpecError for the first option set that `driver` cannot honour. Nothing is silently ignored."""
        for option in sorted(self.model_fields_set - set(honoured)):
            if getattr(self, option) not in (None, False, (), {}):
                raise SpecError(option, f"the {driver} driver cannot honour it; leave it out or use another driver")

    def health_limit(self, interval: int, probe_timeout: int, retries: int, start_period: int) -> int:
        """How long to wait for health, in ns: what was asked, else what the check itself can take at most."""
        if self.health_timeout is not None:
            return self.health_timeout
        return start_period + (interval + probe_timeout) * (retries + 1) + 30 * SECOND


def _as_spec_error(error: ValidationError) -> SpecError:
    first = error.errors()[0]
    cause = first.get("ctx", {}).get("error")
    if isinstance(cause, SpecError):
        return cause
    option = str(first["loc"][0]) if first["loc"] else "spec"
    if first["type"] == "extra_forbidden":
        return SpecError(option, "there is no such option")
    if option == "memory" and first["type"] == "greater_than_equal":
        return SpecError(option, "the engine's minimum is 6m")
    message = first["msg"].removeprefix("Value error, ")
    return SpecError(option, message[0].lower() + message[1:])

