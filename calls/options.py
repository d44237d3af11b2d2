"""From what is given (keywords or flags) to a spec: reads env-files, the environment and secrets.

The one place that does; `machine.spec` then validates values and reads nothing.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from machine.errors import SpecError
from machine.spec import Spec

Pairs = Mapping[str, str] | Iterable[str]


def build_spec(image: str | None, command: Iterable[str] = (), **options: Any) -> Spec:
    """The spec of a call. SpecError names the option that is wrong; nothing was done then.

    `env` and `label` take a dict or a list of `NAME=value` (`NAME` alone: from our environment, as Docker
    does); `env_file` a list of files; `secret` a list of `NAME[=env:VAR|file:PATH|cmd:COMMAND]`.
    """
    given = {name: value for name, value in options.items() if value is not None}
    environment: dict[str, str] = {}
    for file in _list(given.pop("env_file", ())):
        environment |= _env_file(file)
    environment |= _environment(given.pop("env", ()))
    secrets = dict(_secret(entry) for entry in _list(given.pop("secret", ())))
    if environment or secrets:
        given["env"] = environment | secrets
    if secrets:
        given["secret"] = tuple(secrets)
    if "label" in given:
        given["label"] = _labels(given["label"])
    if image is not None:
        given["image"] = image
    if command:
        given["command"] = command if isinstance(command, str) else tuple(command)
    for name in ("volume", "tmpfs"):
        if name in given:
            given[name] = _list(given[name])
    return Spec.parse(**given)


def _list(value: Any) -> tuple[Any, ...]:
    return (value,) if isinstance(value, str | os.PathLike) else tuple(value)


def _environment(given: Pairs) -> dict[str, str]:
    if isinstance(given, Mapping):
        return {str(name): str(value) for name, value in given.items()}
    found: dict[str, str] = {}
    for entry in _list(given):
        name, equals, value = str(entry).partition("=")
        if not name:
            raise SpecError("env", "a variable without a name (write NAME=value)")
        if equals:
            found[name] = value
        elif name in os.environ:
            found[name] = os.environ[name]
    return found


def _labels(given: Pairs) -> dict[str, str]:
    if isinstance(given, Mapping):
        return {str(name): str(value) for name, value in given.items()}
    pairs = (str(entry).partition("=") for entry in _list(given))
    found = {name: value for name, _, value in pairs}
    if "" in found:
        raise SpecError("label", "a label needs a name (write NAME=value)")
    return found


def _env_file(file: Any) -> dict[str, str]:
    try:
        text = Path(file).read_bytes().decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise SpecError("env_file", f"cannot read {file}: {getattr(error, 'strerror', None) or error}") from None
    found: dict[str, str] = {}
    for number, line in enumerate(text.split("\n"), 1):  # as Docker: nothing else ends a line
        entry = line.removesuffix("\r").lstrip()
        if not entry or entry.startswith("#"):
            continue
        name = entry.partition("=")[0]
        if not name or any(character.isspace() for character in name):
            raise SpecError("env_file", f"{file}, line {number}: {name!r} is not a variable's name")
        found |= _environment([entry])
    return found


def _secret(entry: str) -> tuple[str, str]:
    name, _, source = str(entry).partition("=")
    kind, colon, where = source.partition(":")
    if not name:
        raise SpecError(
            "secret", "a secret needs a name (write NAME, NAME=env:VAR, NAME=file:PATH or NAME=cmd:COMMAND)"
        )
    if not source:
        return name, _from_environment(name, name)
    readers = {"env": _from_environment, "file": _from_file, "cmd": _from_command}
    if not colon or kind not in readers:
        # The text may be the secret itself: it must not be repeated.
        raise SpecError(
            "secret", f"{name}: write {name}=env:VAR, {name}=file:PATH or {name}=cmd:COMMAND, not the value"
        )
    return name, readers[kind](name, where)


def _from_environment(name: str, variable: str) -> str:
    if variable not in os.environ:
        raise SpecError("secret", f"{name}: {variable} is not set in the environment")
    return os.environ[variable]


def _from_file(name: str, path: str) -> str:
    try:
        return Path(path).read_bytes().decode().removesuffix("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise SpecError("secret", f"{name}: cannot read {path}: {getattr(error, 'strerror', None) or error}") from None


def _from_command(name: str, command: str) -> str:
    done = subprocess.run(["/bin/sh", "-c", command], stdout=subprocess.PIPE, check=False)
    if done.returncode != 0:
        raise SpecError("secret", f"{name}: its command ended with status {done.returncode}")
    try:
        return done.stdout.decode().removesuffix("\n")
    except UnicodeDecodeError:
        raise SpecError("secret", f"{name}: its command printed what is not UTF-8") from None
