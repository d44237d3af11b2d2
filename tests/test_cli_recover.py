"""`calls recover`, and the commands that call for it, on runners that were really killed."""

from __future__ import annotations

import json
import os
import signal
import uuid
from pathlib import Path
from typing import Any

import docker
import pytest
from invariants import invariants
from ledgers import Call
from running import IMAGE, Said, calls, groups, kinds, shown, until, verdict

from ledger.ledger import Ledger
from ledger.read import Reader

DETACHED = ("run", "-d", "--network", "none")
WAIT = "while [ ! -e open ]; do sleep 0.05; done"
"""In a script: until there is a file `open` in its folder."""


@pytest.fixture
def gate(tmp_path: Path) -> Path:
    """A file that a script in `inside` waits for."""
    (tmp_path / "gate").mkdir()
    return tmp_path / "gate" / "open"


def inside(gate: Path) -> tuple[str, ...]:
    """The options by which a container is in the folder of a file."""
    return "-v", f"{gate.parent}:/gate", "-w", "/gate"


def orphaned(*words: str) -> str:
    """A detached call whose runner was killed after the start was recorded; -> its id."""
    said = calls(*DETACHED, *words)
    assert said.status == 0, said.err
    uid = said.out.decode().strip()
    with Reader(Path(os.environ["CALLS_LEDGER"])) as reader:
        (mine,) = (call for call in reader.unsettled() if call.uid == uid)
    assert mine.lease is not None
    os.kill(mine.lease.pid, signal.SIGKILL)
    until(lambda: seen(uid)["orphan"], "the death of its runner to show")
    return uid


def seen(uid: str) -> dict[str, Any]:
    """What `calls show --json` says."""
    found: dict[str, Any] = json.loads(calls("show", uid, "--json").out)
    return found


def recovered(*words: str) -> list[dict[str, Any]]:
    """What `calls recover --json` says."""
    found: list[dict[str, Any]] = json.loads(calls("recover", "--json", *words).out)
    return found


def test_without_a_ledger_there_is_nothing_to_recover(ledger: Path) -> None:
    line = f"calls: no ledger at {ledger} yet: there is nothing to recover\n"
    assert calls("recover") == Said(2, b"", line.encode())
    assert not ledger.exists()


def test_where_every_call_has_its_end_it_says_so(ledger: Path) -> None:
    assert calls("run", "--driver", "local", "--", "true").status == 0
    status, out, err = calls("recover")
    assert (status, out.splitlines()[1:], err) == (0, [], b"calls: every call has its runner or its end\n")


def test_a_grace_that_is_no_duration_is_refused(ledger: Path) -> None:
    with Ledger(ledger):
        pass
    status, _, err = calls("recover", "--grace", "soon")
    assert (status, err[:24]) == (2, b"calls: --grace: 'soon' i")


def test_without_an_engine_its_calls_are_left_and_it_says_why(ledger: Path) -> None:
    with Ledger(ledger) as written:
        Call(written, 1).start()
    before = kinds()
    said = calls("recover", "--json", DOCKER_HOST="unix:///nowhere.sock")
    (found,) = json.loads(said.out)
    assert (said.status, found["action"], "/nowhere.sock" in found["detail"]) == (1, "left", True)
    assert kinds() == before


def test_a_process_of_this_host_is_watched_to_its_end_and_its_code_is_lost(ledger: Path, gate: Path) -> None:
    said = calls("run", "-d", "--driver", "local", "-w", str(gate.parent), "--", "sh", "-c", WAIT)
    uid = said.out.decode().strip()
    with Reader(ledger) as reader:
        (call,) = reader.unsettled()
    assert call.lease is not None
    os.kill(call.lease.pid, signal.SIGKILL)
    until(lambda: seen(uid)["orphan"], "the death of its runner to show")
    gate.touch()
    assert calls("wait", uid).status == 0
    assert verdict(uid) == ("error", "lost", None)
    until(lambda: kinds(uid)[-1] == "cleaned", "its last word")
    invariants(ledger)


@pytest.mark.engine
def test_a_container_that_runs_is_watched_again_to_its_end(ledger: Path, gate: Path) -> None:
    uid = orphaned(*inside(gate), IMAGE, "sh", "-c", f"echo one; {WAIT}; echo two; exit 3")
    (told,) = recovered()
    assert (told["id"], told["was"], told["action"]) == (uid, "running", "re-attached")
    assert seen(uid)["orphan"] is False
    gate.touch()
    assert calls("wait", uid).out == b"3\n"
    assert calls("logs", uid).out == b"one\ntwo\n"
    until(lambda: kinds(uid)[-1] == "cleaned", "its last word")
    assert (verdict(uid), shown(uid)["evidence"]["recovered"]) == (("error", "exit", 3), True)
    invariants(ledger)


@pytest.mark.engine
def test_a_container_that_has_ended_gets_its_true_verdict(ledger: Path, engine: docker.APIClient, gate: Path) -> None:
    uid = orphaned(*inside(gate), IMAGE, "sh", "-c", f"echo out; {WAIT}; exit 7")
    gate.touch()
    engine.wait(uid)
    (told,) = recovered()
    assert (told["action"], told["state"], told["reason"]) == ("settled", "error", "exit")
    assert (verdict(uid), calls("logs", uid).out) == (("error", "exit", 7), b"out\n")
    assert engine.containers(all=True, filters={"name": uid}) == []


