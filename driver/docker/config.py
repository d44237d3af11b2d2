"""A spec as the engine's create request."""

from __future__ import annotations

import os
from typing import Any

import docker

from machine.spec import Spec


def create_request(
    client: docker.APIClient, spec: Spec, labels: dict[str, str], cgroup_parent: str | None
) -> dict[str, Any]:
    """The body of `POST /containers/create`."""
    host = client.create_host_config(
        binds=[_bind(volume) for volume in spec.volume if ":" in volume] or None,
        tmpfs=dict(_tmpfs(mount) for mount in spec.tmpfs) or None,
        network_mode=spec.network,
        mem_limit=spec.memory,
        memswap_limit=spec.memory,  # the same: no swap. Left out, the engine would allow as much again
        nano_cpus=None if spec.cpus is None else round(spec.cpus * 1e9),
        pids_limit=spec.pids_limit,
        read_only=spec.read_only or None,
        init=spec.init or None,
        cgroup_parent=cgroup_parent,
    )
    return dict(
        client.create_container_config(
            image=spec.image,
            command=list(spec.command) or None,
            entrypoint=None if spec.entrypoint is None else [spec.entrypoint] if spec.entrypoint else [""],
            environment=[f"{name}={value}" for name, value in spec.env.items()] or None,
            volumes=[volume for volume in spec.volume if ":" not in volume] or None,
            working_dir=spec.workdir,
            user=spec.user,
            labels={**spec.label, **labels},
            stdin_open=spec.interactive,
            healthcheck=_health(spec),
            stop_signal=spec.stop_signal and _signal(spec.stop_signal),
            host_config=host,
        )
    )


def _bind(volume: str) -> str:
    # As the docker command: a source that begins with a dot is a path from here, not the name of a volume.
    source, rest = volume.split(":", 1)
    return f"{os.path.abspath(source)}:{rest}" if source.startswith(".") else volume


def _signal(name: str) -> str:
    return name if name.isdecimal() else f"SIG{name}"  # a real-time signal has only a number


def _tmpfs(mount: str) -> tuple[str, str]:
    path, _, options = mount.partition(":")
    return path, options


def _health(spec: Spec) -> dict[str, Any] | None:
    if spec.no_healthcheck:
        return {"test": ["NONE"]}
    check = {
        "test": spec.health_cmd and ["CMD-SHELL", spec.health_cmd],
        "interval": spec.health_interval,
        "timeout": spec.health_probe_timeout,
        "retries": spec.health_retries,
        "start_period": spec.health_start_period,
    }
    return {name: value for name, value in check.items() if value} or None
