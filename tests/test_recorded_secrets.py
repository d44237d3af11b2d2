"""Secrets that are nowhere in what was asked for, and ways by which one could reach the record all the same."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from conducting import Stage
from ledgers import BY
from recovering import Succession

import calls
from calls.settings import fingerprinter
from driver.docker.engine import observation
from driver.protocol import HealthCheck, HealthStatus
from driver.scripted import Schedule, Script, ScriptedContainer, ScriptedDriver, Step, exits, happens, writes
from ledger.read import Reader
from machine.errors import LedgerError
from machine.facts import CancelRequested, Prepared
from machine.secrets import MARK
from machine.states import Kind
from machine.units import SECOND

SECRET = "pass-of-the-image-5f1d77"
IMAGE = {"environment": {"DB_PASSWORD": SECRET, "PATH": "/usr/bin"}}


def output(ledger: Path) -> str:
    """What is recorded of the last call's output."""
    with Reader(ledger) as reader:
        return b"".join(chunk.data for chunk in reader.output(reader.resolve("@last"))).decode()


def leaks(ledger: Path, secret: str = SECRET) -> list[str]:
    """The files of the ledger that have a secret."""
    return [file.name for file in ledger.parent.glob(f"{ledger.name}*") if secret.encode() in file.read_bytes()]


# The environment that a call really has.


def test_what_the_image_sets(ledger: Path) -> None:
    with Stage(ledger, writes(f"{SECRET} by /usr/bin".encode()), exits(0, after=1), **IMAGE) as stage:
        stage.conduct(secret=["MY_TOKEN=cmd:echo of-the-spec"], env={"MY_TOKEN": "of-the-spec"})
        assert (leaks(ledger), output(ledger)) == ([], f"{MARK} by /usr/bin")


def test_what_the_image_sets_is_known_to_who_recovers(ledger: Path) -> None:
    script = writes(SECRET.encode()), writes(f", {SECRET}".encode(), after=5), exits(0, after=6)
    with Succession(ledger, *script, **IMAGE) as stage:
        assert stage.die(3, written=True)
        stage.recover()
        assert (stage.call()["state"], leaks(ledger), output(ledger)) == ("success", [], f"{MARK}, {MARK}")
        assert not [event for event in stage.events(Kind.GAP) if event["of"] == "output"]


