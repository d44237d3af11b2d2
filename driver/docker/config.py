"""A spec as the engine's create request."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from docker.utils import version_lt

from machine.errors import DriverError
from machine.networks import is_named
from machine.networks import networks as split
from machine.spec import Spec
from machine.states import Reason
from machine.units import size

if TYPE_CHECKING:
    from machine.notation import Port

Said = Callable[[Any], dict[str, Any]]
"""The value of an option -> what is said of it in the request."""


def create_request(spec: Spec, labels: Mapping[str, str], cgroup_parent: str | None = None) -> dict[str, Any]:
    """The body of `POST /containers/create`: what was asked for, and nothing else."""
    asked = spec.asked()
    request = {
        "Image": spec.image,
        "Labels": {**spec.label, **labels},
        "AttachStdout": True,
        "AttachStderr": True,
        **_said(asked, CONFIG),
        "HostConfig": _said(asked, HOST),
    }
    if health := _health(spec):
        request["Healthcheck"] = health
    if cgroup_parent:
        request["HostConfig"]["CgroupParent"] = cgroup_parent
    if spec.network_alias or spec.ip or spec.ip6:
        first = networks(spec)[0]
        request["NetworkingConfig"] = {"EndpointsConfig": {first: endpoint(spec)}} if is_named(first) else {}
    return request


def fit(request: dict[str, Any], version: str) -> dict[str, Any]:
    """The request as an engine of that API takes it; DriverError for what it would pass over in silence."""
    if "CgroupnsMode" in request["HostConfig"] and version_lt(version, "1.41"):
        message = f"--cgroupns needs version 1.41 of the engine's API (Docker 20.10), and this one speaks {version}"
        raise DriverError(Reason.CREATE_REFUSED, message)
    if "MacAddress" in request and not version_lt(version, "1.44"):  # there it belongs to a network
        address, fitting = request["MacAddress"], {name: each for name, each in request.items() if name != "MacAddress"}
        known = request.get("NetworkingConfig", {}).get("EndpointsConfig", {})
        network = request["HostConfig"].get("NetworkMode", "default")
        fitting["NetworkingConfig"] = {"EndpointsConfig": {network: {**known.get(network, {}), "MacAddress": address}}}
        return fitting
    return request


def networks(spec: Spec) -> tuple[str, ...]:
    """The networks that the container joins; none: the engine's default one."""
    return split(spec.network) if spec.network else ()


def endpoint(spec: Spec) -> dict[str, Any]:
    """What the container is in a network that has names."""
    said: dict[str, Any] = {"Aliases": list(spec.network_alias)}
    if own := {f"IPv{version}Address": each for version, each in ((4, spec.ip), (6, spec.ip6)) if each}:
        said["IPAMConfig"] = own
    return said


# What reads the spellings is loaded by the calls that need it: most need none of it.


