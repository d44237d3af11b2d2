"""Credentials for a registry: what the call brings, the environment, a helper, or the configuration file.

A registry is matched by its whole host, with its port; never by a part of it. Nothing found here is recorded, and
no error repeats any of it.
"""

from __future__ import annotations

import base64
import binascii
import json
import os
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from machine.errors import DriverError
from machine.reference import HUB
from machine.states import Reason

HUB_URL = "https://index.docker.io/v1/"
"""What Docker Hub is called where credentials are kept."""
VARIABLES = ("DOCKER_AUTH_CONFIG", "DOCKER_AUTH")
"""Variables that hold a configuration file's JSON, or only its `auths`."""
_FIELDS = ("username", "password", "identitytoken", "registrytoken")
_SECRETS = ("password", "identitytoken", "registrytoken", "auth")
_TOKEN = "<token>"  # noqa: S105 - what a helper gives as the user's name when it gives a token
_HELPER_SECONDS = 60
_ADDRESSES = frozenset(("", "v1", "v2"))  # the paths that an address of a whole registry may have


class Credentials(NamedTuple):
    """`fields` are those of the engine's X-Registry-Auth; `source` says where they come from, for a person."""

    fields: tuple[tuple[str, str], ...] = ()
    source: str = ""

    @property
    def header(self) -> dict[str, str]:
        """The request header that carries them; an empty one for none, so that the engine looks nowhere else."""
        document = json.dumps(dict(self.fields)).encode()
        return {"X-Registry-Auth": base64.urlsafe_b64encode(document).decode("ascii")}

    @property
    def secrets(self) -> list[str]:
        """What must not turn up anywhere."""
        return [value for name, value in self.fields if name in _SECRETS]


def of_call(given: Mapping[str, Any], host: str) -> Credentials:
    """What a call itself brings: `username` and `password`, or a token, or `auth` as in a configuration file."""
    found = _entry(given, "the call", host)
    if found is None:
        raise _refusal("the call's credentials have neither username and password nor a token")
    return found


def find(host: str) -> Credentials:
    """Credentials for the registry of that host; empty ones when there are none.

    DriverError(PULL_DENIED) when they are there and cannot be had.
    """
    for source, document in _documents():
        found = _in_auths(_auths(source, document), source, host)
        if source not in VARIABLES:
            found = _of_helper(document, host) or found
        if found is not None:
            return found
    return Credentials()


def fault() -> str | None:
    """What is wrong with the configuration file, or with credentials in the environment; None when nothing is."""
    try:
        for source, document in _documents():
            for part in ("HttpHeaders", "proxies"):
                _object(document.get(part, {}), f"{source}: {part}")
            for address, entry in _auths(source, document).items():
                _entry(entry, source, address)
    except DriverError as error:
        return str(error)
    return None


def _documents() -> Iterator[tuple[str, dict[str, Any]]]:
    for variable in VARIABLES:
        if text := os.environ.get(variable):
            yield variable, _json(text, f"the variable {variable}")
    folder = os.environ.get("DOCKER_CONFIG")
    path = (Path(folder) if folder else Path.home() / ".docker") / "config.json"
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return
    except (OSError, UnicodeDecodeError) as error:
        raise _refusal(f"{path} cannot be read: {getattr(error, 'strerror', None) or 'it is not text'}") from None
    yield str(path), _json(text, str(path))


def _json(text: str, source: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except ValueError:  # its message may quote what must not be seen
        found = None
    return _object(found, source)


def _auths(source: str, document: dict[str, Any]) -> dict[str, Any]:
    """By address. Of a variable they may be all there is."""
    return _object(document.get("auths", document if source in VARIABLES else {}), f"{source}: auths")


def _object(found: Any, what: str) -> dict[str, Any]:
    if not isinstance(found, dict):
        raise _refusal(f"{what} is not a JSON object")
    return found


def _in_auths(auths: dict[str, Any], source: str, host: str) -> Credentials | None:
    for key in _keys(host):  # a key that is the host itself goes before one that is its address
        if key in auths and (found := _entry(auths[key], source, host)):
            return found
    for key in sorted(auths):
        if _host_of(key) == host and (found := _entry(auths[key], source, host)):
            return found
    return None


def _keys(host: str) -> tuple[str, ...]:
    return (HUB_URL, HUB) if host == HUB else (host,)


def _host_of(address: str) -> str:
    host, _, path = address.removeprefix("https://").removeprefix("http://").partition("/")
    if path.strip("/") not in _ADDRESSES:
        return ""  # for a part of a registry only
    return HUB if host == f"index.{HUB}" else host


def _entry(entry: Any, source: str, host: str) -> Credentials | None:
    """One entry of `auths`; None when it is empty: a store has them."""
    if not isinstance(entry, Mapping):
        raise _refusal(f"{source}: what it has for {host} is not a JSON object")
    fields = {name: str(entry[name]) for name in _FIELDS if entry.get(name)}
    if entry.get("auth"):
        fields |= _decoded(entry["auth"], source, host)
    if not fields:
        return None
    fields["serveraddress"] = HUB_URL if host == HUB else host
    return Credentials(tuple(sorted(fields.items())), source)


def _decoded(auth: Any, source: str, host: str) -> dict[str, str]:
    try:
        user, colon, password = base64.b64decode(str(auth), validate=True).decode().partition(":")
    except (binascii.Error, ValueError):
        colon = ""
    if not colon:
        raise _refusal(f"{source}: auth of {host} is not USER:PASSWORD in base64") from None
    return {"username": user, "password": password.rstrip("\0")}


def _of_helper(document: dict[str, Any], host: str) -> Credentials | None:
    helpers = document.get("credHelpers") or {}
    name = next((helpers[key] for key in (*_keys(host), host) if key in helpers), document.get("credsStore"))
    return _ask(str(name), host) if name else None


def _ask(name: str, host: str) -> Credentials | None:
    """What a credential helper has; None when it has nothing. Its own words are not repeated."""
    program = f"docker-credential-{name}"
    asked = HUB_URL if host == HUB else host
    try:
        done = subprocess.run(
            [program, "get"], input=asked.encode(), capture_output=True, timeout=_HELPER_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        raise _refusal(f"{program} did not answer in {_HELPER_SECONDS} s") from None
    except OSError as error:
        raise _refusal(f"{program} cannot be started: {error.strerror}") from None
    if done.returncode != 0:
        if b"credentials not found" in done.stdout:
            return None
        raise _refusal(f"{program} has failed with status {done.returncode}")
    try:
        found = json.loads(done.stdout)
        user, secret = str(found["Username"]), str(found["Secret"])
    except (ValueError, KeyError, TypeError):
        raise _refusal(f"{program} gave no answer that can be read") from None
    fields = {"identitytoken": secret} if user == _TOKEN else {"username": user, "password": secret}
    return _entry(fields, program, host)


def _refusal(message: str) -> DriverError:
    return DriverError(Reason.PULL_DENIED, f"no credentials: {message}")