@pytest.mark.engine
def test_a_container_that_is_gone_is_lost(engine: docker.APIClient, ledger: Path) -> None:
    uid = orphaned(IMAGE, "sleep", "600")
    engine.remove_container(uid, force=True)
    (told,) = recovered()
    assert (told["id"], told["action"], told["state"], told["reason"]) == (uid, "settled", "error", "lost")
    assert groups(uid) == []


@pytest.mark.engine
def test_a_dry_run_changes_nothing(ledger: Path, engine: docker.APIClient) -> None:
    uid = orphaned(IMAGE, "sleep", "600")
    before = kinds(uid)
    (told,) = recovered("--dry-run")
    assert (told["action"], kinds(uid)) == ("re-attached", before)
    assert engine.inspect_container(uid)["State"]["Running"]
    assert calls("kill", uid).status == 0  # and whoever asks for its end brings it about
    assert calls("wait", uid).out == b"137\n"
    assert verdict(uid)[:2] == ("killed", "user")


@pytest.mark.engine
def test_whoever_cancels_a_call_without_a_runner_takes_it_over(ledger: Path, gate: Path) -> None:
    uid = orphaned(*inside(gate), IMAGE, "sh", "-c", "trap 'exit 5' TERM; touch up; while :; do sleep 0.1; done")
    until((gate.parent / "up").exists, "it to listen")
    assert calls("cancel", uid, "--comment", "enough").status == 0
    assert calls("wait", uid).out == b"5\n"
    assert verdict(uid) == ("cancelled", "user", 5)


@pytest.mark.engine
def test_the_start_of_another_call_is_enough(ledger: Path, gate: Path) -> None:
    uid = orphaned(*inside(gate), IMAGE, "sh", "-c", f"{WAIT}; exit 4")
    assert calls("run", "--network", "none", IMAGE, "true").status == 0
    gate.touch()
    until(lambda: kinds(uid)[-1] == "cleaned", "its end")
    assert verdict(uid) == ("error", "exit", 4)


@pytest.mark.engine
def test_containers_of_this_ledger_without_an_open_call_are_reaped_after_their_grace(
    ledger: Path, engine: docker.APIClient
) -> None:
    with Ledger(ledger) as written:
        mine = written.id
    call = f"unknown-{uuid.uuid4()}"
    made = [
        engine.create_container(IMAGE, "true", labels={"call-ledger.ledger": of, "call-ledger.call": call})["Id"]
        for of in (mine, "another-ledger")
    ]
    assert recovered() == []
    (told,) = recovered("--grace", "0s")
    assert (told["action"], told["id"]) == ("reaped", call)
    (left,) = engine.containers(all=True, filters={"label": f"call-ledger.call={call}"})
    assert left["Id"] == made[1]
    engine.remove_container(made[1])


@pytest.mark.engine
def test_a_container_that_was_kept_on_purpose_is_not_reaped(ledger: Path, engine: docker.APIClient) -> None:
    assert calls("run", "--network", "none", "--keep", IMAGE, "true").status == 0
    uid = shown()["id"]
    assert recovered("--grace", "0s") == []
    engine.remove_container(uid)


POINTS = {
    "submitted.durable": ("error", "lost", None),  # row 2: before the container is made
    "prepared.begun": ("cancelled", "runner-lost", None),  # row 3: it is made, and not recorded
    "prepared.durable": ("cancelled", "runner-lost", None),  # row 4: before the start
    "started.begun": ("success", "exit", 0),  # row 5: it is started, and not recorded
    "started.durable": ("success", "exit", 0),  # rows 6 and 7
    "health-awaited.durable": ("success", "exit", 0),  # row 9
    "healthy.durable": ("success", "exit", 0),
    "succeeded.begun": ("success", "exit", 0),  # row 10: its end was seen, and not recorded
    "succeeded.durable": ("success", "exit", 0),  # row 11: before the container is removed
    "cleaned.begun": ("success", "exit", 0),
}


@pytest.mark.engine
@pytest.mark.parametrize("point", POINTS)
def test_rows_2_to_11_on_a_real_engine(ledger: Path, engine: docker.APIClient, tmp_path: Path, point: str) -> None:
    """The runner is killed just there; what it left is recovered, and the container was started once at most."""
    health = ("--health-cmd", "touch /truth/asked", "--health-interval", "0.2s")
    script = "echo begun >> /truth/begun; while [ ! -e /truth/asked ]; do sleep 0.05; done; sleep 4"
    words = ("run", "--network", "none", "-v", f"{tmp_path}:/truth", *health, IMAGE, "sh", "-c", script)
    said = calls(*words, CALLS_FAILPOINT=f"{point}:kill9")
    assert (said.status, b"recording process was killed" in said.err) == (125, True)
    until(lambda: (recovered(), kinds()[-1] == "cleaned")[1], "its last word")  # the heir may die of the same point
    assert verdict() == POINTS[point]
    begun = tmp_path / "begun"
    assert (begun.read_text() if begun.exists() else "") in {"begun\n", ""}
    assert bool(shown()["never_ran"]) is not begun.exists()
    assert engine.containers(all=True, filters={"name": shown()["id"]}) == []
    invariants(ledger)


@pytest.mark.engine
def test_row_1_on_a_real_engine(ledger: Path) -> None:
    """Killed before anything was recorded, it has done nothing."""
    said = calls("run", "--network", "none", IMAGE, "true", CALLS_FAILPOINT="submitted.written:kill9")
    assert said.status == 125
    with Reader(ledger) as reader:
        assert list(reader.calls()) == []
    assert recovered("--grace", "0s") == []
