"""What types do not say about the configuration of a container: how its options are spelled, and what contradicts."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from machine import notation
from machine.errors import SpecError
from machine.networks import is_joined, is_named, networks
from machine.notation import Mount
from machine.spec import OURS, Spec


def check(spec: Spec) -> None:
    """SpecError for the first option that is not spelled as the docker command does, or contradicts another."""
    asked = spec.asked()
    for option, each in _SPELLING.items():
        for text in _texts(asked.get(option)):
            check_text(option, text, each)
    if spec.image is not None and spec.workdir:  # of a process of this host it may be relative
        check_text("workdir", spec.workdir, notation.absolute)
    _check_limits(spec)
    _check_rights(spec)
    _check_networks(spec)
    _check_address(spec)
    _check_namespaces(spec)
    _check_mounts(spec)
    _check_names(spec)


def check_text(option: str, text: str, spelled: Callable[[str], object]) -> None:
    """SpecError unless it is `spelled` so."""
    try:
        spelled(text)
    except ValueError as error:
        raise SpecError(option, str(error)) from None


def mounts(spec: Spec) -> list[Mount]:
    """Everything that a spec mounts."""
    return [
        *map(notation.volume, spec.volume),
        *map(notation.mount, spec.mount),
        *map(notation.tmpfs, spec.tmpfs),
    ]


def _like(pattern: str, what: str) -> Callable[[str], object]:
    def like(text: str) -> None:
        if not re.fullmatch(pattern, text):
            raise ValueError(f"{text!r} is not {what}")

    return like


_something = _like(r"\S+", "a name")
_NAME = r"[a-zA-Z0-9][a-zA-Z0-9_.-]*"
_OF = f"container:{_NAME}"
_DOMAIN = r"[A-Za-z0-9_]([A-Za-z0-9_.-]*[A-Za-z0-9_])?"
_SPELLING: dict[str, Callable[[str], object]] = {
    "volume": notation.volume,
    "mount": notation.mount,
    "tmpfs": notation.tmpfs,
    "network": networks,
    "network_of": _like(_NAME, "the name of a network (letters, digits, _ . -)"),
    "network_alias": _like(_DOMAIN, "a host's name (letters, digits, . -)"),
    "ip": notation.ipv4,
    "ip6": notation.ipv6,
    "mac_address": _like(r"[0-9a-fA-F]{2}([:-][0-9a-fA-F]{2}){5}", "a MAC address (write 02:42:ac:11:00:02)"),
    "publish": notation.ports,
    "hostname": _like(r"(?=.{1,63}\Z)" + _DOMAIN, "a host's name (at most 63 letters, digits, . -)"),
    "add_host": notation.added_host,
    "dns": notation.address,
    "dns_search": _like(rf"\.|{_DOMAIN}", "a domain (write example.org, or . for none)"),
    "dns_option": _like(r"\S+", "an option of resolv.conf (write ndots:2)"),
    "cpuset_cpus": notation.cpus,
    "ulimit": notation.ulimit,
    "device": notation.device,
    "gpus": notation.gpus,
    "pid": _like(f"host|{_OF}", "a namespace of processes (write host or container:ID)"),
    "ipc": _like(
        f"none|private|shareable|host|{_OF}",
        "a namespace of shared memory (write none, private, shareable, host or container:ID)",
    ),
    "uts": _like("host", "a namespace of names (write host, or leave it out)"),
    "userns": _like("host", "a namespace of users (write host, or leave it out)"),
    "cgroupns": _like("host|private", "a namespace of control groups (write host or private)"),
    "runtime": _like(_NAME, "the name of a runtime (write runc)"),
    "user": notation.user,
    "group_add": notation.group,
    "cap_add": notation.capability,
    "cap_drop": notation.capability,
    "security_opt": notation.security,
    "storage_opt": _something,
    "sysctl": _like(r"[a-z0-9_][a-zA-Z0-9_./-]*", "the name of a kernel parameter (write net.core.somaxconn=64)"),
    "log_driver": _like(r"[a-zA-Z0-9][a-zA-Z0-9_.:/-]*", "a log driver (write none, json-file, syslog, ...)"),
    "log_opt": _something,
    "platform": _like(r"[a-z0-9_]+(/[a-z0-9_]+){0,2}", "a platform (write linux, linux/arm64 or linux/arm/v7)"),
}
"""How the text of an option, or each of several, or the name in each pair is spelled."""


def _texts(value: Any) -> tuple[str, ...]:
    if value is None:
        return ()
    return tuple(value) if isinstance(value, tuple | Mapping) else (value,)


def _check_limits(spec: Spec) -> None:
    if spec.memory and spec.memory_reservation and spec.memory_reservation > spec.memory:
        raise SpecError("memory_reservation", "is more than --memory: it is the part of it that is meant to be there")
    if again := _again(notation.ulimit(text).name for text in spec.ulimit):
        raise SpecError("ulimit", f"{again} is given twice")


def _check_rights(spec: Spec) -> None:
    added, dropped = ({text.upper().removeprefix("CAP_") for text in texts} for texts in (spec.cap_add, spec.cap_drop))
    if both := added & dropped:  # with ALL on both sides the engine drops none
        raise SpecError("cap_add", f"contradicts --cap-drop: {min(both)} is added and dropped")
    if spec.privileged and dropped:
        raise SpecError("privileged", "contradicts --cap-drop: it has all capabilities whatever is dropped")
    kinds = (re.split("[=:]", text, maxsplit=1)[0] for text in dict.fromkeys(spec.security_opt))
    if again := _again(kind for kind in kinds if kind != "label"):
        raise SpecError("security_opt", f"{again} is given twice, and differently")


def _again(found: Iterable[str]) -> str | None:
    """The first that comes twice."""
    return next((each for each, count in Counter(found).items() if count > 1), None)


def _check_networks(spec: Spec) -> None:
    if spec.network and spec.network_of:
        raise SpecError("network_of", "contradicts --network: it takes one network of several")
    if unfit := next((name for name in spec.network_of if not is_joined(name)), None):
        raise SpecError("network_of", f"{unfit} is no network that it could join")
    if again := _again(spec.network_of):
        raise SpecError("network_of", f"{again} is given twice")
    if not is_joined(spec.network):
        _check_not_joined(spec)
    _check_ports(spec)
    named = [name for name in (*(spec.network or "").split(","), *spec.network_of) if is_named(name)]
    if spec.network_alias and not named:
        raise SpecError("network_alias", "needs a --network that has names: not the default one, nor none or host")


def _check_not_joined(spec: Spec) -> None:
    for option in ("publish", "publish_all"):
        if getattr(spec, option):
            raise SpecError(option, f"contradicts --network {spec.network}: there is nothing to publish")
    if spec.network == "host" and (own := next((name for name in spec.sysctl if name.startswith("net.")), None)):
        raise SpecError("sysctl", f"contradicts --network host: {own} is the host's")
    if spec.network not in ("none", "host"):
        for option in ("hostname", "add_host", "dns", "dns_search", "dns_option"):
            if getattr(spec, option):
                raise SpecError(option, f"contradicts --network {spec.network}: that container has said it for both")


def _check_address(spec: Spec) -> None:
    """An address of one's own is one in one network."""
    for option in ("ip", "ip6", "mac_address"):
        if getattr(spec, option) is None:
            continue
        if not is_joined(spec.network):
            raise SpecError(option, f"contradicts --network {spec.network}: it has no address of its own there")
        if spec.network_of or "," in (spec.network or ""):
            raise SpecError(option, "needs one --network: it is an address in that one")
        if option != "mac_address" and not is_named(spec.network):
            raise SpecError(option, "needs a --network that somebody has made: the default one gives addresses itself")


