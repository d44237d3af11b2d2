"""Warm networks: holders of ready network namespaces, which calls join, so that none waits for a network to be made.

A holder is a container whose process does nothing. A call that joins it (`NetworkMode: container:HOLDER`) has the
holder's addresses, host name, `/etc/hosts` and `resolv.conf`, and nobody else's process beside it: a holder serves one
call at a time. It is lent again after the call, or with `once` replaced.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import threading
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from driver.cgroup import network
from driver.deaf import Deaf
from driver.docker.container import DockerContainer
from driver.docker.engine import look, remove
from driver.docker.errors import speaking
from driver.docker.warm import Warm
from driver.protocol import LABEL, Beginning, Labels, Meter, Preparation, Watcher
from driver.since import NETWORK, MeterSince
from machine.errors import DriverError
from machine.samples import Sample
from machine.spec import Spec
from machine.states import Reason

if TYPE_CHECKING:
    from driver.docker.driver import DockerDriver

HOLDER = f"{LABEL}holder"
"""The label of a holder: the network that it holds."""
_RETRY = (1, 2, 5, 10, 30)
_REMOVALS = 4  # at once, when the pool is closed

# What a call may ask for and still live in another's network namespace. What is not named here makes its own: all that
# concerns the network, and all by which a call could change the namespace for the next one.
_JOINS = frozenset((
    *("driver", "image", "command", "name", "env", "secret", "label", "workdir", "user", "volume", "tmpfs", "network"),
    *("memory", "cpus", "pids_limit", "read_only", "entrypoint", "init", "interactive", "pull", "pull_idle_timeout"),
    *("health_cmd", "health_interval", "health_retries", "health_start_period", "health_probe_timeout"),
    *("no_healthcheck", "health_timeout", "stop_signal", "stop_timeout", "timeout", "prepare_timeout", "sample"),
    *("log_limit", "idempotency_key", "memory_reservation", "cpu_shares", "cpuset_cpus", "storage_opt", "ulimit"),
    *("group_add", "cap_drop", "shm_size", "oom_score_adj", "log_driver", "log_opt"),
))  # fmt: skip


class Holder(NamedTuple):
    """One namespace. `pid` as the engine's host numbers it."""

    container: str
    network: str
    pid: int | None = None


