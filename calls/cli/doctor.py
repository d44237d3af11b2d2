"""`calls doctor`: what works here."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import click

from calls.cli import words
from calls.cli.common import takes_ledger
from calls.cli.render import Column, emit, formats
from machine.errors import CallsError, DriverError

_SKEW_MS = 1000  # more than this and times of the engine and of ours cannot be compared any more
_COLUMNS = (
    Column("CHECK", lambda row: row["check"]),
    Column("VERDICT", lambda row: row["verdict"], coloured=True),
    Column("DETAIL", lambda row: row["detail"], fold=True),
)


class _Finding(NamedTuple):
    """`verdict`: ok; off (does without, and says what is lost); bad (needs somebody)."""

    check: str
    verdict: str
    detail: str


@click.command()
@formats
@takes_ledger
def command(ledger: Path, form: str) -> int:
    """Say what works here: the engine, the source of samples, exact totals, the ledger, the clocks, the drivers.

    Exit status: 0, or 1 when a verdict is bad. Changes nothing and makes no ledger.
    """
    engine, *rest = _engine()
    findings = [engine, *rest[:2], _ledger(ledger), *rest[2:], _drivers()]
    emit(form, [finding._asdict() for finding in findings], _COLUMNS)
    return int(any(finding.verdict == "bad" for finding in findings))


def _engine() -> Iterator[_Finding]:
    from driver.docker import DockerDriver
    from driver.protocol import Labels
    from driver.pump import Pump

    pump = Pump()
    driver = DockerDriver(pump, Labels("", ""))
    try:
        engine = driver.describe()
        yield _Finding("engine", "ok", _engine_words(engine))
        yield _samples(engine)
        yield _totals(engine)
        yield _clock(driver)
    except DriverError as error:
        yield _Finding("engine", "bad", str(error))
    finally:
        driver.close()
        pump.close()


def _engine_words(engine: dict[str, Any]) -> str:
    groups = f"cgroup v{engine['cgroup_version']} {engine['cgroup_driver']}"
    return f"{engine['version']}  {engine['url']}  API {engine['api']}  {groups}"


def _samples(engine: dict[str, Any]) -> _Finding:
    if engine["samples"] == "cgroup":
        return _Finding("samples", "ok", "read from the control groups, about 0.1 ms each")
    lost = "from the engine's stats, which come late or not at all when many containers run"
    return _Finding("samples", "off", f"{lost}: its control groups cannot be seen from here")


def _totals(engine: dict[str, Any]) -> _Finding:
    if engine["totals"]:
        return _Finding("totals", "ok", "exact: each call has a control group of its own")
    needs = "exact totals need root, an engine on this host, and its cgroupfs driver"
    return _Finding("totals", "off", f"those of the last sample: {needs}")


def _clock(driver: Any) -> _Finding:
    asked = time.time_ns()
    told = driver.describe()["time"]
    answered = time.time_ns()
    if told is None:
        return _Finding("clock", "off", "the engine does not tell its time")
    # It was told somewhere between the two: a difference smaller than that is none.
    early, late = (told - asked) // 1_000_000, (told - answered) // 1_000_000
    apart = early if early < 0 else max(late, 0)
    verdict = "bad" if abs(apart) > _SKEW_MS else "ok"
    return _Finding("clock", verdict, f"engine - host = {apart} ms, as seen within {early - late} ms")


def _drivers() -> _Finding:
    from driver.registry import faults, names

    wrong = faults()
    usable = ", ".join(name for name in names() if name not in wrong)
    return _Finding("drivers", "bad" if wrong else "ok", "; ".join((usable, *wrong.values())))


def _ledger(path: Path) -> _Finding:
    from ledger.read import Reader

    try:
        if not path.exists():
            return _absent(path)
        with Reader(path) as reader:
            about = reader.about()
    except CallsError as error:
        return _Finding("ledger", "bad", str(error))
    except OSError as error:
        return _Finding("ledger", "bad", f"{path} cannot be looked at: {error.strerror}")
    size = sum(file.stat().st_size for file in (path, Path(f"{path}-wal")) if file.exists())
    parts = [str(path), words.size(size), f"schema {about['schema']}", about["journal"].upper()]
    parts += [f"{about['calls']} calls", f"SQLite {about['sqlite']}"]
    if about["journal"] != "wal":
        parts.append("readers and writers wait for each other: the next call sets WAL again, where the file system can")
    if about["reset_bug"]:
        parts.append("this SQLite can lose commits (the WAL-reset bug): pip install pysqlite3, or 3.51.3 or newer")
    verdict = "bad" if about["reset_bug"] or about["journal"] != "wal" else "ok"
    return _Finding("ledger", verdict, "  ".join(parts))


def _absent(path: Path) -> _Finding:
    home = next(folder for folder in path.absolute().parents if folder.exists())
    if os.access(home, os.W_OK | os.X_OK):
        return _Finding("ledger", "ok", f"{path} is not there yet: the first call makes it")
    return _Finding("ledger", "bad", f"{path} is not there, and {home} cannot be written")
