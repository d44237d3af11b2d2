"""The driver: prepares containers on one engine."""

from __future__ import annotations

import contextlib
import os
import threading
from collections import Counter
from collections.abc import Callable, Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any

import docker

from driver.docker import images
from driver.docker.config import create_request, fit
from driver.docker.container import DockerContainer
from driver.docker.creation import create
from driver.docker.door import Measure
from driver.docker.engine import (
    condition,
    connect,
    environment,
    health_check,
    look,
    nanoseconds,
    remove,
    stop_signal,
)
from driver.docker.errors import speaking
from driver.docker.events import EventReader
from driver.docker.groups import Groups, parent_of
from driver.docker.images import Images
from driver.docker.resources import Resources, claim_of
from driver.protocol import LABEL, Labels, Leftover, Preparation, Trace, Watcher
from driver.pump import Pump
from driver.scarcity import frugal
from driver.standing import Standing
from machine.errors import DriverError
from machine.spec import Spec
from machine.states import Reason

if TYPE_CHECKING:
    from driver.docker.hot import HotSet
    from driver.docker.pool import Pool
    from driver.docker.warm import Warm

STARTS = 4 + 2 * (os.cpu_count() or 2)
"""How many starts are asked for at once. More of them only get into each other's way in the engine: on two
cores 8 at once gave 8.8 calls a second, 32 at once 7.9 (benchmarks/README.md)."""