def _said(asked: Mapping[str, Any], table: Mapping[str, Said]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for option, say in table.items():
        if option in asked:
            for field, value in say(asked[option]).items():
                found[field] = {**found[field], **value} if field in found else value
    return found


def _as(field: str, say: Callable[[Any], Any] = lambda value: value) -> Said:
    return lambda value: {field: say(value)}


def _pairs(values: Mapping[str, str]) -> list[str]:
    return [f"{name}={value}" for name, value in values.items()]


def _signal(name: str) -> str:
    return name if name.isdecimal() else f"SIG{name}"  # a real-time signal has only a number


def _mount(text: str) -> dict[str, Any]:
    from machine.notation import mount

    kind, source, target, options = mount(text)
    said: dict[str, Any] = {"Type": kind, "Source": source, "Target": target, "ReadOnly": "readonly" in options}
    if kind == "tmpfs":
        limits = {"SizeBytes": size(options.get("tmpfs-size", 0)), "Mode": int(options.get("tmpfs-mode", "1777"), 8)}
        said["TmpfsOptions"] = limits
    return said


def _tmpfs(text: str) -> tuple[str, str]:
    path, _, options = text.partition(":")
    return path, options


def _port(port: Port) -> str:
    return f"{port.inside}/{port.protocol}"


def _bindings(published: tuple[str, ...]) -> dict[str, Any]:
    from machine.notation import ports

    found: dict[str, Any] = {}
    for text in published:
        for port in ports(text):
            found.setdefault(_port(port), []).append({"HostIp": port.address, "HostPort": port.host})
    return found


def _ulimit(text: str) -> dict[str, Any]:
    from machine.notation import ulimit

    name, soft, hard = ulimit(text)
    return {"Name": name, "Soft": soft, "Hard": hard}


def _device(text: str) -> dict[str, Any]:
    from machine.notation import device

    host, inside, permissions = device(text)
    return {"PathOnHost": host, "PathInContainer": inside, "CgroupPermissions": permissions}


def _gpus(text: str) -> list[dict[str, Any]]:
    from machine.notation import gpus

    number, devices = gpus(text)
    which = {"DeviceIDs": list(devices)} if devices else {"Count": number}
    return [{**which, "Capabilities": [["gpu"]]}]


def _each(say: Callable[[str], Any]) -> Callable[[tuple[str, ...]], list[Any]]:
    return lambda texts: [say(text) for text in texts]


def _is_anonymous(text: str) -> bool:
    return ":" not in text


CONFIG: dict[str, Said] = {
    "command": _as("Cmd", list),
    "entrypoint": _as("Entrypoint", lambda path: [path]),  # an empty one resets the image's
    "env": _as("Env", _pairs),
    "workdir": _as("WorkingDir"),
    "user": _as("User"),
    "hostname": _as("Hostname"),
    "mac_address": _as("MacAddress"),
    "tty": _as("Tty"),
    "interactive": lambda _: {"OpenStdin": True, "StdinOnce": True, "AttachStdin": True},
    "stop_signal": _as("StopSignal", _signal),
    "volume": _as("Volumes", lambda texts: {text: {} for text in texts if _is_anonymous(text)}),
    "publish": _as("ExposedPorts", lambda texts: {port: {} for port in _bindings(texts)}),
}
"""What an option is in the request."""

HOST: dict[str, Said] = {
    "memory": lambda limit: {"Memory": limit, "MemorySwap": limit},  # no swap: else the engine allows as much again
    "memory_reservation": _as("MemoryReservation"),
    "memory_swappiness": _as("MemorySwappiness"),
    "shm_size": _as("ShmSize"),
    "cpus": _as("NanoCpus", lambda cpus: round(cpus * 1e9)),
    "cpu_shares": _as("CpuShares"),
    "cpuset_cpus": _as("CpusetCpus"),
    "pids_limit": _as("PidsLimit"),
    "ulimit": _as("Ulimits", _each(_ulimit)),
    "oom_score_adj": _as("OomScoreAdj"),
    "read_only": _as("ReadonlyRootfs"),
    "storage_opt": _as("StorageOpt"),
    "sysctl": _as("Sysctls"),
    "device": _as("Devices", _each(_device)),
    "gpus": _as("DeviceRequests", _gpus),
    "group_add": _as("GroupAdd", list),
    "cap_add": _as("CapAdd", list),
    "cap_drop": _as("CapDrop", list),
    "security_opt": _as("SecurityOpt", list),
    "privileged": _as("Privileged"),
    "pid": _as("PidMode"),
    "ipc": _as("IpcMode"),
    "uts": _as("UTSMode"),
    "userns": _as("UsernsMode"),
    "cgroupns": _as("CgroupnsMode"),
    "runtime": _as("Runtime"),
    "init": _as("Init"),
    "volume": _as("Binds", lambda texts: [text for text in texts if not _is_anonymous(text)]),
    "mount": _as("Mounts", _each(_mount)),
    "tmpfs": _as("Tmpfs", lambda texts: dict(map(_tmpfs, texts))),
    "network": _as("NetworkMode", lambda text: split(text)[0]),
    "publish": _as("PortBindings", _bindings),
    "publish_all": _as("PublishAllPorts"),
    "add_host": _as("ExtraHosts", list),
    "dns": _as("Dns", list),
    "dns_search": _as("DnsSearch", list),
    "dns_option": _as("DnsOptions", list),
    "log_driver": lambda name: {"LogConfig": {"Type": name}},
    "log_opt": lambda options: {"LogConfig": {"Config": options}},
}
"""What an option is in the `HostConfig` of the request."""


def _health(spec: Spec) -> dict[str, Any]:
    if spec.no_healthcheck:
        return {"Test": ["NONE"]}
    check = {
        "Test": spec.health_cmd and ["CMD-SHELL", spec.health_cmd],
        "Interval": spec.health_interval,
        "Timeout": spec.health_probe_timeout,
        "Retries": spec.health_retries,
        "StartPeriod": spec.health_start_period,
    }
    return {name: value for name, value in check.items() if value}
