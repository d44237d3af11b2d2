"""What types do not say about the configuration of a container: how its options are spelled, and what contradicts."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from machine import notation
from machine.errors import SpecError
from machine.networks import is_joined, is_named, networks
from machine.notation import Mount
from machine.spec import Spec


def check(spec: Spec) -> None:
    """SpecError for the first option that is not spelled as the docker command does, or contradicts another."""
    asked = spec.asked()
    for option, each in _SPELLING.items():
        for text in _texts(asked.get(option)):
            try:
                each(text)
            except ValueError as error:
                raise SpecError(option, str(error)) from None
    _check_limits(spec)
    _check_networks(spec)
    _check_mounts(spec)


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


_something = _like(r"(?s).+", "a name or a number")
_DOMAIN = r"[A-Za-z0-9_]([A-Za-z0-9_.-]*[A-Za-z0-9_])?"
_SPELLING: dict[str, Callable[[str], object]] = {
    "volume": notation.volume,
    "mount": notation.mount,
    "tmpfs": notation.tmpfs,
    "network": networks,
    "network_of": _like(r"[a-zA-Z0-9][a-zA-Z0-9_.-]*", "the name of a network (letters, digits, _ . -)"),
    "network_alias": _like(_DOMAIN, "a host's name (letters, digits, . -)"),
    "publish": notation.ports,
    "hostname": _like(r"(?=.{1,63}\Z)" + _DOMAIN, "a host's name (at most 63 letters, digits, . -)"),
    "add_host": notation.added_host,
    "dns": notation.address,
    "dns_search": _like(rf"\.|{_DOMAIN}", "a domain (write example.org, or . for none)"),
    "dns_option": _like(r"\S+", "an option of resolv.conf (write ndots:2)"),
    "cpuset_cpus": _like(r"\d+(-\d+)?(,\d+(-\d+)?)*", "a set of CPUs (write 0-1,3)"),
    "ulimit": notation.ulimit,
    "device": notation.device,
    "group_add": _something,
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


def _check_networks(spec: Spec) -> None:
    if spec.network and spec.network_of:
        raise SpecError("network_of", "contradicts --network: it takes one network of several")
    if not is_joined(spec.network):
        for option in ("publish", "publish_all"):
            if getattr(spec, option):
                raise SpecError(option, f"contradicts --network {spec.network}: there is nothing to publish")
    named = [name for name in (*(spec.network or "").split(","), *spec.network_of) if is_named(name)]
    if spec.network_alias and not named:
        raise SpecError("network_alias", "needs a --network that has names: not the default one, nor none or host")


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