def _check_namespaces(spec: Spec) -> None:
    if spec.uts and spec.hostname:
        raise SpecError("hostname", "contradicts --uts host: the name is the host's")
    if spec.shm_size and spec.ipc not in (None, "private", "shareable"):
        raise SpecError("shm_size", f"contradicts --ipc {spec.ipc}: it has no /dev/shm of its own")


def _check_ports(spec: Spec) -> None:
    ports = (port for text in spec.publish for port in notation.ports(text))
    places = (f"{port.address}:{port.host}/{port.protocol}" for port in ports if port.host.strip("0").isdecimal())
    if again := _again(places):
        raise SpecError("publish", f"{again.removeprefix(':')} is given twice")


def _check_names(spec: Spec) -> None:
    if ours := next((name for name in spec.label if name.startswith(OURS)), None):
        raise SpecError("label", f"{ours!r}: names that begin with {OURS} are taken")
    if empty := next((name for name, value in spec.sysctl.items() if not value), None):
        raise SpecError("sysctl", f"{empty!r} has no value (write {empty}=VALUE)")
    if spec.log_driver == "none" and spec.log_opt:
        raise SpecError("log_opt", "contradicts --log-driver none")


def _check_mounts(spec: Spec) -> None:
    taken: set[str] = set()
    for option, each in (("volume", notation.volume), ("mount", notation.mount), ("tmpfs", notation.tmpfs)):
        for text in getattr(spec, option):
            target = each(text).target.rstrip("/")
            if target in taken:
                raise SpecError(option, f"{target or '/'} is mounted twice")
            taken.add(target)
            if not target:
                raise SpecError(option, "the root of the container is no place for a mount")
