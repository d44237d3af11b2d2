"""The driver: prepares containers on one engine."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from functools import cached_property
from pathlib import Path
from typing import Any

import docker

from driver.cgroup import CgroupMeter, Mounts, mounts
from driver.docker import images
from driver.docker.config import create_request
from driver.docker.container import DockerContainer
from driver.docker.engine import condition, connect, health_check, is_local, look, nanoseconds, stop_signal
from driver.docker.errors import speaking, status
from driver.docker.events import EventReader
from driver.protocol import LABEL, Labels, Leftover, Preparation, Trace, Watcher
from driver.pump import Pump
from driver.scarcity import frugal
from machine.errors import DriverError, UnknownOutcomeError
from machine.spec import Spec
from machine.states import Reason

STARTS = 4 + 2 * (os.cpu_count() or 2)
"""How many starts are asked for at once. More of them only get into each other's way in the engine: on two
cores 8 at once gave 8.8 calls a second, 32 at once 7.9 (benchmarks/README.md)."""


_AGAIN = (0.2, 1, 2)
"""How long after a create that was not answered the next one is asked for."""


class DockerDriver:
    """Containers of one Docker Engine; connects when first used."""

    name = "docker"

    def __init__(self, pump: Pump, labels: Labels) -> None:
        """`labels` mark whose containers these are."""
        self.pump = pump
        self._labels = labels
        self.starting = threading.BoundedSemaphore(STARTS)
        self._lock = threading.Lock()
        self._digests: dict[tuple[str | None, str], str] = {}
        self._readers: dict[str, EventReader] = {}
        self._parents = True
        self.mounts: Mounts = mounts()

    @cached_property
    def client(self) -> docker.APIClient:
        """The connection. DriverError(ENGINE_UNAVAILABLE) without an engine."""
        return connect()

    @property
    def events(self) -> EventReader:
        """The one reader of events, of what this runner made."""
        return self._reader(f"{LABEL}runner={self._labels.runner}")

    @property
    def ledger_events(self) -> EventReader:
        """The one reader of events for what other runners of this ledger made; there is none before it is needed."""
        return self._reader(f"{LABEL}ledger={self._labels.ledger}")

    def _reader(self, label: str) -> EventReader:
        with self._lock, frugal():
            if label not in self._readers:
                self._readers[label] = EventReader(self.client, label)
            return self._readers[label]

    @property
    def sees_groups(self) -> bool:
        """Whether samples can come from control groups: the engine is on this host and they are mounted."""
        return is_local(self.client) and self.mounts.version > 0

    def check(self, spec: Spec) -> None:
        """Everything in a spec can be honoured; what the engine refuses it says itself."""

    def prepare(self, uid: str, spec: Spec, watcher: Watcher) -> DockerContainer:
        """Create the container, fetching the image first if need be. Its name is the call's id."""
        self.events  # noqa: B018 - subscribes meanwhile
        if spec.pull == "always":
            images.pull(self.client, spec.image or "", watcher)
        parent = self._parent(uid)
        try:
            container, warnings, parent = self._create(uid, spec, parent)
        except DriverError as error:
            if not images.is_missing(error) or spec.pull == "always":
                raise
            if spec.pull == "never":
                raise DriverError(Reason.PULL_MISSING, f"{error} (and --pull never was given)") from error
            images.pull(self.client, spec.image or "", watcher)
            container, warnings, parent = self._create(uid, spec, parent)
        try:
            preparation = self._prepared(container, spec, parent, warnings)
        except DriverError:
            self._discard(container)
            raise
        return DockerContainer(self, preparation, watcher, spec)

    def recover(self, uid: str, spec: Spec, watcher: Watcher, trace: Trace) -> DockerContainer | None:
        """By the recorded container, else by its name, which is the call's id; a namesake of others is not it."""
        found = look(self.client, trace.container or uid)
        if found is None or not self._ours(found, uid):
            return None
        # Only a parent group that we gave it is ours to read, and to remove.
        parent = _parent_of(uid) if found["HostConfig"].get("CgroupParent") == _parent_of(uid) else None
        preparation = self._preparation(found, spec, parent, (), trace.image_digest)
        return DockerContainer(self, preparation, watcher, spec, trace.since)

    def _ours(self, found: dict[str, Any], uid: str) -> bool:
        labels = found["Config"].get("Labels") or {}
        return bool(labels.get(f"{LABEL}ledger") == self._labels.ledger and labels.get(f"{LABEL}call") == uid)

    def leftovers(self) -> list[Leftover]:
        """By their label."""
        with speaking(Reason.LOST):
            found = self.client.containers(all=True, filters={"label": f"{LABEL}ledger={self._labels.ledger}"})
        return [
            Leftover(
                uid=each["Labels"].get(f"{LABEL}call", ""),
                runner=each["Labels"].get(f"{LABEL}runner", ""),
                container=each["Id"],
                status=condition(each["State"]),
                created_at=each["Created"] * 10**9,
            )
            for each in found
        ]

    def reap(self, leftover: Leftover) -> None:
        """With its anonymous volumes and its parent group."""
        try:
            with speaking(Reason.ENGINE_LOST):
                self.client.remove_container(leftover.container, v=True, force=True)
        except DriverError as error:
            if status(error) not in (404, 409):  # else it is gone, or going
                raise
        self.mounts.remove(_parent_of(leftover.uid))

    def _create(self, uid: str, spec: Spec, parent: str | None) -> tuple[str, tuple[str, ...], str | None]:
        """-> the container, the engine's warnings, and the parent group that it really has."""
        request = create_request(self.client, spec, self._labels.of(uid), parent)
        failed: DriverError | None = None
        for seconds in _AGAIN:  # safely: there is one container of a name
            try:
                with speaking(Reason.CREATE_REFUSED):
                    answer = self.client.create_container_from_config(request, name=uid)
                    return answer["Id"], tuple(answer.get("Warnings") or ()), parent
            except DriverError as error:
                if parent and "cgroup-parent" in str(error):
                    self._parents = False  # an engine that wants systemd slices: no exact totals then
                    return self._create(uid, spec, None)
                taken, unknown = status(error) == 409, isinstance(error, UnknownOutcomeError)
                if not (taken or unknown) and (status(error) or 0) < 500:
                    raise
                if (found := self._adopt(uid)) is not None:
                    return found, (), parent
                if not (taken or unknown):
                    raise
                failed = error
            time.sleep(seconds)
        raise failed or DriverError(Reason.CREATE_REFUSED, "the engine does not create it")

    def _adopt(self, uid: str) -> str | None:
        """The container that has this call's name, if it is there and can be seen; a namesake of others is an error."""
        try:
            found = look(self.client, uid)
        except UnknownOutcomeError:
            return None
        if found is None:
            return None
        if not self._labels.of(uid).items() <= (found["Config"].get("Labels") or {}).items():
            raise DriverError(Reason.CREATE_REFUSED, f"a container named {uid} exists and is not this call's")
        return str(found["Id"])

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
        key = spec.image, image_id
        if digest is None and key not in self._digests:
            self._digests[key] = images.digest(self.client, spec.image, image_id)
        return Preparation(
            container=found["Id"],
            image_id=image_id,
            image_digest=digest or self._digests[key],
            cgroup_parent=parent,
            stop_signal=stop_signal(found),
            health=health_check(found),
            warnings=warnings,
        )

    def _parent(self, uid: str) -> str | None:
        # Only root can remove it again, and only where the engine's groups are ours to see.
        if self._parents and os.geteuid() == 0 and self.sees_groups and not Path("/run/systemd/system").exists():
            return _parent_of(uid)
        return None

    def group_of(self, preparation: Preparation, pid: int | None) -> str | None:
        """The container's control group; None when it is not known."""
        if preparation.cgroup_parent:
            group = f"{preparation.cgroup_parent}/{preparation.container}"
            if CgroupMeter(self.mounts, preparation.cgroup_parent).visible:
                return group
            self._parents = False  # not our host's groups after all
            return None
        if pid is None or not self.sees_groups:
            return None
        try:
            table = Path(f"/proc/{pid}/cgroup").read_text(encoding="utf-8")
        except OSError:
            return None
        groups = [line.split(":", 2) for line in table.splitlines()]
        memory = [group for _, names, group in groups if "memory" in names.split(",") or not names]
        return next((group for group in memory if preparation.container in group), None)

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
            "samples": "cgroup" if self.sees_groups else "engine",
            "totals": info.get("CgroupDriver") == "cgroupfs" and os.geteuid() == 0 and self.sees_groups,
        }

    def close(self) -> None:
        """End the event reader and close the connection. Idempotent."""
        with self._lock:
            readers, self._readers = self._readers, {}
        for reader in readers.values():
            reader.close()
        if "client" in self.__dict__:
            self.client.close()


def _parent_of(uid: str) -> str:
    return f"/call-{uid}"
