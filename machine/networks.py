"""Names of networks: `none`, `bridge`, `host`, `container:…`, and those that somebody has made. Pure."""

from __future__ import annotations

import re

_NAME = r"[a-zA-Z0-9][a-zA-Z0-9_.-]*"


def networks(text: str) -> tuple[str, ...]:
    """One network or several, with commas between them; `none`, `host` and `container:…` stand alone."""
    found = tuple(text.split(","))
    for name in found:
        if not re.fullmatch(_NAME, name) and not (name.startswith("container:") and len(name) > len("container:")):
            raise ValueError(f"{name!r} is not the name of a network (letters, digits, _ . -)")
        if len(found) > 1 and not is_joined(name):
            raise ValueError(f"{name} goes with no other network")
    if len(set(found)) < len(found):
        raise ValueError(f"{text!r} names a network twice")
    return found


def is_joined(network: str | None) -> bool:
    """Whether the container has a network of its own there: not `none`, the host's, or another container's."""
    return network not in ("none", "host") and not (network or "").startswith("container:")


def is_named(network: str | None) -> bool:
    """Whether it is one that somebody has made: there it has names, and it may be missing."""
    return bool(network) and network not in ("default", "bridge") and is_joined(network)
