"""What a driver is, and the facts it reports.

`Driver.prepare` makes a `Container`; the runner starts it, listens, and removes it. Whatever happens in
between reaches the runner through the call's `Watcher`, from whichever thread saw it first. Every method
of a container is idempotent. Errors are `DriverError` (it was refused) or `UnknownOutcomeError` (no
answer: look with `inspect`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple, Protocol

from machine.samples import Sample
from machine.spec import EMPTY, OURS, Spec

STDOUT, STDERR = 1, 2
"""The streams of output, as the engine and the ledger number them."""


class Died(NamedTuple):
    """The process ended. `signal` only where the source tells a signal from an exit code.

    `source`: the engine's event; the parent that waited for it, which is us, or the shell of a hot container.
    """

    at: int
    exit_code: int
    source: Literal["die", "wait4", "shell"]
    signal: int | None = None


class OomKilled(NamedTuple):
    """The kernel killed a process of the call for memory."""

    at: int
    source: Literal["event", "cgroup"] = "event"


class HealthStatus(NamedTuple):
    """The health status changed: `healthy`, `unhealthy` or `starting`."""

    at: int
    status: str


class ForeignSignal(NamedTuple):
    """Somebody else sent a signal (`KILL`, `TERM`); `stop` when it was the end of a stop request.

    `by_engine`: it was the engine itself, as it was started again.
    """

    at: int
    signal: str
    stop: bool = False
    by_engine: bool = False


class Froze(NamedTuple):
    """All processes were paused."""

    at: int


class Thawed(NamedTuple):
    """All processes go on."""

    at: int


class Destroyed(NamedTuple):
    """The container is gone, removed by somebody else."""

    at: int


class OutputEnded(NamedTuple):
    """Both streams of output are at their end: most likely the process is, too."""

    at: int


class OutputResumed(NamedTuple):
    """The output had broken off at `since`, and comes again from where it did, as far as it was kept.

    So will OutputEnded.
    """

    at: int
    since: int


class Unwatched(NamedTuple):
    """Facts may have been missed from `since` until now: look with `inspect`. Not `over`: and are being missed."""

    at: int
    since: int
    why: str
    over: bool = True


class Unreadable(NamedTuple):
    """`lost` readings of the source of samples made no sense; `example`: how the first of them begins."""

    at: int
    since: int
    lost: int
    example: str


Fact = (
    Died
    | OomKilled
    | HealthStatus
    | ForeignSignal
    | Froze
    | Thawed
    | Destroyed
    | OutputEnded
    | OutputResumed
    | Unwatched
    | Unreadable
)
"""Something seen. `at`: ns since the epoch, by the clock of whoever saw it."""


class Watcher(Protocol):
    """The runner's ear for one call. Methods may be called from any thread and return soon."""

    def fact(self, fact: Fact) -> None:
        """Something happened."""

    def output(self, stream: int, data: bytes) -> None:
        """Output arrived; may wait, so that a slow reader slows the call down and loses nothing."""

    def pulled(self, image: str, seconds: float, fallback: str | None) -> None:
        """The image was fetched, or could not be and a local one serves (`fallback` says why)."""

    def pull_progressed(self, image: str, current: int, total: int) -> None:
        """So many bytes of those known of are here. It is recorded: to be said a few times, not every moment."""

    def credentials(self, registry: str) -> Mapping[str, Any] | None:
        """What the call itself brings for the registry of that host; None for nothing. Never recorded.

        DriverError when whoever was to say it has failed.
        """

    def progress(self, text: str) -> None:
        """One line for a person who waits; may be dropped."""

    def given_up(self) -> bool:
        """Whether preparing has become pointless: cancelled, or its time is over."""


class HealthCheck(NamedTuple):
    """The health check that is in force; nanoseconds."""

    interval: int
    timeout: int
    retries: int
    start_period: int


class Preparation(NamedTuple):
    """What was prepared. `stop_signal` is the one in force: the spec's, the image's, or TERM.

    `network`: the one that was chosen of several.
    `holder`: the container whose network it joins, from a pool. `hot`: other calls use the container before and after.
    `environment`: of the container, where it was told already.
    """

    container: str
    image_id: str | None = None
    image_digest: str | None = None
    cgroup_parent: str | None = None
    stop_signal: str = "TERM"
    health: HealthCheck | None = None
    warnings: tuple[str, ...] = ()
    holder: str | None = None
    hot: bool = False
    network: str | None = None
    environment: Mapping[str, str] = EMPTY


class Beginning(NamedTuple):
    """The process was started: the engine's time and the process id on this host, where known.

    `ports`: where the published ones are, `{"80/tcp": ("0.0.0.0:49153",)}`.
    """

    engine_at: int | None = None
    pid: int | None = None
    ports: dict[str, tuple[str, ...]] | None = None


class Observation(NamedTuple):
    """What `inspect` saw. Times are None for "never".

    `health_output`: what the last probe wrote, as far as the source has it. Whole: a part of a secret is not found.
    """

    status: Literal["created", "running", "paused", "exited", "gone"]
    exit_code: int | None = None
    started_at: int | None = None
    finished_at: int | None = None
    oom_killed: bool = False
    error: str | None = None
    health: str | None = None
    health_output: str | None = None
    pid: int | None = None
    ports: dict[str, tuple[str, ...]] | None = None


class Process(NamedTuple):
    """One process of a container, by the numbers of its host. `cpu_seconds` None: it is not said."""

    pid: int
    parent: int | None
    user: str
    cpu_seconds: float | None
    command: str


Resize = Callable[[int, int], None]
"""Takes the rows and columns that a terminal is to have."""


