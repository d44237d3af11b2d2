"""Figures for Prometheus: those of a ledger, and those of a runner at work. By its conventions for names and units.

What a ledger says is the same from whichever process it is asked: it need be scraped from one of them only. No label
names a call: there are as many series as there are states, reasons and operations, however many calls there are.
"""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Iterator, Mapping
from functools import partial
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from ledger.tally import PULLS, STATES, Buckets, Tally
from machine.errors import CallsError, UsageError
from machine.facts import Unseen
from machine.states import REASONS

if TYPE_CHECKING:
    from calls.cleaner import Cleaner
    from calls.runner import Runner
    from driver.standing import Standing

try:
    from prometheus_client import CollectorRegistry, generate_latest
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
    from prometheus_client.exposition import start_http_server
    from prometheus_client.registry import Collector
    from prometheus_client.utils import floatToGoString
except ImportError as error:
    raise UsageError("metrics need prometheus-client: pip install 'call-ledger[metrics]'") from error

ADDRESS = "127.0.0.1"
"""Where figures are served unless another address is given: nobody else's business, as long as nobody says so."""
_ANSWERS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
"""Seconds: how long an engine takes to answer."""


class LedgerFigures(Collector):
    """What all calls of a ledger add up to."""

    def __init__(self, path: Path) -> None:
        """Nothing is read yet."""
        self._tally = Tally(path)
        self._lock = threading.Lock()

    def check(self) -> None:
        """LedgerError when there is nothing to be read."""
        with self._lock:
            self._tally.update()

    def collect(self) -> Iterator[Metric]:
        """`call_ledger_up`, and while it is 1, the others."""
        with self._lock:
            try:
                self._tally.update()
            except CallsError:
                yield _gauge("up", "Whether the ledger could be read.", {(): 0})
                return
            yield _gauge("up", "Whether the ledger could be read.", {(): 1})
            yield from _of(self._tally)


def _of(tally: Tally) -> Iterator[Metric]:
    ended = {(str(state), str(reason)): 0 for state, reasons in REASONS.items() for reason in sorted(reasons)}
    yield _counter("calls", "Calls that have ended.", {**ended, **tally.ended}, "state", "reason")
    live = {(str(state),): tally.live[state] for state in STATES}
    yield _gauge("live_calls", "Calls that have not ended.", live, "state")
    spent = {(state,): buckets for state, buckets in tally.spent.items()}
    yield _histogram("call_state_seconds", "How long calls that have ended were in each state.", spent, "state")
    waited = {(): tally.waited}
    yield _histogram("call_waiting_seconds", "How long calls waited for room, of those that had to.", waited)
    pulls = {(outcome,): tally.pulls[outcome] for outcome in PULLS}
    yield _counter("image_pulls", "Images fetched for a call, or not, and why.", pulls, "outcome")
    gaps = {(what,): tally.gaps[what] for what in get_args(Unseen)}
    yield _counter("gaps", "Spans of time in which something of a call was not observed.", gaps, "of")
    yield _counter("samples_lost", "Samples that were taken and could not be kept.", {(): tally.samples_lost})


class RunnerFigures(Collector):
    """What a runner is doing: its calls, its requests to the engine, and what it keeps ready."""

    def __init__(self, runner: Runner) -> None:
        """Nothing is measured yet."""
        self._runner = runner
        self._lock = threading.Lock()
        self._requests: defaultdict[tuple[str, ...], Buckets] = defaultdict(partial(Buckets, _ANSWERS))

    def measure(self, operation: str, outcome: str, seconds: float) -> None:
        """A request was answered, or not: see `driver.docker.door.Measure`."""
        with self._lock:
            self._requests[operation, outcome].add(seconds)

    def collect(self) -> Iterator[Metric]:
        """Now."""
        under_way, waiting = self._runner.admission.counts()
        phases = {("under-way",): under_way, ("waiting",): waiting}
        yield _gauge("runner_calls", "Calls of this runner: carried out, or waiting for room.", phases, "phase")
        text = "Time until the engine's answer began, by what was asked and what came of it."
        with self._lock:
            yield _histogram("engine_request_seconds", text, self._requests, "operation", "outcome")
        yield from _ready(self._runner.standing())
        if self._runner.cleaner is not None:
            yield from _kept(self._runner.cleaner)


