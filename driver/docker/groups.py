"""The control groups of one engine's containers, as far as they can be seen from here."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import docker

from driver.cgroup import CgroupMeter, Mounts, mounts
from driver.docker.engine import is_local, is_podman
from driver.protocol import Preparation


class Groups:
    """Where they are: each container's own, and the parent that a call's has. `mounts`: of this host."""

    def __init__(self, connect: Callable[[], docker.APIClient]) -> None:
        """`connect` gives the engine's client."""
        self._connect = connect
        self._parents = True
        self.mounts: Mounts = mounts()

    @property
    def visible(self) -> bool:
        """Whether samples can come from them: the engine is on this host and they are mounted."""
        return is_local(self._connect()) and self.mounts.version > 0

    @property
    def exact(self) -> bool:
        """Whether a call's container may have a parent group, which has its totals when it is gone."""
        # Podman puts processes of its own there, which would be counted, and which outlive the container.
        return os.geteuid() == 0 and self.visible and not is_podman(self._connect())

    def parent(self, uid: str) -> str | None:
        """The parent group that a call's container is to have, if any."""
        # Only root can remove it again, and only where the engine's groups are ours to see.
        if self._parents and self.exact and not Path("/run/systemd/system").exists():
            return parent_of(uid)
        return None

    def forgo(self) -> None:
        """No parents any more: the engine will not have them, or its groups are not our host's after all."""
        self._parents = False

    def of(self, preparation: Preparation, pid: int | None) -> str | None:
        """The container's own group; None when it is not known. `pid`: of its first process, where known."""
        if preparation.cgroup_parent:
            if CgroupMeter(self.mounts, preparation.cgroup_parent).visible:
                return f"{preparation.cgroup_parent}/{preparation.container}"
            self.forgo()
            return None
        if pid is None or not self.visible:
            return None
        try:
            table = Path(f"/proc/{pid}/cgroup").read_text(encoding="utf-8")
        except OSError:
            return None
        groups = [line.split(":", 2) for line in table.splitlines()]
        memory = [group for _, names, group in groups if "memory" in names.split(",") or not names]
        return next((group for group in memory if preparation.container in group), None)


def parent_of(uid: str) -> str:
    """What a call's parent group is called."""
    return f"/call-{uid}"
