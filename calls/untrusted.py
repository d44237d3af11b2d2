"""`--untrusted`: the options with which a call may run what nobody vouches for. Fn's own limits, and no network."""

from __future__ import annotations

import contextlib
from typing import Any

from machine import notation
from machine.errors import SpecError

_WHOLE: dict[str, Any] = {"user": "1000:1000", "read_only": True, "pids_limit": 50, "network": "none"}
_ULIMITS = ("nofile=350", "memlock=65536", "sigpending=5000", "msgqueue=819200")
_NO_NEW_PRIVILEGES = "no-new-privileges"
_NAMESPACES = ("pid", "ipc", "uts", "userns")
_SCRATCH = "/tmp"  # noqa: S108 - the container's own
_MOUNTS = {"volume": notation.volume, "mount": notation.mount, "tmpfs": notation.tmpfs}


def confine(given: dict[str, Any]) -> dict[str, Any]:
    """The options, completed. One that was given goes before; limits, mounts and security options each for itself.

    All capabilities are dropped, whatever else is given: what is needed is added with `cap_add`.
    """
    if given.get("driver") == "local":
        raise SpecError("untrusted", "contradicts --driver local: a process of this host is not confined")
    if given.get("privileged"):
        raise SpecError("untrusted", "contradicts --privileged")
    for option in _NAMESPACES:
        if given.get(option) == "host":
            raise SpecError("untrusted", f"contradicts --{option} host")
    if "gpus" in given:
        raise SpecError("untrusted", "contradicts --gpus: these are devices of the host")
    if any(str(name).upper() == "ALL" for name in given.get("cap_add", ())):
        raise SpecError("untrusted", "contradicts --cap-add ALL: add what is needed by its name")
    whole = _WHOLE | given
    if "network_of" in given and "network" not in given:
        del whole["network"]
    limits, security = given.get("ulimit", ()), given.get("security_opt", ())
    named = {str(limit).partition("=")[0] for limit in limits}
    whole["ulimit"] = (*limits, *(limit for limit in _ULIMITS if limit.partition("=")[0] not in named))
    whole["cap_drop"] = tuple(dict.fromkeys((*given.get("cap_drop", ()), "ALL")))
    if not any(str(entry).startswith(_NO_NEW_PRIVILEGES) for entry in security):
        whole["security_opt"] = (*security, _NO_NEW_PRIVILEGES)
    if _SCRATCH not in _targets(given):
        whole["tmpfs"] = (*given.get("tmpfs", ()), f"{_SCRATCH}:size=64m,nr_inodes=65536,mode=1777")
    return whole


def _targets(given: dict[str, Any]) -> set[str]:
    found = set()
    for option, parts in _MOUNTS.items():
        for text in given.get(option, ()):
            with contextlib.suppress(ValueError):  # validating says what is wrong with it
                found.add(parts(str(text)).target.rstrip("/"))
    return found