def test_what_a_process_of_this_host_inherits(ledger: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    monkeypatch.setenv("OLD_TOKEN", "no UTF-8: \udcff")
    with calls.Runner(ledger) as runner:
        call = runner.run(None, ["sh", "-c", 'echo "$AWS_SECRET_ACCESS_KEY" "$1"', "sh", SECRET], driver="local")
        assert (call.state, leaks(ledger), output(ledger)) == ("success", [], f"{MARK} {MARK}\n")
    with Reader(ledger) as reader:
        assert reader.show("@last")["spec"]["command"][-1] == MARK


def test_the_name_of_a_driver_is_never_taken_for_a_secret(ledger: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without it nobody could take the call over."""
    monkeypatch.setenv("BACKEND_KEY", "local")
    with calls.Runner(ledger) as runner:
        call = runner.run(None, ["echo", "local"], driver="local")
    with Reader(ledger) as reader:
        spec = reader.show(call.id)["spec"]
    assert (spec["driver"], spec["command"]) == ("local", ["echo", MARK])


def test_what_a_process_of_this_host_inherits_is_known_while_it_waits(
    ledger: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MY_TOKEN", SECRET)
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    with calls.Runner(ledger, max_calls=1) as runner:
        first = runner.submit(None, ["cat", str(gate)], driver="local")
        second = runner.submit(None, ["true"], driver="local", name=f"of-{SECRET}")
        gate.write_bytes(b"open")
        assert (first.result().state, second.result().state, leaks(ledger)) == ("success", "success", [])


# What a health check writes.

CHECK = HealthCheck(interval=SECOND, timeout=SECOND, retries=2, start_period=0)


@pytest.mark.parametrize(
    ("written", "recorded"),
    [
        (f"{SECRET}{'x' * 1008}", f"{MARK}{'x' * 1008}"),
        (f"{'x' * 4080}{SECRET[:16]}...", f"{'x' * 1021}..."),
        (f"{'x' * 484}{SECRET[:16]}", f"{'x' * 484}..."),
        (f"{SECRET}\n\n", MARK),
        (f" {'x' * 1024}\n", "x" * 1024),
        ("\n", None),
    ],
)
def test_what_a_health_check_writes_is_cut_behind_its_secrets(ledger: Path, written: str, recorded: str | None) -> None:
    with Stage(ledger, happens(HealthStatus, "unhealthy", after=1), health=CHECK, health_output=written) as stage:
        stage.conduct(env={"MY_TOKEN": SECRET, "MY_KEY": f"{SECRET}\n\n"})
        (changed,) = stage.events(Kind.HEALTH_CHANGED)
        assert changed.get("output") == recorded


def test_an_engines_record_of_a_health_check_is_handed_over_whole() -> None:
    written = f" {'x' * 4095}...\n"
    health = {"Status": "unhealthy", "Log": [{"Output": "before"}, {"Output": written}]}
    state = {"Status": "running", "ExitCode": 0, "Health": health}
    assert observation({"State": state}).health_output == written


# What is recorded as it is, or past the call's recorder.


@pytest.mark.parametrize(("env", "key"), [({"API_TOKEN": "hunter22"}, "job-hunter22"), ({}, f"{SECRET}-1")])
def test_an_idempotency_key_has_none(
    ledger: Path, monkeypatch: pytest.MonkeyPatch, env: dict[str, str], key: str
) -> None:
    monkeypatch.setenv("MY_TOKEN", SECRET)
    with calls.Runner(ledger) as runner:
        with pytest.raises(calls.SpecError, match="--idempotency-key: has a secret's value in it"):
            runner.submit(None, ["true"], driver="local", idempotency_key=key, env=env)
        assert runner.run(None, ["true"], driver="local", idempotency_key="job-hunter22").state == "success"
    assert leaks(ledger) == []
    with Reader(ledger) as reader:
        assert len(list(reader.calls())) == 1


@pytest.mark.parametrize("of_all", [False, True])
def test_a_comment_has_none(ledger: Path, *, of_all: bool) -> None:
    def cancel(_: ScriptedContainer) -> None:
        comment = f"it said {SECRET}"
        if of_all:
            runner.roster.request_all(CancelRequested(by=BY, comment=comment), runner.id)
        else:
            runner.cancel(*driver.containers, comment=comment)

    clock = Schedule()
    driver = ScriptedDriver(clock, Script([Step(SECOND, cancel)], **IMAGE))
    with calls.Runner(ledger, drivers=[driver], clock=clock) as runner:
        assert runner.run("image", driver="scripted").state == "cancelled"
    with Reader(ledger) as reader:
        (asked,) = [event for event in reader.events(1) if event["kind"] == "cancel-requested"]
    assert (asked["data"]["comment"], leaks(ledger)) == (f"it said {MARK}", [])


def test_a_networks_name_has_none(ledger: Path) -> None:
    with Stage(ledger) as stage:
        recorder = stage.ready(env={"MY_TOKEN": SECRET}).recorder
        assert recorder.dump(Prepared(container="c", network=SECRET)) == (
            f'{{"container":"c","warnings":[],"network":"{MARK}"}}'
        )


# The key of the fingerprints.


@pytest.mark.parametrize("size", [0, 31, 33])
def test_a_key_of_another_size_is_refused(ledger: Path, size: int) -> None:
    key = Path(os.environ["XDG_CONFIG_HOME"]) / "calls" / "fingerprint.key"
    key.parent.mkdir(parents=True)
    key.write_bytes(b"k" * size)
    with calls.Runner(ledger) as runner:
        with pytest.raises(LedgerError) as refused:
            runner.submit(None, ["true"], driver="local", env={"PIN_TOKEN": "1234"})
        assert runner.run(None, ["true"], driver="local").state == "success"  # it needs no key
    assert f"in {key} has {size} bytes instead of 32" in str(refused.value)
    assert key.read_bytes() == b"k" * size
    with Reader(ledger) as reader:
        assert len(list(reader.calls())) == 1


def test_a_new_key_is_on_disk_before_it_has_its_name(ledger: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[tuple[str, bytes]] = []
    fsync, link = os.fsync, os.link

    def synced(descriptor: int) -> None:
        fsync(descriptor)
        done.append(("fsync", os.pread(descriptor, 64, 0)))

    def linked(source: str, target: Path) -> None:
        done.append(("link", Path(source).read_bytes()))
        link(source, target)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "link", linked)
    fingerprinter("a-ledger")("1234")
    key = (Path(os.environ["XDG_CONFIG_HOME"]) / "calls" / "fingerprint.key").read_bytes()
    assert (done, len(key)) == ([("fsync", key), ("link", key)], 32)