def _ready(standing: Standing) -> Iterator[Metric]:
    hot = {(state,): standing.hot[state] for state in ("busy", "idle", "paused")}
    yield _gauge("hot_containers", "Containers that stay for several calls.", hot, "state")
    yield _counter("hot_evictions", "Hot containers that had to make room for a call.", {(): standing.evicted})
    holders = {(state,): standing.holders[state] for state in ("free", "lent")}
    yield _gauge("pool_holders", "Network namespaces that are kept ready for calls.", holders, "state")
    heard = {(action,): count for action, count in standing.events.items()}
    yield _counter("engine_events", "Events of the engine that calls were told of.", heard, "action")


def _kept(cleaner: Cleaner) -> Iterator[Metric]:
    found = cleaner.cleaned
    states = ("idle", "in use", "exempt", "only here")
    numbers, sizes = ({(state.replace(" ", "-"),): each[state] for state in states} for each in found[:2])
    yield _gauge("used_images", "Images that calls have used, by why they are kept.", numbers, "state")
    yield _gauge("used_images_bytes", "What they take, layers that they share counted for each.", sizes, "state")
    yield _gauge("used_images_limit_bytes", "What they may take.", {(): cleaner.limit})
    yield _counter("removed_images", "Images that were removed to keep within the limit.", {(): found.removed})


class Exporter:
    """Serves the figures of a runner and of its ledger."""

    def __init__(self, runner: Runner, port: int | str) -> None:
        """Begins to count. UsageError when `port` is no place to listen at."""
        self._where = place(port, "metrics_port")
        self._runner, self._figures = runner, RunnerFigures(runner)
        self._endpoint: Endpoint | None = None
        self.measure = self._figures.measure

    def serve(self) -> None:
        """Begin to answer. UsageError when nobody can listen there."""
        self._endpoint = Endpoint(self._where, "metrics_port", LedgerFigures(self._runner.ledger.path), self._figures)

    @property
    def url(self) -> str | None:
        """Where; None before it answers."""
        return None if self._endpoint is None else self._endpoint.url

    def close(self) -> None:
        """Answer nobody any more. Idempotent."""
        if self._endpoint is not None:
            self._endpoint.close()


class Endpoint:
    """Serves figures at `url`, until it is closed."""

    def __init__(self, where: tuple[str, int], option: str, *figures: Collector) -> None:
        """`where`: see `place`. UsageError names the option when it cannot be had."""
        address, port = where
        try:
            self._server, self._thread = start_http_server(port, address, _registry(*figures))
        except (OSError, UnicodeError) as error:  # the latter: no host can have such a name
            reason = getattr(error, "strerror", None) or str(error)
            raise UsageError(
                f"{option}: cannot listen on {address}:{port}: {reason[:1].lower()}{reason[1:]}"
            ) from error
        host = f"[{address}]" if ":" in address else address
        self.url = f"http://{host}:{self._server.server_port}/metrics"

    def close(self) -> None:
        """Answer nobody any more. Idempotent."""
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


def text(*figures: Collector) -> str:
    """The figures as they are served."""
    return generate_latest(_registry(*figures)).decode()


def _registry(*figures: Collector) -> CollectorRegistry:
    registry = CollectorRegistry()
    for each in figures:
        registry.register(each)
    return registry


def place(given: str | int, option: str) -> tuple[str, int]:
    """[ADDRESS:]PORT, where port 0 is any that is free -> both. UsageError names the option."""
    address, _, port = str(given).rpartition(":")
    if not (port.isascii() and port.isdecimal() and len(port) <= 5 and int(port) < 2**16):
        raise UsageError(f"{option}: {given!r} is no place to listen at (write 9464 or 0.0.0.0:9464)")
    return address.strip("[]") or ADDRESS, int(port)


# The keys are the values of the labels, a tuple.


def _counter(name: str, text: str, values: Mapping[Any, float], *labels: str) -> Metric:
    family = CounterMetricFamily(f"call_ledger_{name}", text, labels=labels)
    for each, value in values.items():
        family.add_metric(each, value)
    return family


def _gauge(name: str, text: str, values: Mapping[Any, float], *labels: str) -> Metric:
    family = GaugeMetricFamily(f"call_ledger_{name}", text, labels=labels)
    for each, value in values.items():
        family.add_metric(each, value)
    return family


def _histogram(name: str, text: str, values: Mapping[Any, Buckets], *labels: str) -> Metric:
    family = HistogramMetricFamily(f"call_ledger_{name}", text, labels=labels)
    for each, buckets in values.items():
        bounds = [*map(floatToGoString, buckets.bounds), "+Inf"]
        family.add_metric(each, list(zip(bounds, map(float, accumulate(buckets.counts)), strict=True)), buckets.sum)
    return family