class Execution(NamedTuple):
    """Another command, to be run in a container. `interactive`: it reads our standard input.

    `terminal`: it has a terminal of its own, and this is called once it was asked for, with what sets the size of that.
    """

    command: tuple[str, ...]
    env: Mapping[str, str]
    user: str | None = None
    workdir: str | None = None
    interactive: bool = False
    terminal: Callable[[Resize], None] | None = None


class Trace(NamedTuple):
    """What the record says of a call whose runner is gone. Each is None where nothing was recorded.

    `since`: the time of its last event (ns), from which on nothing was seen.
    """

    since: int
    container: str | None = None
    pid: int | None = None
    image_id: str | None = None
    image_digest: str | None = None
    cgroup_parent: str | None = None


class Leftover(NamedTuple):
    """A container of this ledger, as found; `created_at` in ns. An empty `uid`: its runner's, and no call's.

    With the status `gone` there is none (any more), but something that was made for it: a network, a volume.
    """

    uid: str
    runner: str
    container: str
    status: str
    created_at: int


Sink = Callable[[int, Sample], None]
"""Takes a sample and its time (ns since the epoch)."""


class Meter(Protocol):
    """A source of samples for one call, read by the sampler."""

    def read(self) -> Sample | None:
        """Counters and gauges now, without percentages; None when the source is gone."""

    def close(self) -> None:
        """Let go of it; called once, by the sampler."""


class Sampling(Protocol):
    """The shared sampler, as drivers see it."""

    def add(self, meter: Meter, interval: int, sink: Sink) -> Callable[[], None]:
        """Read `meter` every `interval` ns into `sink`; -> a function that ends it."""


class Container(Protocol):
    """One prepared call."""

    @property
    def preparation(self) -> Preparation:
        """What was prepared."""

    def start(self) -> Beginning:
        """Start it, once. Output and facts are connected before, so that nothing is missed."""

    def rejoin(self) -> bool:
        """Instead of `start`, for what another process started: connect output and facts.

        The output comes again from its beginning; False when it cannot, and comes only from now on, or not
        at all. Of an ended container, what is left to read comes, and OutputEnded. Facts that the source still
        remembers since `Trace.since` (a signal, an out-of-memory) are reported.
        """

    def discard(self) -> bool:
        """Remove it unless it was ever started; False, and nothing is done, when it was."""

    def environment(self) -> dict[str, str]:
        """The environment that it was created with, all of it: what there is secret is known from here alone.

        Every call is asked, when it is prepared and when it is recovered.
        """

    def signal(self, name: str) -> bool:
        """Send a signal; False when there is no running process to take it."""

    def pause(self) -> bool:
        """Freeze its processes, and report Froze; False when nothing runs. What is frozen already stays so."""

    def resume(self) -> bool:
        """Let them go on, and report Thawed; False when nothing runs. What goes on already is left alone."""

    def processes(self) -> list[Process]:
        """Its processes now; none when nothing runs."""

    def execute(self, wanted: Execution, output: Callable[[int, bytes], None]) -> int:
        """Run another command in it, to its end; -> its exit code. `output` gets (stream, bytes), all in this thread.

        DriverError when nothing runs, or where there is no such thing. It is no part of the call: it is not stopped
        with it, and nothing it writes is reported.
        """

    def resize(self, rows: int, columns: int) -> None:
        """Set the size of its terminal. Where there is none, or nothing runs, nothing happens."""

    def inspect(self) -> Observation:
        """The truth, as far as the source knows it."""

    def observe(self, sampling: Sampling, interval: int, sink: Sink) -> int | None:
        """Begin sampling, from the best source there is; -> how far apart its samples are, ns; None: there are none."""

    def totals(self) -> Sample | None:
        """End sampling and read one last time: total CPU and peak memory, known even for a very short call."""

    def remove(self) -> None:
        """Remove it with what it left behind. Gone already is fine."""

    def close(self) -> None:
        """Let go of threads and sockets, not of the container."""


class Driver(Protocol):
    """A way to carry out calls. Thread-safe. `takes_image`: whether its calls have an image."""

    name: str
    takes_image: bool

    def check(self, spec: Spec) -> None:
        """SpecError for an option that this driver cannot honour, before anything is written."""

    def prepare(self, uid: str, spec: Spec, watcher: Watcher) -> Container:
        """Make everything ready but start nothing. A container of this very call is adopted, not made twice."""

    def recover(self, uid: str, spec: Spec, watcher: Watcher, trace: Trace) -> Container | None:
        """The container that this call has already, whoever made it; None when it is gone, or never was.

        Makes nothing and starts nothing. `spec` comes from the record: its secrets are not known. DriverError
        when it cannot be told.
        """

    def leftovers(self) -> list[Leftover]:
        """Every container of this ledger, running or not, and what was made for those that are gone."""

    def reap(self, leftover: Leftover) -> None:
        """Remove it, with what it left behind. Gone already is fine."""

    def forget(self, uid: str) -> None:
        """Remove what a call whose container is gone has left on this host. Of thousands in a row: nobody is asked."""

    def describe(self) -> dict[str, Any]:
        """What is there, for `calls doctor`: engine, version, where samples come from. DriverError if nothing is."""

    def close(self) -> None:
        """Let go of everything. Idempotent."""


LABEL = OURS


class Labels(NamedTuple):
    """Whose containers these are: every container carries its ledger, runner and call."""

    ledger: str
    runner: str

    def of(self, uid: str) -> dict[str, str]:
        """The labels of one call's container."""
        return {f"{LABEL}ledger": self.ledger, f"{LABEL}runner": self.runner, f"{LABEL}call": uid}
