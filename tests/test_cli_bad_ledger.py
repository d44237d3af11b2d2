"""A ledger that cannot be used: one line on stderr says why, nothing is run, and the file stays as it is."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import uuid
from collections.abc import Callable
from pathlib import Path

import docker
import pytest
from ledgers import small
from running import IMAGE, RUN, Said, calls, fill

from ledger.sqlite import SCHEMA_VERSION

ROOT = os.geteuid() == 0
READING = (["ps"], ["show", "@last"], ["events", "@last"], ["logs", "@last"], ["wait", "@last"])
ASKING = (["kill", "@last"], ["cancel", "@last"])


def text(path: Path) -> str:
    path.write_text("Dear diary, this is not a database. " * 100)
    return f"{path} is not a ledger, or is damaged: file is not a database"


def short_text(path: Path) -> str:
    path.write_text("hello\n")
    return f"{path} is not a ledger, or is damaged: file is not a database"


def folder(path: Path) -> str:
    path.mkdir()
    return f"cannot use the ledger {path}: "


def foreign(path: Path) -> str:
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE theirs (name TEXT)")
        connection.execute("INSERT INTO theirs VALUES ('theirs')")
    connection.close()
    return f"{path} is a SQLite file but not a ledger; give another file with --ledger"


def foreign_in_wal_mode(path: Path) -> str:
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.close()
    return foreign(path)


def newer(path: Path) -> str:
    small(path)
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA user_version = 99")
    connection.close()
    return f"{path} has schema version 99, this program knows {SCHEMA_VERSION}: use a newer call-ledger"


def damaged(path: Path) -> str:
    small(path)
    data = bytearray(path.read_bytes())
    data[100:4096] = bytes(3996)
    path.write_bytes(data)
    return f"{path} is not a ledger, or is damaged: database disk image is malformed"


BAD = (text, short_text, folder, foreign, foreign_in_wal_mode, newer, damaged)


def content(path: Path) -> dict[str, bytes]:
    """Every file beside the ledger but those in which SQLite keeps the peace, and an empty log of its own."""
    files = {found.name: found.read_bytes() for found in path.parent.rglob("*") if found.is_file()}
    return {name: data for name, data in files.items() if not name.endswith("-shm") and (data or "-wal" not in name)}


def refused(said: Said, status: int, line: str) -> None:
    """One line was said, and it begins with `line`."""
    assert said[:2] == (status, b"")
    assert said.err.decode().startswith(f"calls: {line}")
    assert said.err.count(b"\n") == 1


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """In a folder of its own."""
    (tmp_path / "place").mkdir()
    return tmp_path / "place" / "ledger.db"


@pytest.mark.parametrize("make", BAD)
def test_nothing_runs(make: Callable[[Path], str], path: Path, tmp_path: Path) -> None:
    line = make(path)
    before = content(path)
    words = ("run", "--ledger", str(path), "--driver", "local")
    refused(calls(*words, "--", "touch", f"{tmp_path}/ran"), 125, line)
    refused(calls(*words, "-d", "--", "touch", f"{tmp_path}/ran"), 125, line)
    assert not (tmp_path / "ran").exists()
    assert content(path) == before


@pytest.mark.parametrize("make", BAD)
def test_nothing_is_read(make: Callable[[Path], str], path: Path) -> None:
    line = make(path)
    before = content(path)
    for words in READING:
        refused(calls(*words, "--ledger", str(path)), 2, line)
    assert content(path) == before


@pytest.mark.parametrize("make", [text, foreign, newer])
def test_nothing_is_asked(make: Callable[[Path], str], path: Path) -> None:
    line = make(path)
    before = content(path)
    for words in ASKING:
        refused(calls(*words, "--ledger", str(path)), 2, line)
    assert content(path) == before


@pytest.mark.engine
@pytest.mark.parametrize("make", BAD)
def test_no_container_is_made(make: Callable[[Path], str], path: Path, engine: docker.APIClient) -> None:
    line = make(path)
    mark = f"test={uuid.uuid4()}"
    refused(calls("--ledger", str(path), *RUN, "--label", mark, IMAGE, "true"), 125, line)
    assert engine.containers(all=True, filters={"label": mark}) == []


def test_an_empty_file_becomes_a_ledger(path: Path) -> None:
    path.touch()
    refused(calls("ps", "--ledger", str(path)), 2, f"{path} is empty: no call was recorded in it yet")
    assert calls("run", "--ledger", str(path), "--driver", "local", "--", "true").status == 0
    assert calls("ps", "-q", "--ledger", str(path)).out.count(b"\n") == 1


def test_a_place_where_no_folder_can_be_made(tmp_path: Path) -> None:
    path = Path("/proc/nosuch/ledger.db")
    words = ("run", "--ledger", str(path), "--driver", "local", "--", "touch", f"{tmp_path}/ran")
    refused(calls(*words), 125, f"cannot use the ledger {path}: No such file or directory")
    line = f"no ledger at {path} yet: record a call first (calls run IMAGE), or give --ledger FILE"
    refused(calls("ps", "--ledger", str(path)), 2, line)
    assert not (tmp_path / "ran").exists()


@pytest.mark.skipif(ROOT, reason="root may write anywhere")
def test_a_folder_that_may_not_be_written(path: Path) -> None:
    path.parent.chmod(0o500)
    refused(
        calls("run", "--ledger", str(path), "--driver", "local", "--", "true"),
        125,
        f"cannot use the ledger {path}: Permission denied",
    )


@pytest.mark.parametrize("size", ["8k", "64k"])
def test_a_disk_too_small_for_a_ledger(mounted: Callable[[str], Path], size: str, tmp_path: Path) -> None:
    path = mounted(f"size={size}")
    said = calls("run", "--ledger", str(path), "--driver", "local", "--", "touch", f"{tmp_path}/ran")
    refused(said, 125, f"cannot use the ledger {path}: ")
    assert b"make room and try again" in said.err
    assert not (tmp_path / "ran").exists()


def test_a_full_disk(mounted: Callable[[str], Path], tmp_path: Path) -> None:
    path = mounted("size=4m")
    small(path)
    fill(path)
    said = calls("run", "--ledger", str(path), "--driver", "local", "--", "touch", f"{tmp_path}/ran")
    refused(said, 125, f"cannot use the ledger {path}: ")
    assert b"make room and try again" in said.err
    assert not (tmp_path / "ran").exists()
    (path.parent / "filler").unlink()
    assert calls("ps", "-a", "-q", "--ledger", str(path)).out.count(b"\n") == 10
    assert calls("run", "--ledger", str(path), "--driver", "local", "--", "true").status == 0


def test_a_read_only_disk(mounted: Callable[[str], Path], tmp_path: Path) -> None:
    path = mounted("size=4m")
    small(path)
    before = content(path)
    subprocess.run(["mount", "-o", "remount,ro", str(path.parent)], check=True)
    said = calls("run", "--ledger", str(path), "--driver", "local", "--", "touch", f"{tmp_path}/ran")
    refused(said, 125, f"cannot use the ledger {path}: ")
    assert not (tmp_path / "ran").exists()
    assert calls("ps", "-a", "-q", "--ledger", str(path)).out.count(b"\n") == 10
    assert content(path) == before
