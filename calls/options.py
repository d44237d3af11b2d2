"""From what is given (keywords or flags) to a spec: reads env-files, the environment and secrets.

The one place that does; `machine.spec` then validates values and reads nothing.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from machine import notation
from machine.configuration import check_text
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
    for file in _list(given.pop("env_file", ()), "env_file"):
        environment |= _env_file(file)
    environment |= variables(given.pop("env", ()))
    secrets = dict(_secret(entry) for entry in _entries(given.pop("secret", ()), "secret"))
    if environment or secrets:
        given["env"] = environment | secrets
    if secrets:
        given["secret"] = tuple(secrets)
    if image is not None:
        given["image"] = image
    if command or isinstance(command, str):
        given["command"] = (
            command if isinstance(command, str | Mapping) or not isinstance(command, Iterable) else tuple(command)
        )
    _collect(given)
    untrusted = given.pop("untrusted", False)
    if not isinstance(untrusted, bool):
        raise SpecError("untrusted", f"{untrusted!r} is neither True nor False")
    if untrusted:
        from calls.untrusted import confine

        given = confine(given)
    return Spec.parse(**given)


_WORD = {"label": "label", "sysctl": "kernel parameter"}
_PAIRS = {"label", "storage_opt", "sysctl", "log_opt"}
_FROM_HERE = {
    "volume": re.compile(r"^()(\.[^:]*)(?=:)"),
    "mount": re.compile(r"((?:^|[,\"])(?:source|src)=)(\.[^,\"]*)"),
}
"""Where there may be a path from the current folder: as for the docker command, what begins with a dot."""
_LISTS = {name for name, default in Spec._field_defaults.items() if default == ()} - {"command", "secret"}


def _collect(given: dict[str, Any]) -> None:
    """What may be given several times becomes tuples and dicts; validating refuses what cannot."""
    for name in given.keys() & (_PAIRS | _LISTS):
        given[name] = _named(name, given[name]) if name in _PAIRS else _list(given[name], name)
    if "network_of" in given:
        given["network_of"] = tuple(
            name for entry in _entries(given["network_of"], "network_of") for name in entry.split(",")
        )
    for name, find in _FROM_HERE.items():
        if name in given:
            given[name] = tuple(_from_here(name, find, entry) for entry in given[name])
    if "security_opt" in given:
        given["security_opt"] = tuple(map(_security, _entries(given["security_opt"], "security_opt")))


def _list(value: Any, option: str) -> tuple[Any, ...]:
    if isinstance(value, Mapping | bytes) or not isinstance(value, str | os.PathLike | Iterable):
        raise SpecError(option, f"give a list, not {_a(value)}")
    return (value,) if isinstance(value, str | os.PathLike) else tuple(value)


def variables(given: Pairs) -> dict[str, str]:
    """Environment variables from a dict, or from `NAME=value` and `NAME`, which is as it is in our environment."""
    if isinstance(given, Mapping):
        return _texts("env", given)
    found: dict[str, str] = {}
    for entry in _entries(given, "env"):
        name, equals, value = entry.partition("=")
        if not name:
            raise SpecError("env", "a variable without a name (write NAME=value)")
        check_text("env", entry, notation.text)
        if equals:
            found[name] = value
        elif name in os.environ:
            found[name] = os.environ[name]
            check_text("env", found[name], notation.text)
    return found


def _named(option: str, given: Pairs) -> dict[str, str]:
    if isinstance(given, Mapping):
        return _texts(option, given)
    found: dict[str, str] = {}
    for entry in _entries(given, option):
        name, equals, value = entry.partition("=")
        if not name:
            raise SpecError(option, f"a {_WORD.get(option, 'value')} needs a name (write NAME=value)")
        if not equals and option != "label":
            raise SpecError(option, f"{name!r} has no value (write {name}=VALUE)")
        found[name] = value
    return found


def _texts(option: str, given: Mapping[Any, Any]) -> dict[str, str]:
    """The pairs of a dict. Numbers are taken as they are written; None, say, is no text."""
    texts = {}
    for name, value in given.items():
        if not isinstance(name, str):
            raise SpecError(option, f"a name is a text, not {_a(name)}")
        if not isinstance(value, str | int | float) or isinstance(value, bool):
            raise SpecError(option, f"{name!r}: give texts, not {_a(value)}")
        try:
            texts[name] = str(value)
        except ValueError:
            raise SpecError(option, f"{name!r}: a number of too many digits") from None
    return texts


def _entries(given: Any, option: str) -> tuple[str, ...]:
    """The texts of a list."""
    entries = _list(given, option)
    for entry in entries:
        if not isinstance(entry, str):
            raise SpecError(option, f"give texts, not {_a(entry)}")
    return entries


def _a(value: Any) -> str:
    # Its type, not itself: that may be the secret.
    return f"{'an' if type(value).__name__[0] in 'aeiou' else 'a'} {type(value).__name__}"


def _from_here(option: str, find: re.Pattern[str], entry: Any) -> Any:
    """What is mounted, its path absolute: whoever reads the record is somewhere else."""
    found = find.search(entry) if isinstance(entry, str) else None
    if found is None:
        return entry
    try:
        return f"{entry[: found.start(2)]}{os.path.abspath(found[2])}{entry[found.end(2) :]}"
    except FileNotFoundError:
        raise SpecError(option, f"{found[2]} is a path from the current folder, which is gone") from None


def _security(entry: str) -> str:
    """A seccomp profile goes into the request itself: whoever reads the record must not need the file."""
    name, _, where = entry.partition("=")
    if name != "seccomp" or where in ("", "unconfined", "builtin"):
        return entry
    inline = where.startswith("{")
    try:
        profile = json.loads(where if inline else Path(where).read_bytes())
    except OSError as error:
        raise SpecError("security_opt", f"cannot read {where}: {error.strerror}") from None
    except ValueError:
        what = "what is given" if inline else where
        raise SpecError("security_opt", f"{what} is not a seccomp profile: it is not JSON") from None
    if not isinstance(profile, dict):
        raise SpecError("security_opt", f"{where} is not a seccomp profile: it is no JSON object")
    return f"seccomp={json.dumps(profile, separators=(',', ':'))}"


def _env_file(file: Any) -> dict[str, str]:
    try:
        text = Path(file).read_bytes().decode("utf-8-sig")
    except (OSError, ValueError, TypeError) as error:
        raise SpecError("env_file", f"cannot read {file}: {getattr(error, 'strerror', None) or error}") from None
    found: dict[str, str] = {}
    for number, line in enumerate(text.split("\n"), 1):  # as Docker: nothing else ends a line
        entry = line.removesuffix("\r").lstrip()
        if not entry or entry.startswith("#"):
            continue
        name = entry.partition("=")[0]
        if not name or any(character.isspace() for character in name):
            raise SpecError("env_file", f"{file}, line {number}: {name!r} is not a variable's name")
        found |= variables([entry])
    return found


def _secret(entry: str) -> tuple[str, str]:
    name, _, source = str(entry).partition("=")
    kind, colon, where = source.partition(":")
    if not name:
        raise SpecError(
            "secret", "a secret needs a name (write NAME, NAME=env:VAR, NAME=file:PATH or NAME=cmd:COMMAND)"
        )
    check_text("secret", name, notation.text)
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
    check_text("secret", variable, notation.text)
    if variable not in os.environ:
        raise SpecError("secret", f"{name}: {variable} is not set in the environment")
    return os.environ[variable]


def _from_file(name: str, path: str) -> str:
    try:
        return Path(path).read_bytes().decode().removesuffix("\n")
    except (OSError, ValueError) as error:
        raise SpecError("secret", f"{name}: cannot read {path}: {getattr(error, 'strerror', None) or error}") from None


def _from_command(name: str, command: str) -> str:
    import subprocess  # few calls have such a secret

    try:
        done = subprocess.run(["/bin/sh", "-c", command], stdout=subprocess.PIPE, check=False)
    except (OSError, ValueError) as error:
        raise SpecError(
            "secret", f"{name}: cannot run its command: {getattr(error, 'strerror', None) or error}"
        ) from None
    if done.returncode != 0:
        raise SpecError("secret", f"{name}: its command ended with status {done.returncode}")
    try:
        return done.stdout.decode().removesuffix("\n")
    except UnicodeDecodeError:
        raise SpecError("secret", f"{name}: its command printed what is not UTF-8") from None
