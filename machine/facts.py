"""What each kind of event carries: one record a kind, stored as JSON in `event.data`.

Times are integer nanoseconds since the epoch, UTC. A field that was not observed is absent (None),
never zero.
"""

from __future__ import annotations

import json
from typing import Any, ClassVar, Literal

from machine.record import Record
from machine.states import Kind, Reason


class _Kept(Record):
    def dump(self) -> str:
        """Compact JSON: no absent fields, keys in declared order."""
        return dump(self.record())


class Fact(_Kept):
    """What an event says. `dump` is what the ledger keeps."""

    kind: ClassVar[Kind]


def dump(record: dict[str, Any]) -> str:
    """A record as the ledger's JSON text."""
    return json.dumps(record, separators=(",", ":"), ensure_ascii=False)


class Owner(Record):
    """The process that conducts a call. A pid alone proves nothing: it goes with boot and start time."""

    runner: str
    host: str
    boot: str
    pid: int
    pid_started: int
    pid_namespace: int = 0


class Requester(Record):
    """Who asked, as far as the operating system tells: never a secret, never a guess."""

    user: str
    uid: int
    pid: int
    host: str
    via: Literal["api", "cli", "interrupt", "terminate", "close"] = "api"


class Submitted(Fact):
    """A call exists. `spec` is the request as recorded: secrets replaced by keyed fingerprints.

    `idempotency_key`: what makes it the same call when it is asked for twice.
    """

    kind = Kind.SUBMITTED
    uid: str
    name: str | None = None
    idempotency_key: str | None = None
    image: str | None = None
    driver: str
    spec: dict[str, Any]
    owner: Owner


class Pulled(Fact):
    """The image was fetched for this call. `fallback` says why a failed pull did not matter."""

    kind = Kind.PULLED
    image: str
    seconds: float
    fallback: str | None = None


class Prepared(Fact):
    """The container is created and has not started. `image_digest` is what will really run.

    `network`: the one that was chosen of several.
    `holder`: the container of a pool whose network it joins. `hot`: it is a container of several calls.
    """

    kind = Kind.PREPARED
    container: str
    image_id: str | None = None
    image_digest: str | None = None
    cgroup_parent: str | None = None
    warnings: tuple[str, ...] = ()
    holder: str | None = None
    hot: Literal[True] | None = None
    network: str | None = None


class Started(Fact):
    """The process runs. `engine_at` is the engine's StartedAt.

    `ports`: where the published ones are, `{"80/tcp": ["0.0.0.0:49153"]}`.
    """

    kind = Kind.STARTED
    engine_at: int | None = None
    pid: int | None = None
    deadline: int | None = None
    ports: dict[str, tuple[str, ...]] | None = None


class HealthAwaited(Fact):
    """A health check is configured: the call is not ready before it says so. `limit` in nanoseconds."""

    kind = Kind.HEALTH_AWAITED
    limit: int


class Healthy(Fact):
    """The health check passed."""

    kind = Kind.HEALTHY


class Paused(Fact):
    """All processes are frozen. The deadline goes on."""

    kind = Kind.PAUSED


class Resumed(Fact):
    """The processes go on."""

    kind = Kind.RESUMED


class Ended(_Kept):
    """What the five terminal kinds have in common; `machine.verdict` makes them."""

    reason: Reason
    message: str | None = None
    exit_code: int | None = None
    signal: str | None = None
    oom: Literal["certain", "likely"] | None = None
    never_ran: bool = False
    cpu_ns: int | None = None
    mem_peak_bytes: int | None = None
    evidence: dict[str, Any] = {}  # noqa: RUF012 - Record copies it


class Signalled(Fact):
    """We sent a signal, or tried: `error` is the engine's answer when it did not arrive.

    Of a pause, and of its end, only the failure is told here, as STOP and CONT; what worked is `paused`, `resumed`.
    """

    kind = Kind.SIGNALLED
    signal: str
    why: Literal["deadline", "health", "unhealthy", "cancel", "kill", "signal", "pause", "resume"]
    error: str | None = None


