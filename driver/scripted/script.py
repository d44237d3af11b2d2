"""What one container does, and when."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

from driver import protocol as facts
from driver.protocol import HealthCheck
from machine.errors import DriverError
from machine.samples import Sample
from machine.units import duration

if TYPE_CHECKING:
    from driver.scripted.driver import ScriptedContainer


class Step(NamedTuple):
    """What happens to a container, `after` ns from its start or, as an answer, from the signal."""

    after: int
    play: Callable[[ScriptedContainer], object]


def writes(data: bytes, stream: int = facts.STDOUT, *, after: float = 0) -> Step:
    """The process writes."""
    return Step(duration(after), lambda container: container.write(stream, data))


def exits(code: int, *, after: float = 0, seen: bool = True) -> Step:
    """The process ends by itself. `seen`: see `happens`."""
    return happens(facts.Died, code, "die", after=after, seen=seen)


def happens(kind: Callable[..., facts.Fact], *details: Any, after: float = 0, seen: bool = True) -> Step:
    """Any fact of `driver.protocol`: `happens(Died, 137, "wait4", 9, after=2)`; `details` follow its time.

    Not `seen`: it is not reported, and only `inspect` knows. A ForeignSignal is answered like one of ours.
    """
    return Step(duration(after), lambda container: container.happen(kind, *details, seen=seen))


class Script(NamedTuple):
    """What one container does. Durations in seconds.

    `steps` in any order; what a process does ends with it. `on_signal`: how it answers a signal (`TERM`),
    None to ignore it; any other ends it at once with 128 + its number. Not `output_ends`: something holds
    the output open. `pulls`: how long fetching the image takes. `stop_signal`: the image's. `samples`: one
    each interval. `refuse_…`: raised, nothing is done. `start_unanswered`: it starts and nobody says so.
    For whoever rejoins it: not `remembers`, its output cannot be read again; not `recalls`, nobody says what
    happened meanwhile. `executes`: what other commands write that are run in it, and their exit codes.
    `environment`: what it has besides what its spec sets, as from an image.
    """

    steps: Sequence[Step] = ()
    on_signal: Mapping[str, Step | None] = MappingProxyType({})
    output_ends: bool = True
    pulls: float = 0
    stop_signal: str = "TERM"
    health: HealthCheck | None = None
    health_output: str | None = None
    samples: Sequence[Sample] = ()
    totals: Sample | None = None
    refuse_prepare: DriverError | None = None
    refuse_start: DriverError | None = None
    refuse_signal: DriverError | None = None
    refuse_pause: DriverError | None = None
    refuse_remove: DriverError | None = None
    start_unanswered: bool = False
    remembers: bool = True
    recalls: bool = True
    executes: Mapping[tuple[str, ...], tuple[bytes, int]] = MappingProxyType({})
    environment: Mapping[str, str] = MappingProxyType({})
