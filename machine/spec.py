"""What is asked for: the request of one call.

Field names are the command line's (and Docker's) with underscores. Durations are nanoseconds, sizes
bytes. `Spec.parse` is the door: it takes values as people write them (`"90s"`, `"64m"`), validates all of
them before anything is done, and names the one that is wrong.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from machine.errors import SpecError
from machine.secrets import Redactor, is_secret
from machine.units import SECOND

EMPTY: Mapping[str, str] = MappingProxyType({})
_WORDS = ("driver", "pull", "stop_signal")
OURS = "call-ledger."
"""How the labels begin by which drivers know what is theirs: a call has none of its own that begins so."""


class Spec(NamedTuple):
    """The request, validated. A plain tuple: whoever carries a call out need not load the validation."""

    driver: str = "docker"
    image: str | None = None
    command: tuple[str, ...] = ()
    name: str | None = None
    env: dict[str, str] = {}  # noqa: RUF012 - a default of a tuple: never changed
    secret: tuple[str, ...] = ()
    label: dict[str, str] = {}  # noqa: RUF012
    workdir: str | None = None
    user: str | None = None
    volume: tuple[str, ...] = ()
    tmpfs: tuple[str, ...] = ()
    mount: tuple[str, ...] = ()
    network: str | None = None
    network_of: tuple[str, ...] = ()
    network_alias: tuple[str, ...] = ()
    ip: str | None = None
    ip6: str | None = None
    mac_address: str | None = None
    publish: tuple[str, ...] = ()
    publish_all: bool = False
    hostname: str | None = None
    add_host: tuple[str, ...] = ()
    dns: tuple[str, ...] = ()
    dns_search: tuple[str, ...] = ()
    dns_option: tuple[str, ...] = ()
    memory: int | None = None
    memory_reservation: int | None = None
    memory_swappiness: int | None = None
    shm_size: int | None = None
    cpus: float | None = None
    cpu_shares: int | None = None
    cpuset_cpus: str | None = None
    pids_limit: int | None = None
    ulimit: tuple[str, ...] = ()
    oom_score_adj: int | None = None
    storage_opt: dict[str, str] = {}  # noqa: RUF012
    sysctl: dict[str, str] = {}  # noqa: RUF012
    device: tuple[str, ...] = ()
    gpus: str | None = None
    group_add: tuple[str, ...] = ()
    cap_add: tuple[str, ...] = ()
    cap_drop: tuple[str, ...] = ()
    security_opt: tuple[str, ...] = ()
    privileged: bool = False
    pid: str | None = None
    ipc: str | None = None
    uts: str | None = None
    userns: str | None = None
    cgroupns: str | None = None
    runtime: str | None = None
    log_driver: str | None = None
    log_opt: dict[str, str] = {}  # noqa: RUF012
    platform: str | None = None
    read_only: bool = False
    entrypoint: str | None = None
    init: bool = False
    interactive: bool = False
    tty: bool = False
    pull: str = "missing"
    pull_idle_timeout: int = 120 * SECOND
    health_cmd: str | None = None
    health_interval: int | None = None
    health_retries: int | None = None
    health_start_period: int | None = None
    health_probe_timeout: int | None = None
    no_healthcheck: bool = False
    stop_signal: str | None = None
    stop_timeout: int = 10 * SECOND
    timeout: int | None = None
    prepare_timeout: int | None = None
    health_timeout: int | None = None
    sample: int | None = SECOND
    log_limit: int | None = 16 * 2**20
    keep: bool = False
    hot: bool = False
    idempotency_key: str | None = None

    @staticmethod
    def parse(**options: Any) -> Spec:
        """Validate; SpecError names the first option that is wrong and says what to write."""
        from machine.validation import validate  # which few of those who have a spec need

        return validate(options)

    @staticmethod
    def recorded(record: Mapping[str, Any]) -> Spec:
        """The spec of a record. The values of its secrets are not there: their names are, without values.

        Lists come back as tuples: `Spec.recorded(json of spec.asked())` is the spec again.
        """
        asked: dict[str, Any] = dict(record)
        for name, value in record.items():
            if isinstance(value, list) or (name == "secret" and isinstance(value, dict)):
                asked[name] = tuple(value)
        return Spec(**asked)

    def asked(self) -> dict[str, Any]:
        """The fields that were asked for: all that differ from their defaults. `Spec(**asked)` is the same spec."""
        return {name: value for name, value in self._asdict().items() if value != self._field_defaults[name]}

    def secret_names(self) -> frozenset[str]:
        """The names of the environment variables whose values must not be recorded."""
        return frozenset(name for name in self.env if name in self.secret or is_secret(name))

    def secrets(self, environment: Mapping[str, str] = EMPTY) -> list[str]:
        """The values that must not be recorded: of its own variables, and of `environment`, which it has besides."""
        variables = (*self.env.items(), *environment.items())
        return [value for name, value in variables if name in self.secret or is_secret(name)]

    def redactor(self, environment: Mapping[str, str] = EMPTY) -> Redactor:
        """Finds this call's secrets wherever they turn up: arguments, messages, output."""
        return Redactor(self.secrets(environment))

    def record(self, fingerprint: Callable[[str], str], redactor: Redactor | None = None) -> dict[str, Any]:
        """The request as the ledger keeps it: only what was asked for, secrets as fingerprints.

        `redactor`: one that knows more than the spec's own secrets.
        """
        record = self.asked()
        secret = self.secret_names()
        if plain := {name: value for name, value in self.env.items() if name not in secret}:
            record["env"] = plain
        else:
            record.pop("env", None)
        redact = (redactor or self.redactor()).data
        # A secret may read like an option's name; or like one of the few words that some options may be.
        clean = {name: value if name in _WORDS else redact(value) for name, value in record.items()}
        if secret:
            clean["secret"] = {name: fingerprint(self.env[name]) for name in sorted(secret)}
        return clean

    def require(self, honoured: Iterable[str], driver: str) -> None:
        """SpecError for the first option asked for that `driver` cannot honour. Nothing is silently ignored."""
        for option in sorted(self.asked().keys() - set(honoured)):
            raise SpecError(option, f"the {driver} driver cannot honour it; leave it out or use another driver")

    def health_limit(self, interval: int, probe_timeout: int, retries: int, start_period: int) -> int:
        """How long to wait for health, in ns: what was asked, else what the check itself can take at most."""
        if self.health_timeout is not None:
            return self.health_timeout
        return start_period + (interval + probe_timeout) * (retries + 1) + 30 * SECOND
