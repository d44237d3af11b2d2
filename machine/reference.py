"""Names of images, by the grammar of the distribution project's references.

`[host[:port]/]path[:tag][@digest]`. The first component is a host if it holds a dot, a colon or a capital letter or is
`localhost`; without one the host is `docker.io`, and a path of one component is in its `library`. The tag is
`latest` unless a tag or a digest is given. A digest goes before a tag.
"""

from __future__ import annotations

import re
from typing import NamedTuple

HUB = "docker.io"
_LONGEST = 255
_HEX = {"sha256": 64, "sha384": 96, "sha512": 128}

# Compiled when first used, not when imported: most names need one of them.
_LABEL = r"(?:[a-zA-Z0-9]|[a-zA-Z0-9][a-zA-Z0-9-]*[a-zA-Z0-9])"
_HOST = rf"(?:{_LABEL}(?:\.{_LABEL})*|\[[a-fA-F0-9:]+\])(?::[0-9]+)?"
_COMPONENT = r"[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*"
_PATH = rf"{_COMPONENT}(?:/{_COMPONENT})*"
_TAG = r"[a-zA-Z0-9_][a-zA-Z0-9_.-]{0,127}"
_DIGEST = r"(sha256|sha384|sha512):([a-f0-9]+)"
_HEX_DIGITS = frozenset("0123456789abcdef")


class Reference(NamedTuple):
    """Where an image is. `tag` is None only where a `digest` alone was given."""

    host: str
    path: str
    tag: str | None = None
    digest: str | None = None

    @property
    def repository(self) -> str:
        """The name without tag and digest, as the engine shows it: `busybox`, `localhost:5000/app`."""
        if self.host != HUB:
            return f"{self.host}/{self.path}"
        short = self.path.removeprefix("library/")
        return short if "/" not in short else self.path

    @property
    def version(self) -> str:
        """What is asked of the registry: the digest, else the tag."""
        return self.digest or self.tag or "latest"

    def same_repository(self, other: Reference) -> bool:
        """Whether both are versions of one image."""
        return (self.host, self.path) == (other.host, other.path)

    def __str__(self) -> str:
        """In full: `docker.io/library/busybox:latest`."""
        tag = f":{self.tag}" if self.tag else ""
        return f"{self.host}/{self.path}{tag}" + (f"@{self.digest}" if self.digest else "")


def is_id(text: str) -> bool:
    """Whether `text` is the id of an image in full. The beginning of one cannot be told from a name."""
    digits = text.removeprefix("sha256:")
    return len(digits) == _HEX["sha256"] and _HEX_DIGITS.issuperset(digits)


def parse(text: str) -> Reference:
    """The reference that `text` is. ValueError says what is wrong with it; an id is no reference."""
    if is_id(text):
        raise ValueError(f"{text} is the id of an image: no registry knows it")
    rest, at, digest = text.partition("@")
    if at:
        _check_digest(digest)
    name, tag = _cut_tag(rest)
    host, path = _cut_host(name)
    if path != path.lower():
        raise ValueError(f"{text!r}: the name of an image has no capital letters")
    if not re.fullmatch(_PATH, path) or not (host == HUB or re.fullmatch(_HOST, host)):
        raise ValueError(f"{text!r} is not the name of an image (write NAME, NAME:TAG or HOST[:PORT]/NAME:TAG)")
    if len(f"{host}/{path}") > _LONGEST:
        raise ValueError(f"the name of an image has at most {_LONGEST} characters")
    if tag is not None and not re.fullmatch(_TAG, tag):
        raise ValueError(f"{text!r}: {tag!r} is not a tag (letters, digits, _ . - and at most 128 of them)")
    return Reference(host, path, tag or (None if at else "latest"), digest or None)


def _cut_tag(name: str) -> tuple[str, str | None]:
    before, colon, tag = name.rpartition(":")
    return (before, tag) if colon and "/" not in tag else (name, None)


def _cut_host(name: str) -> tuple[str, str]:
    first, slash, path = name.partition("/")
    if not slash or not (set(".:") & set(first) or first == "localhost" or first != first.lower()):
        first, path = HUB, name
    if first == f"index.{HUB}":  # as it was called once
        first = HUB
    return first, f"library/{path}" if first == HUB and "/" not in path else path


def _check_digest(digest: str) -> None:
    match = re.fullmatch(_DIGEST, digest)
    if match is None or len(match[2]) != _HEX[match[1]]:
        raise ValueError(f"{digest!r} is not a digest (write sha256: and 64 hexadecimal digits)")
