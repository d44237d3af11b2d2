"""Where things are: the ledger and the key of its fingerprints, by the XDG base directories."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from pathlib import Path

from machine.errors import LedgerError, UsageError

_KEY_BYTES = 32


def ledger_path(given: str | Path | None = None) -> Path:
    """`given`, else CALLS_LEDGER, else $XDG_DATA_HOME/calls/ledger.db. It never depends on the current folder.

    UsageError when what is given can be no file: the default is not taken in the place of an empty name.
    """
    if given is None:
        chosen = os.environ.get("CALLS_LEDGER")
        return Path(chosen) if chosen else _base("XDG_DATA_HOME", ".local/share") / "calls" / "ledger.db"
    try:
        path = Path(given)
        possible = given != "" and b"\0" not in os.fsencode(path)
    except (TypeError, UnicodeEncodeError):
        possible = False
    if not possible:
        raise UsageError(f"ledger: {given!r} is not the path of a file")
    return path


def fingerprinter(ledger: str) -> Callable[[str], str]:
    """Fingerprints of secrets for one ledger. The key stays outside the ledger, so that a copy gives nothing away."""
    from machine.secrets import fingerprint  # few calls have a secret

    def of(value: str) -> str:
        return fingerprint(_key() + ledger.encode(), value)

    return of


def _key() -> bytes:
    path = _base("XDG_CONFIG_HOME", ".config") / "calls" / "fingerprint.key"
    try:
        if not path.exists():
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            _make_key(path)
        key = path.read_bytes()
    except OSError as error:
        raise LedgerError(f"cannot keep the key of the secrets' fingerprints in {path}: {error.strerror}") from error
    if len(key) != _KEY_BYTES:  # with an empty one, anybody could guess secrets by their fingerprints
        raise LedgerError(
            f"the key of the secrets' fingerprints in {path} has {len(key)} bytes instead of {_KEY_BYTES}: "
            "restore it, or remove it for a new one, with which secrets get other fingerprints"
        )
    return key


def _make_key(path: Path) -> None:
    import tempfile

    # Linked into place when it is whole: of two processes that make one at once, the first wins and both use it.
    with tempfile.NamedTemporaryFile(dir=path.parent) as file:  # mode 0600
        file.write(os.urandom(_KEY_BYTES))
        file.flush()
        os.fsync(file.fileno())  # else a power cut could leave it empty under its name
        with contextlib.suppress(FileExistsError):
            os.link(file.name, path)


def _base(variable: str, default: str) -> Path:
    # The standard says that a relative path is to be ignored.
    given = os.environ.get(variable, "")
    return Path(given) if os.path.isabs(given) else Path.home() / default