class DockerDriver:
    """Containers of one Docker Engine; connects when first used."""

    name = "docker"
    takes_image = True

    def __init__(
        self, pump: Pump, labels: Labels, warm: Warm | None = None, warn: Callable[[str], None] = lambda _: None
    ) -> None:
        """`labels` mark whose containers these are. `warm`: a pool of networks; `warn` gets lines for a person."""
        self.pump = pump
        self._labels = labels
        self.starting = threading.BoundedSemaphore(STARTS)
        self._lock = threading.Lock()
        self.images = Images(lambda: self.client)
        self.resources = Resources(lambda: self.client, labels)
        self.measure: Measure = lambda *_: None
        """Is told of every request to the engine."""
        self.room: Callable[[], int | None] = lambda: None
        """Says how much memory hot containers may have between calls (bytes); None: any."""
        self._readers: dict[str, EventReader] = {}
        self.groups = Groups(lambda: self.client)
        self._hot: HotSet | None = None
        self.pool: Pool | None = None
        if warm is not None:
            from driver.docker.pool import Pool

            self.pool = Pool(self, labels, warm, warn)

    @cached_property
    def client(self) -> docker.APIClient:
        """The connection. DriverError(ENGINE_UNAVAILABLE) without an engine."""
        return connect(self._seen)

    def _seen(self, operation: str, outcome: str, seconds: float) -> None:
        self.measure(operation, outcome, seconds)  # whoever that is by now

    @property
    def events(self) -> EventReader:
        """The one reader of events, of what this runner made."""
        return self._reader(f"{LABEL}runner={self._labels.runner}")

    @property
    def ledger_events(self) -> EventReader:
        """The one reader of events for what other runners of this ledger made; there is none before it is needed."""
        return self._reader(f"{LABEL}ledger={self._labels.ledger}")

    @property
    def hot_events(self) -> EventReader:
        """The one reader of events of hot containers; there is none before it is needed."""
        from driver.docker.hot_exec import EXECUTES

        return self._reader(f"{LABEL}hot={self._labels.runner}", EXECUTES)

    @property
    def hot(self) -> HotSet:
        """The hot containers of this runner."""
        from driver.docker.hot import HotSet

        with self._lock:
            self._hot = self._hot or HotSet(self, self._labels)
            return self._hot

    def _reader(self, label: str, more: tuple[str, ...] = ()) -> EventReader:
        with self._lock, frugal():
            if label not in self._readers:
                self._readers[label] = EventReader(self.client, label, more)
            return self._readers[label]

    def check(self, spec: Spec) -> None:
        """Everything in a spec can be honoured; what the engine refuses it says itself."""
        images.check(spec)

    def prepare(self, uid: str, spec: Spec, watcher: Watcher) -> DockerContainer:
        """Create the container, fetching the image first if need be. Its name is the call's id.

        It joins a network of the pool where it can; and a hot call gets its place in a container that is there.
        """
        if spec.hot:
            return self.hot.prepare(spec, watcher)
        if self._hot is not None:
            self._hot.make_room()
        self.events  # noqa: B018 - subscribes meanwhile
        holder = self.pool.take(spec) if self.pool else None
        if self.pool is None or holder is None:
            return DockerContainer(self, self.make(uid, spec, watcher), watcher, spec)
        from driver.docker.pool import PooledContainer

        joined = spec._replace(network=f"container:{holder.container}")
        try:
            made = self.make(uid, joined, watcher)
        except BaseException:
            self.pool.give_back(holder)
            raise
        return PooledContainer(self, made, watcher, spec, (self.pool, holder))

    def make(self, name: str, spec: Spec, watcher: Watcher, labels: Mapping[str, str] | None = None) -> Preparation:
        """Create a container, fetching its image first if need be. `labels`: of one that is no call's."""
        parent = None if labels else self.groups.parent(name)
        marks = labels or self._labels.of(name)
        chosen, claim = self.resources.provide(spec, marks)
        try:
            made = self._make(name, chosen, watcher, marks, parent)
        except BaseException:
            with contextlib.suppress(DriverError):  # what is left `calls recover` removes
                self.resources.release(claim)
            raise
        self.resources.hold(made.container, claim)
        return made._replace(network=chosen.network) if spec.network_of else made

    def _make(
        self, name: str, spec: Spec, watcher: Watcher, labels: Mapping[str, str], parent: str | None
    ) -> Preparation:
        remarks = self.images.fetch(spec, watcher) if spec.pull in ("always", "newer") else ()
        try:
            container, warnings, parent = self._create(name, spec, watcher, labels, parent)
        except DriverError as error:
            if not images.is_missing(error):
                raise
            if spec.pull == "never":
                raise DriverError(Reason.PULL_MISSING, f"{error} (and --pull never was given)") from error
            remarks = self.images.fetch(spec, watcher)  # also when it was removed just now
            container, warnings, parent = self._create(name, spec, watcher, labels, parent)
        try:
            self.resources.join(container, spec)
            return self._prepared(container, spec, parent, (*remarks, *warnings))
        except DriverError:
            self._discard(container)
            raise

    def recover(self, uid: str, spec: Spec, watcher: Watcher, trace: Trace) -> DockerContainer | None:
        """By the recorded container, else by its name, which is the call's id; a namesake of others is not it.

        A hot call cannot be recovered: the container in which it may still run is removed.
        """
        if spec.hot:
            from driver.docker.hot import settle

            settle(self.client, self._labels.ledger, trace.container)
            return None
        found = look(self.client, trace.container or uid)
        if found is None or not self._ours(found, uid):
            return None
        # Only a parent group that we gave it is ours to read, and to remove.
        parent = parent_of(uid) if found["HostConfig"].get("CgroupParent") == parent_of(uid) else None
        preparation = self._preparation(found, spec, parent, (), trace.image_digest)
        self.resources.hold(found["Id"], claim_of(found, self._labels.of(uid)))
        return DockerContainer(self, preparation, watcher, spec, trace.since)

    def _ours(self, found: dict[str, Any], uid: str) -> bool:
        labels = found["Config"].get("Labels") or {}
        return bool(labels.get(f"{LABEL}ledger") == self._labels.ledger and labels.get(f"{LABEL}call") == uid)

    def leftovers(self) -> list[Leftover]:
        """By their label. A holder whose network somebody uses is not left over."""
        with speaking(Reason.LOST):
            found = self.client.containers(all=True, filters={"label": f"{LABEL}ledger={self._labels.ledger}"})
        joined = {(each.get("HostConfig") or {}).get("NetworkMode") for each in found}
        left = [
            Leftover(
                uid=each["Labels"].get(f"{LABEL}call", ""),
                runner=each["Labels"].get(f"{LABEL}runner", ""),
                container=each["Id"],
                status=condition(each["State"]),
                created_at=each["Created"] * 10**9,
            )
            for each in found
            if f"container:{each['Id']}" not in joined
        ]
        calls = {leftover.uid for leftover in left}
        return left + [each for each in self.resources.leftovers() if not each.uid or each.uid not in calls]

    def reap(self, leftover: Leftover) -> None:
        """With its volumes, its parent group, and the networks that were made for it."""
        if leftover.status != "gone":
            remove(self.client, leftover.container)
        if leftover.uid or leftover.status == "gone":
            self.resources.reap(leftover)
        self.forget(leftover.uid)

    def forget(self, uid: str) -> None:
        """Its parent group. What nobody else knows of (networks, volumes) is among the leftovers."""
        self.groups.mounts.remove(parent_of(uid))

    def request(self, spec: Spec, labels: Mapping[str, str], parent: str | None) -> dict[str, Any]:
        """The request by which a container is created. For drivers that wrap this one: they may change it."""
        return fit(create_request(spec, labels, parent), self.client.api_version)

    def _create(
        self, name: str, spec: Spec, watcher: Watcher, labels: Mapping[str, str], parent: str | None
    ) -> tuple[str, tuple[str, ...], str | None]:
        """-> the container, the engine's warnings, and the parent group that it really has."""
        request = self.request(spec, labels, parent)
        try:
            return *create(self.client, request, name, labels, spec.platform, watcher.given_up), parent
        except DriverError as error:
            if parent is None or "cgroup-parent" not in str(error):
                raise
            self.groups.forgo()  # an engine that wants systemd slices: no exact totals then
            return self._create(name, spec, watcher, labels, None)

    def _discard(self, container: str) -> None:
        with contextlib.suppress(DriverError), speaking(Reason.ENGINE_LOST):
            self.client.remove_container(container, v=True, force=True)

    def _prepared(self, container: str, spec: Spec, parent: str | None, warnings: tuple[str, ...]) -> Preparation:
        with speaking(Reason.CREATE_REFUSED):
            found = self.client.inspect_container(container)
        return self._preparation(found, spec, parent, warnings)

    def _preparation(
        self,
        found: dict[str, Any],
        spec: Spec,
        parent: str | None,
        warnings: tuple[str, ...],
        digest: str | None = None,
    ) -> Preparation:
        image_id = found["Image"]
        return Preparation(
            container=found["Id"],
            image_id=image_id,
            image_digest=digest or self.images.digest(spec.image, image_id),
            cgroup_parent=parent,
            stop_signal=stop_signal(found),
            health=health_check(found),
            warnings=warnings,
            environment=environment(found),
        )

    def describe(self) -> dict[str, Any]:
        """The engine, for `calls doctor`."""
        with speaking(Reason.ENGINE_UNAVAILABLE):
            version, info = self.client.version(), self.client.info()
        return {
            "driver": self.name,
            "url": os.environ.get("DOCKER_HOST", "default"),
            "version": version.get("Version"),
            "api": version.get("ApiVersion"),
            "cgroup_driver": info.get("CgroupDriver"),
            "cgroup_version": info.get("CgroupVersion", "1"),
            "live_restore": info.get("LiveRestoreEnabled"),
            "time": nanoseconds(info.get("SystemTime")),
            "samples": "cgroup" if self.groups.visible else "engine",
            "totals": info.get("CgroupDriver") == "cgroupfs" and self.groups.exact,
        }

    def standing(self) -> Standing:
        """What is kept ready, and what was heard."""
        with self._lock:
            readers, hot = list(self._readers.values()), self._hot
        counts, evicted = (hot.counts(), hot.evicted) if hot else (Counter[str](), 0)
        heard = sum((reader.heard for reader in readers), Counter[str]())
        return Standing(counts, evicted, self.pool.counts() if self.pool else Counter(), heard)

    def close(self) -> None:
        """End the event reader and close the connection. Idempotent."""
        if self.pool is not None:
            self.pool.close()
        if self._hot is not None:
            self._hot.close()
        with self._lock:
            readers, self._readers = self._readers, {}
        for reader in readers.values():
            reader.close()
        self.images.close()
        with contextlib.suppress(DriverError):  # what is left `calls recover` removes
            self.resources.close()
        if "client" in self.__dict__:
            self.client.close()
