"""The driver: prepares containers on one engine."""

from __future__ import annotations

import contextlib
import os
import threading
from functools import cached_property
from pathlib import Path
from typing import Any

import docker

from driver.cgroup import CgroupMeter, Mounts, mounts
from driver.docker import images
from driver.docker.config import create_request
from driver.docker.container import DockerContainer
from driver.docker.engine import connect, health_check, is_local, nanoseconds, stop_signal
from driver.docker.errors import speaking, status
from driver.docker.events import EventReader
from driver.protocol import LABEL, Labels, Preparation, Watcher
from driver.pump import Pump
from machine.errors import DriverError, UnknownOutcomeError
from machine.spec import Spec
from machine.states import Reason

STARTS = 4 + 2 * (os.cpu_count() or 2)
"""How many starts are asked for at once. More of them only get into each other's way in the engine: on two
cores 8 at once gave 8.8 calls a second, 32 at once 7.9 (benchmarks/README.md)."""


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
        self._events: EventReader | None = None
        self._parents = True
        self.mounts: Mounts = mounts()

    @cached_property
    def client(self) -> docker.APIClient:
        """The connection. DriverError(ENGINE_UNAVAILABLE) without an engine."""
        return connect()

    @property
    def events(self) -> EventReader:
        """The one reader of events."""
        with self._lock:
            if self._events is None:
                self._events = EventReader(self.client, f"{LABEL}runner={self._labels.runner}")
            return self._events

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
            preparation = self._preparation(container, spec, parent, warnings)
        except DriverError:
            self._discard(container)
            raise
        return DockerContainer(self, preparation, watcher, spec)

    def _create(self, uid: str, spec: Spec, parent: str | None) -> tuple[str, tuple[str, ...], str | None]:
        """-> the container, the engine's warnings, and the parent group that it really has."""
        request = create_request(self.client, spec, self._labels.of(uid), parent)
        try:
            with speaking(Reason.CREATE_REFUSED):
                answer = self.client.create_container_from_config(request, name=uid)
                return answer["Id"], tuple(answer.get("Warnings") or ()), parent
        except UnknownOutcomeError:
            return self._adopt(uid), (), parent
        except DriverError as error:
            if status(error) == 409:
                return self._adopt(uid), (), parent
            if parent and "cgroup-parent" in str(error):
                self._parents = False  # an engine that wants systemd slices: no exact totals then
                return self._create(uid, spec, None)
            raise

    def _adopt(self, uid: str) -> str:
        """The container that has this call's name, if it is this call's; a namesake of others is an error."""
        with speaking(Reason.CREATE_REFUSED):
            found = self.client.inspect_container(uid)
        if not self._labels.of(uid).items() <= (found["Config"].get("Labels") or {}).items():
            raise DriverError(Reason.CREATE_REFUSED, f"a container named {uid} exists and is not this call's")
        return str(found["Id"])

    def _discard(self, container: str) -> None:
        with contextlib.suppress(DriverError), speaking(Reason.ENGINE_LOST):
            self.client.remove_container(container, v=True, force=True)

    def _preparation(self, container: str, spec: Spec, parent: str | None, warnings: tuple[str, ...]) -> Preparation:
        with speaking(Reason.CREATE_REFUSED):
            found = self.client.inspect_container(container)
        image_id = found["Image"]
        key = spec.image, image_id
        if key not in self._digests:
            self._digests[key] = images.digest(self.client, spec.image, image_id)
        return Preparation(
            container=container,
            image_id=image_id,
            image_digest=self._digests[key],
            cgroup_parent=parent,
            stop_signal=stop_signal(found),
            health=health_check(found),
            warnings=warnings,
        )

    def _parent(self, uid: str) -> str | None:
        # Only root can remove it again, and only where the engine's groups are ours to see.
        if self._parents and os.geteuid() == 0 and self.sees_groups and not Path("/run/systemd/system").exists():
            return f"/call-{uid}"
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
        if self._events is not None:
            self._events.close()
            self._events = None
        if "client" in self.__dict__:
            self.client.close()
