"""The docker command's spellings of what has parts: mounts, ports, limits. Pure.

Each function takes the text of one option and gives its parts, or raises ValueError, which says what to write.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple

from machine.units import size

_VOLUME_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]+")
_PORTS = re.compile(
    r"(?:(?:(?P<address>\[[\da-fA-F:.]+\]|\d+\.\d+\.\d+\.\d+):)?(?P<host>\d+(?:-\d+)?)?:)?"
    r"(?P<inside>\d+(?:-\d+)?)(?:/(?P<protocol>tcp|udp|sctp))?",
    re.ASCII,
)
_ULIMIT = re.compile(r"(?P<name>[a-z]+)=(?P<soft>-1|\d+)(?::(?P<hard>-1|\d+))?", re.ASCII)
_ULIMITS = (
    *("core", "cpu", "data", "fsize", "locks", "memlock", "msgqueue", "nice", "nofile"),
    *("nproc", "rss", "rtprio", "rttime", "sigpending", "stack"),
)
_PERMISSIONS = re.compile(r"[rwm]{1,3}")
_CPUS = re.compile(r"\d+(-\d+)?(,\d+(-\d+)?)*", re.ASCII)
_MOST_CPUS = 8192  # the kernel's
_LAST_ID = 2**31 - 1  # the engine's
_TRUE = frozenset(("1", "t", "T", "true", "True", "TRUE"))
_FALSE = frozenset(("0", "f", "F", "false", "False", "FALSE"))
_MOUNT_KEYS = {"src": "source", "dst": "target", "destination": "target", "ro": "readonly"}
_MOUNT_KINDS = {"bind": {"readonly"}, "volume": {"readonly"}, "tmpfs": {"readonly", "tmpfs-size", "tmpfs-mode"}}
SECURITY = ("no-new-privileges", "seccomp", "apparmor", "label")
"""What `--security-opt` can be about."""


def is_utf8(given: str) -> bool:
    """Whether nothing in it stands for bytes that are not UTF-8."""
    return given.isascii() or given.encode(errors="replace").decode() == given


def text(given: str) -> None:
    """Any text that can be written down."""
    if not is_utf8(given):
        raise ValueError("contains bytes that are not UTF-8: neither engine nor ledger can take them")


def texts(given: object) -> tuple[str, ...]:
    """One text or several."""
    found = (given,) if isinstance(given, str) or not isinstance(given, Iterable) else tuple(given)
    for each in found:
        if not isinstance(each, str):
            raise ValueError(f"give texts, not {each!r}")  # noqa: TRY004 - see above
    return found


class Mount(NamedTuple):
    """Something mounted at `target`. `source`: a path, the name of a volume, or "" for what has no name."""

    kind: str
    source: str
    target: str
    options: dict[str, str]


class Port(NamedTuple):
    """A port of the container, and where it is published; empty where that is left to the engine."""

    inside: int
    protocol: str
    address: str
    host: str


class Ulimit(NamedTuple):
    """-1: none."""

    name: str
    soft: int
    hard: int


class Gpus(NamedTuple):
    """So many, or these; a `number` of -1: all."""

    number: int
    devices: tuple[str, ...]


class Device(NamedTuple):
    """A device of the host, and what may be done with it: read, write, mknod."""

    host: str
    inside: str
    permissions: str


def volume(text: str) -> Mount:
    """`[SOURCE:]TARGET[:OPTIONS]`."""
    parts = text.split(":")
    if len(parts) == 1:
        parts = ["", *parts]
    if len(parts) > 3:
        raise ValueError(f"{text!r} has too many colons: a path with a colon needs --mount")
    source, target, *options = parts
    kind = "bind" if source.startswith(("/", ".")) else "volume"
    if options == [""]:
        raise ValueError(f"{text!r} ends in a colon (write :ro, or nothing)")
    if kind == "volume" and (source or len(text.split(":")) > 1) and not _VOLUME_NAME.fullmatch(source):
        raise ValueError(f"{source!r} is neither a path nor the name of a volume (write /PATH, ./PATH or NAME)")
    return Mount(kind, source, absolute(target), dict.fromkeys(options, ""))


def mount(text: str) -> Mount:
    """`type=bind|volume|tmpfs,source=…,target=…[,readonly][,tmpfs-size=…][,tmpfs-mode=…]`; quoted as in CSV."""
    given = _fields(text)
    kind, source, target = given.pop("type", "volume"), given.pop("source", ""), given.pop("target", "")
    if kind not in _MOUNT_KINDS:
        raise ValueError(f"type={kind} is not a kind of mount (write type=bind, volume or tmpfs)")
    for key in given.keys() - _MOUNT_KINDS[kind]:
        allowed = ", ".join(["source", "target", *sorted(_MOUNT_KINDS[kind])])
        raise ValueError(f"{key!r} means nothing for type={kind} (write {allowed})")
    if _yes("readonly", given.pop("readonly", "false") or "true"):
        given["readonly"] = ""
    if kind == "bind" and not source.startswith(("/", ".")):
        raise ValueError("type=bind needs source=/PATH")
    if kind == "volume" and source and not _VOLUME_NAME.fullmatch(source):
        raise ValueError(f"{source!r} is not the name of a volume (write source=NAME, or type=bind for a path)")
    if kind == "tmpfs" and source:
        raise ValueError("type=tmpfs has no source")
    if not re.fullmatch(r"[0-7]{3,4}", given.get("tmpfs-mode", "1777")):
        raise ValueError(f"tmpfs-mode={given['tmpfs-mode']} is not a mode (write 1777)")
    size(given.get("tmpfs-size", 0))
    return Mount(kind, source, absolute(target), given)


def _fields(text: str) -> dict[str, str]:
    import csv

    given: dict[str, str] = {}
    try:
        entries = next(csv.reader([text], strict=True), [])
    except csv.Error as error:
        raise ValueError(f"{text!r}: {error}") from None
    for entry in entries:
        key, _, value = entry.partition("=")
        if (key := _MOUNT_KEYS.get(key, key)) in given:
            raise ValueError(f"{text!r} says twice what its {key} is")
        given[key] = value
    return given


def tmpfs(text: str) -> Mount:
    """`PATH[:OPTIONS]`."""
    path, _, options = text.partition(":")
    return Mount("tmpfs", "", absolute(path), {"options": options})


def ports(text: str) -> list[Port]:
    """`[[ADDRESS:][PORT]:]PORT[/PROTOCOL]`; ranges `8000-8002:80-82` are several, `8000-8002:80` is the first free."""
    match = _PORTS.fullmatch(text)
    if match is None:
        raise ValueError(f"{text!r} is not a port to publish (write 80, 8080:80, 127.0.0.1:8080:80 or 53:53/udp)")
    address, protocol = (match["address"] or "").strip("[]"), match["protocol"] or "tcp"
    if address and not _is_address(address):  # an engine takes what is none for all addresses, and says nothing
        raise ValueError(f"{text!r}: {address!r} is not an IP address")
    inside = _range(match["inside"])
    if inside[0] == 0:
        raise ValueError(f"{text!r}: a container has no port 0")
    host = _range(match["host"]) if match["host"] else []
    if len(inside) == 1 and host:
        return [Port(inside[0], protocol, address, match["host"])]
    if host and len(host) != len(inside):
        raise ValueError(f"{text!r}: {len(host)} ports of the host for {len(inside)} of the container")
    return [Port(port, protocol, address, str(host[at]) if host else "") for at, port in enumerate(inside)]


def ulimit(text: str) -> Ulimit:
    """`NAME=SOFT[:HARD]`."""
    match = _ULIMIT.fullmatch(text)
    if match is None or match["name"] not in _ULIMITS:
        raise ValueError(f"{text!r} is not a limit (write nofile=1024 or nofile=1024:2048; also {', '.join(_ULIMITS)})")
    soft, hard = int(match["soft"]), int(match["hard"] or match["soft"])
    if max(soft, hard) > 2**63 - 1:
        raise ValueError(f"{text!r} is out of range")
    if hard != -1 and (soft > hard or soft == -1):
        raise ValueError(f"{text!r}: the soft limit is above the hard one")
    return Ulimit(match["name"], soft, hard)


def device(text: str) -> Device:
    """`/dev/HOST[:/dev/INSIDE][:PERMISSIONS]`."""
    host, *rest = text.split(":")
    permissions = rest.pop() if rest and _PERMISSIONS.fullmatch(rest[-1]) else "rwm"
    inside = rest.pop(0) if rest else host
    if rest or not host.startswith("/") or not inside.startswith("/"):
        raise ValueError(f"{text!r} is not a device (write /dev/fuse, /dev/fuse:/dev/inside or /dev/fuse:/dev/fuse:r)")
    return Device(host, inside, permissions)


def gpus(text: str) -> Gpus:
    """`all`, a number, or `device=ID[,ID]`; quoted as the docker command wants the latter, or not."""
    kind, given, names = text.removeprefix('"').removesuffix('"').partition("=")
    devices = tuple(names.split(","))
    if kind == "device" and given and all(re.fullmatch(r"[\w:.=/-]+", name, re.ASCII) for name in devices):
        return Gpus(0, devices)
    if text != "all" and not re.fullmatch(r"0*[1-9][0-9]{0,8}", text):
        raise ValueError(f"{text!r} is no choice of GPUs (write all, 2, device=0 or device=0,1)")
    return Gpus(-1 if text == "all" else int(text), ())


def added_host(text: str) -> str:
    """`NAME:ADDRESS`; the address may be `host-gateway`."""
    name, _, where = text.partition(":")
    if not re.fullmatch(r"[^\s#]+", name) or (where != "host-gateway" and not _is_address(where)):
        raise ValueError(f"{text!r} is not a host (write NAME:ADDRESS or NAME:host-gateway)")
    return text


def address(text: str) -> str:
    """An IP address."""
    if not _is_address(text):
        raise ValueError(f"{text!r} is not an IP address")
    return text


def ipv4(text: str) -> None:
    """An address of version 4."""
    _version(text, 4)


def ipv6(text: str) -> None:
    """An address of version 6; one of a link alone (`fe80::1%eth0`) belongs to no network."""
    _version(text, 6)


def _version(text: str, version: int) -> None:
    import ipaddress

    if not _is_address(text) or "%" in text or ipaddress.ip_address(text).version != version:
        raise ValueError(f"{text!r} is not an IPv{version} address")


def capability(text: str) -> str:
    """`NET_ADMIN`, `CAP_NET_ADMIN` or `ALL`, in any case."""
    if not re.fullmatch(r"[A-Z_]+", text.upper()):
        raise ValueError(f"{text!r} is not a capability (write NET_ADMIN, or ALL)")
    return text


def security(text: str) -> str:
    """`no-new-privileges`, `seccomp=…`, `apparmor=…`, `label=…`."""
    name, _, value = text.replace(":", "=", 1 if text.startswith(SECURITY[0]) else 0).partition("=")
    if name == SECURITY[0]:
        _yes(name, value or "true")
    elif name not in SECURITY or not value:
        kinds = "no-new-privileges, seccomp=FILE, seccomp=unconfined, apparmor=PROFILE or label=LABEL"
        raise ValueError(f"{text!r} is not known (write {kinds})")
    return text


def cpus(text: str) -> None:
    """`0-1,3`: numbers of CPUs and ranges of them."""
    if not _CPUS.fullmatch(text):
        raise ValueError(f"{text!r} is not a set of CPUs (write 0-1,3)")
    for part in text.split(","):
        low, _, high = part.partition("-")
        if not int(low) <= int(high or low) < _MOST_CPUS:
            raise ValueError(f"{text!r}: {part} is not a CPU, nor a range of CPUs")


def user(text: str) -> None:
    """`USER`, `USER:GROUP` or `:GROUP`, by name or number; empty: as the image says."""
    name, colon, of = text.partition(":")
    if name or not colon:
        _identity(text, name or "0")
    if colon:
        _identity(text, of)


def group(text: str) -> None:
    """A group by its name or number."""
    _identity(text, text)


def _identity(text: str, part: str) -> None:
    if not re.fullmatch(r"[^\s:]+", part):
        raise ValueError(f"{text!r} is no user or group (write a name or a number)")
    if re.fullmatch(r"[-+]?[0-9]+", part) and not 0 <= int(part) <= _LAST_ID:
        raise ValueError(f"{text!r}: numbers of users and groups go from 0 to {_LAST_ID}")


def _yes(name: str, value: str) -> bool:
    """What Go reads as true or false; whatever else must not be taken for either."""
    if value not in _TRUE | _FALSE:
        raise ValueError(f"{name}={value} is neither true nor false")
    return value in _TRUE


def absolute(path: str) -> str:
    """A path in the container, from its root."""
    if not path.startswith("/"):
        raise ValueError(f"{path!r} is not an absolute path in the container")
    return path


def _range(text: str) -> range:
    low, _, high = text.partition("-")
    found = range(int(low), int(high or low) + 1)
    if not found or found[-1] > 65535:
        raise ValueError(f"{text} is not a port, nor a range of ports")
    return found


def _is_address(text: str) -> bool:
    import ipaddress

    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return not re.search(r"\s", text)  # a zone (fe80::1%eth0) may be anything
