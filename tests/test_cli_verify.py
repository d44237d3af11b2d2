"""`calls verify` as a user sees it: what it prints, and its exit status."""

from __future__ import annotations

import json
import shutil
import sqlite3
import uuid
from contextlib import closing
from pathlib import Path
from typing import Any

import docker
import pytest
from conftest import IMAGE
from ledgers import Call, said, uid
from varied import LAST, LIVE, PLAIN, varied

from ledger.ledger import Ledger
from ledger.orphans import identity

UNCHECKED = "containers: not checked ("


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A call of every kind."""
    path = tmp_path_factory.mktemp("varied") / "ledger.db"
    varied(path)
    return path


@pytest.fixture
def ledger(ledger: Path, template: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it to change, and no engine."""
    shutil.copy(template, ledger)
    monkeypatch.setenv("DOCKER_HOST", "unix:///nosuch/docker.sock")
    return ledger


def change(path: Path, script: str) -> None:
    with closing(sqlite3.connect(path)) as db:
        db.executescript(f"DROP TRIGGER IF EXISTS event_no_update; DROP TRIGGER IF EXISTS event_no_delete; {script}")


def report(path: Path, *words: str) -> tuple[int, dict[str, Any]]:
    status, out, err = said(path, "verify", "--json", *words)
    assert err == ""
    return status, json.loads(out)


def test_a_whole_ledger_is_said_to_be_whole(ledger: Path) -> None:
    status, out, err = said(ledger, "verify")
    assert (status, err) == (0, "")
    checked, uncovered, containers, head = out.splitlines()
    assert checked == "checked 7 calls, 42 events, 4 samples, 35B of output: nothing wrong"
    assert uncovered == "3 rows of samples and output, not covered by an event yet"
    assert containers.startswith(UNCHECKED)
    assert head == f"head {said(ledger, 'verify', '--head')[1].strip()}"


def test_findings_are_a_table_and_exit_status_1(ledger: Path) -> None:
    change(ledger, "UPDATE event SET data = '{}' WHERE call_id = 4 AND seq = 3")
    status, out, _ = said(ledger, "verify")
    assert status == 1
    lines = [line.split(maxsplit=2) for line in out.splitlines()]
    assert lines[0] == ["CALL", "SEQ", "FINDING"]
    assert [uid(PLAIN)[-12:], "3", "its digest does not hold: the event was changed"] in lines
    assert out.splitlines()[4].startswith("checked 6 calls, ")
    assert out.splitlines()[4].endswith(": 3 findings")


def test_json_is_one_object(ledger: Path) -> None:
    status, whole = report(ledger)
    assert (status, whole["ok"], whole["findings"], whole["containers"]) == (0, True, [], None)
    assert [whole[name] for name in ("calls", "events", "samples", "output_bytes", "uncovered")] == [7, 42, 4, 35, 3]
    change(ledger, "UPDATE event SET data = '{}' WHERE call_id = 4 AND seq = 3")
    status, damaged = report(ledger)
    assert (status, damaged["ok"]) == (1, False)
    what = "its digest does not hold: the event was changed"
    assert {"call": uid(PLAIN), "seq": 3, "what": what} in damaged["findings"]


def test_the_other_forms_are_the_findings(ledger: Path) -> None:
    assert said(ledger, "verify", "--csv") == (0, "call,seq,what\n", "")
    change(ledger, "")
    status, out, _ = said(ledger, "verify", "--nl")
    missing = [f"the trigger {name} is missing" for name in ("event_no_update", "event_no_delete")]
    assert (status, [json.loads(line)["what"] for line in out.splitlines()]) == (1, missing)


def test_single_calls_can_be_checked(ledger: Path) -> None:
    status, out, _ = said(ledger, "verify", "live", uid(LAST))
    assert (status, out.splitlines()[0]) == (0, "checked 2 calls, 10 events, 1 sample, 1B of output: nothing wrong")
    assert "head" not in out
    assert "containers" not in out
    status, found = report(ledger, "live")
    assert (status, found["calls"], found["head"]) == (0, 1, None)
    assert said(ledger, "verify", "nosuch") == (
        1,
        "",
        f"calls: no call matches 'nosuch' in {ledger} (calls ps -a lists them)\n",
    )