class Pool:
    """Holders, made in the background. Thread-safe; `close` leaves none."""

    def __init__(self, driver: DockerDriver, labels: Labels, warm: Warm, warn: Callable[[str], None]) -> None:
        """Begins to make holders at once. `warn` gets a line for a person when it cannot."""
        self._driver = driver
        self._labels = {f"{LABEL}ledger": labels.ledger, f"{LABEL}runner": labels.runner}
        self._warm = warm
        self._warn = warn
        self._wanted = Counter(itertools.islice(itertools.cycle(warm.networks), warm.size))
        self._there: Counter[str] = Counter()
        self._free: list[Holder] = []
        self._changed = threading.Condition()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._fill, name="pool", daemon=True)
        self._thread.start()

    def take(self, spec: Spec) -> Holder | None:
        """A free holder of the network that `spec` wants, the one last used; None when there is none, or it cannot."""
        wanted = joinable(spec)
        while wanted is not None and (holder := self._pop(wanted)) is not None:
            if pid := self._runs(holder):
                return holder._replace(pid=pid)
            self.discard(holder)
        return None

    def give_back(self, holder: Holder) -> None:
        """The call is over, and its container is gone."""
        if self._warm.once:
            self.discard(holder)
            return
        with self._changed:
            self._free.append(holder)

    def discard(self, holder: Holder) -> None:
        """It is not to be used again; another one is made."""
        with contextlib.suppress(DriverError):  # what is left is found by its label
            self._remove(holder.container)
        with self._changed:
            self._there[holder.network] -= 1
            self._changed.notify_all()

    def ready(self, seconds: float) -> bool:
        """Whether all holders are there, within so many seconds."""
        with self._changed:
            return self._changed.wait_for(lambda: self._missing() is None, seconds)

    def counts(self) -> Counter[str]:
        """How many are lent, and how many free."""
        with self._changed:
            free = len(self._free)
            return Counter(lent=self._there.total() - free, free=free)

    def close(self) -> None:
        """Remove every holder of this runner, lent or not, whatever became of the request that made it. Idempotent."""
        self._closing.set()
        with self._changed:
            self._changed.notify_all()
        self._thread.join()
        try:
            filters = {"label": [HOLDER, f"{LABEL}runner={self._labels[f'{LABEL}runner']}"]}
            with speaking(Reason.LOST):
                found = self._driver.client.containers(all=True, filters=filters)
            with ThreadPoolExecutor(_REMOVALS) as removing:
                list(removing.map(self._remove, [each["Id"] for each in found]))
        except DriverError as error:
            self._warn(f"holders of the pool may be left, which calls recover removes: {error}")

    def _pop(self, wanted: str) -> Holder | None:
        with self._changed:
            found = next((holder for holder in reversed(self._free) if holder.network == wanted), None)
            if found is not None:
                self._free.remove(found)
            return found

    def _runs(self, holder: Holder) -> int | None:
        # Asked each time: joining a holder that was killed, or ended with its engine, would be the call's end.
        try:
            found = look(self._driver.client, holder.container)
        except DriverError:
            return None
        state: dict[str, Any] = found["State"] if found else {}
        return int(state["Pid"]) if state.get("Status") == "running" else None

    def _missing(self) -> str | None:
        return next(iter(self._wanted - self._there), None)

    def _fill(self) -> None:
        failures = 0
        while not self._closing.is_set():
            with self._changed:
                wanted = self._missing()
                if wanted is None:
                    self._changed.wait()
                    continue
            try:
                holder = self._make(wanted)
            except DriverError as error:
                if not self._closing.is_set() and not failures:
                    self._warn(f"the pool has no holder for network {wanted}, and calls make their own: {error}")
                self._closing.wait(_RETRY[min(failures, len(_RETRY) - 1)])
                failures += 1
                continue
            failures = 0
            with self._changed:
                self._there[wanted] += 1
                self._free.append(holder)
                self._changed.notify_all()

    def _make(self, wanted: str) -> Holder:
        spec = Spec(
            image=self._warm.image,
            entrypoint="tail",
            command=("-f", "/dev/null"),
            network=wanted,
            read_only=True,
            pids_limit=8,
            no_healthcheck=True,
        )
        labels = {**self._labels, HOLDER: wanted}
        made = self._driver.make(f"holder-{os.urandom(8).hex()}", spec, _Nobody(self._closing), labels)
        try:
            with self._driver.starting, speaking(Reason.START_REFUSED):
                self._driver.client.start(made.container)
        except DriverError:
            with contextlib.suppress(DriverError):
                self._remove(made.container)
            raise
        return Holder(made.container, wanted)

    def _remove(self, container: str) -> None:
        remove(self._driver.client, container)
        self._driver.resources.release_of(container)


def joinable(spec: Spec) -> str | None:
    """The network in which a call of `spec` can be a guest; None when it needs a namespace of its own."""
    if not spec.asked().keys() <= _JOINS:
        return None
    return "bridge" if spec.network in (None, "default") else spec.network


class PooledContainer(DockerContainer):
    """A container in the network namespace of a holder, which goes back to its pool when the container is gone."""

    def __init__(
        self, driver: DockerDriver, preparation: Preparation, watcher: Watcher, spec: Spec, lent: tuple[Pool, Holder]
    ) -> None:
        """The container exists, and has joined the holder."""
        super().__init__(driver, preparation._replace(holder=lent[1].container), watcher, spec)
        self._pool, self._holder = lent
        self._returned = False
        self._before = Sample()

    def start(self) -> Beginning:
        """As any container; what came over the network before was not for this call."""
        if self._beginning is None and self._driver.groups.visible:
            with contextlib.suppress(OSError):
                table = Path(f"/proc/{self._holder.pid}/net/dev").read_text(encoding="ascii")
                received, sent = network(table)
                self._before = Sample(net_rx_bytes=received, net_tx_bytes=sent)
        return super().start()

    def _counted(self, meter: Meter) -> Meter:
        return MeterSince(meter, self._before, NETWORK)

    def discard(self) -> bool:
        """As any container."""
        discarded = super().discard()
        if discarded:
            self._return(self._pool.give_back)
        return discarded

    def remove(self) -> None:
        """As any container. While it cannot be removed its holder is not lent again."""
        try:
            super().remove()
        except BaseException:
            self._return(self._pool.discard)
            raise
        self._return(self._pool.give_back)

    def _return(self, way: Callable[[Holder], None]) -> None:
        if not self._returned:
            self._returned = True
            way(self._holder)


class _Nobody(Deaf):
    """The watcher of a holder: nobody waits for its image but the pool."""

    def __init__(self, closing: threading.Event) -> None:
        self._closing = closing

    def given_up(self) -> bool:
        """When the pool is closed."""
        return self._closing.is_set()