class CancelRequested(Fact):
    """Somebody asked for the end, in good order: stop signal, grace, SIGKILL."""

    kind = Kind.CANCEL_REQUESTED
    by: Requester
    comment: str | None = None


class KillRequested(Fact):
    """Somebody asked for a signal that ends the call."""

    kind = Kind.KILL_REQUESTED
    by: Requester
    signal: str


class HealthChanged(Fact):
    """The engine's health status changed. `output` is the end of the last probe's output."""

    kind = Kind.HEALTH_CHANGED
    status: str
    output: str | None = None


class OomSeen(Fact):
    """The kernel killed something in the container for memory. The call may live on."""

    kind = Kind.OOM_SEEN
    source: Literal["event", "cgroup"]


Unseen = Literal["samples", "events", "output", "clock"]


class Gap(Fact):
    """Nothing was observed between two instants, and why. `lost` counts what is known to be missing.

    Of the `clock`: the wall clock was set from one instant to the other; `why` says which way.
    """

    kind = Kind.GAP
    of: Unseen
    since: int
    until: int
    why: str
    lost: int | None = None


class OutputCut(Fact):
    """The output was longer than the log limit: `lost` bytes of its middle are not kept."""

    kind = Kind.OUTPUT_CUT
    stream: Literal["stdout", "stderr"]
    offset: int
    lost: int


class Cleaned(Fact):
    """The container is gone (`removed`), kept on purpose, or could not be removed (`error`)."""

    kind = Kind.CLEANED
    removed: bool
    error: str | None = None


class Adopted(Fact):
    """Another process conducts the call from here on, because its owner (`previous`, a runner) is gone."""

    kind = Kind.ADOPTED
    owner: Owner
    previous: str
    why: str


class Pruned(Fact):
    """A tombstone: what was removed from the log on purpose, and by whom. Each part is absent if it stayed.

    `samples` and `output` map the seq of each event that covered some of those rows to their digest (S and C
    of docs/ledger.md), so that the chain can still be checked. `events` is a digest over the events before
    this one, whose data was emptied; `kept` is then what the call's row is folded from. `histogram` is the
    digest of the rows of `histogram` that outlive their samples.
    """

    kind = Kind.PRUNED
    by: Requester
    samples: dict[str, str] | None = None
    output: dict[str, str] | None = None
    events: str | None = None
    kept: dict[str, Any] | None = None
    histogram: str | None = None


class Admitted(Fact):
    """The call had to wait its turn: `waited` ns, `lacking` what there was not enough of until then."""

    kind = Kind.ADMITTED
    waited: int
    lacking: tuple[str, ...] = ()


class PullProgressed(Fact):
    """How far fetching the image has come, bytes; `total` is what is known of it so far."""

    kind = Kind.PULL_PROGRESSED
    image: str
    current: int
    total: int | None = None


class PauseRequested(Fact):
    """Somebody asked for all processes to be frozen."""

    kind = Kind.PAUSE_REQUESTED
    by: Requester


class ResumeRequested(Fact):
    """Somebody asked for them to go on."""

    kind = Kind.RESUME_REQUESTED
    by: Requester


class SignalRequested(Fact):
    """Somebody asked for a signal that is a message, and does not make the end a killing."""

    kind = Kind.SIGNAL_REQUESTED
    by: Requester
    signal: str


class Executed(Fact):
    """Somebody ran another command inside the container. `exit_code` None: its end was not seen."""

    kind = Kind.EXECUTED
    by: Requester
    command: tuple[str, ...]
    exit_code: int | None = None
    seconds: float | None = None
    error: str | None = None


class Listed(Fact):
    """Somebody looked at the processes in the container."""

    kind = Kind.LISTED
    by: Requester