def test_a_head_proves_that_the_ledger_extends_the_one_that_had_it(ledger: Path) -> None:
    head = said(ledger, "verify", "--head")[1].strip()
    with Ledger(ledger) as writing:
        Call(writing, 20)
    status, out, _ = said(ledger, "verify", "--against", head)
    assert status == 0
    assert "it extends the ledger of that head: 42 events then, 43 now" in out.splitlines()
    status, found = report(ledger, "--against", head)
    assert (status, found["extends"], found["events_then"], found["events"]) == (0, True, 42, 43)
    change(
        ledger, f"DELETE FROM event WHERE call_id IN ({LAST}, {LIVE}); DELETE FROM call WHERE id IN ({LAST}, {LIVE})"
    )
    status, found = report(ledger, "--against", head)
    assert (status, found["extends"], found["events_then"]) == (1, False, None)
    assert found["findings"][-1]["what"] == "the ledger does not extend the one that had this head"


@pytest.mark.parametrize("digest", ["", "x", "12", "00" * 33])
def test_what_is_no_head_is_refused(ledger: Path, digest: str) -> None:
    expected = f"calls: --against: {digest!r} is no head: it has 64 hexadecimal digits (calls verify --head)\n"
    assert said(ledger, "verify", "--against", digest) == (2, "", expected)


@pytest.mark.parametrize(
    "words", [("--head", "live"), ("--head", "--against", "00" * 32), ("--against", "00" * 32, "x")]
)
def test_what_excludes_each_other_is_refused(ledger: Path, words: tuple[str, ...]) -> None:
    expected = "calls: CALL, --head and --against exclude each other (see calls verify --help)\n"
    assert said(ledger, "verify", *words) == (2, "", expected)


@pytest.mark.parametrize("table", ["call", "event", "sample", "log", "histogram", "meta", "rule", "lease"])
def test_a_missing_table_is_a_finding(ledger: Path, table: str) -> None:
    change(ledger, f"DROP TABLE {table}")
    status, found = report(ledger)
    assert status == 1
    assert f"the table {table} is missing" in [finding["what"] for finding in found["findings"]]


def test_no_ledger_is_one_line_and_exit_status_2(tmp_path: Path) -> None:
    status, out, err = said(tmp_path / "nosuch.db", "verify")
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert err.startswith("calls: no ledger at ")


@pytest.mark.engine
def test_orphan_containers_are_findings_and_others_are_not(
    tmp_path: Path, template: Path, engine: docker.APIClient
) -> None:
    path = tmp_path / "copy.db"
    shutil.copy(template, path)
    with closing(sqlite3.connect(path)) as db:  # an id of its own: somebody else may have another copy
        db.execute("UPDATE meta SET value = ? WHERE key = 'ledger'", (str(uuid.uuid4()),))
        db.commit()
    assert report(path)[1]["containers"] == 0
    made = []
    try:
        for ledger, call in (
            (identity(path), uid(PLAIN)),
            (identity(path), uid(LIVE)),
            (identity(path), "unknown"),
            (str(uuid.uuid4()), uid(PLAIN)),
        ):
            labels = {"call-ledger.ledger": ledger, "call-ledger.runner": "runner", "call-ledger.call": call}
            made.append(engine.create_container(IMAGE, "true", labels=labels)["Id"])
        status, found = report(path)
    finally:
        for container in made:
            engine.remove_container(container, v=True, force=True)
    assert (status, found["containers"]) == (1, 3)
    assert found["findings"] == [
        {"call": call, "seq": None, "what": f"orphan container {container[:12]} (created)"}
        for call, container in sorted([(uid(PLAIN), made[0]), ("unknown", made[2])])
    ]
