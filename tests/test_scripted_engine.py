"""What the docker driver relies on, held against the real engine and the scripted one: they must not drift."""

from __future__ import annotations

import json
import os
import socket
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import docker
import docker.errors
import pytest
from running import let_pause_settle, until
from scripted_engine import Engine

from driver.docker.engine import nanoseconds, stamp

NEVER = "0001-01-01T00:00:00Z"
IGNORES = ["sh", "-c", "trap '' TERM; echo up; while :; do sleep 0.05; done"]


class Peer(NamedTuple):
    """A client of one engine, and a label of its own."""

    client: docker.APIClient
    label: str

    def make(self, *command: str, **options: Any) -> str:
        """A container; -> its id."""
        host = self.client.create_host_config(network_mode=options.pop("network_mode", "none"))
        labels = {"peer": self.label}
        made = self.client.create_container("busybox", list(command), labels=labels, host_config=host, **options)
        number: str = made["Id"]
        return number

    def run(self, *command: str, **options: Any) -> str:
        """One that was started."""
        made = self.make(*command, **options)
        self.client.start(made)
        return made

    def state(self, container: str) -> dict[str, Any]:
        """The part of inspect that changes."""
        found: dict[str, Any] = self.client.inspect_container(container)["State"]
        return found

    def ended(self, container: str) -> dict[str, Any]:
        """The state after its end."""
        until(lambda: not self.state(container)["Running"], "its end")
        return self.state(container)

    @contextmanager
    def attached(self, container: str, patience: float) -> Iterator[socket.socket]:
        """A connection to its output; TimeoutError after `patience` seconds of silence."""
        raw = self.client.attach_socket(container, params={"stdin": 0, "stdout": 1, "stderr": 1, "stream": 1})
        connection: socket.socket = raw._sock
        connection.settimeout(patience)
        yield connection
        raw.close()
        connection.close()

    def said(self, container: str) -> bytes:
        """Its output so far."""
        output: bytes = self.client.logs(container)
        return output

    def events(self, since: str, *actions: str) -> list[tuple[str, dict[str, str]]]:
        """Of this label, from the engine's memory: actions and what the driver reads of them. Not those of probes."""
        filters: dict[str, Any] = {"type": "container", "label": f"peer={self.label}"}
        if actions:
            filters["event"] = list(actions)
        lines = self.client.events(since=since, until=self.now(), filters=filters)
        found = [json.loads(line) for piece in lines for line in piece.splitlines() if line.strip()]
        assert all(event["Type"] == "container" and len(event["Actor"]["ID"]) == 64 for event in found)
        assert [event["timeNano"] for event in found] == sorted(event["timeNano"] for event in found)
        read = ("signal", "exitCode")
        return [
            (
                event["Action"],
                {name: event["Actor"]["Attributes"][name] for name in read if name in event["Actor"]["Attributes"]},
            )
            for event in found
            if not event["Action"].startswith(("exec_", "attach"))
        ]

    def now(self) -> str:
        """The engine's clock, as `since` and `until` take it."""
        at = nanoseconds(self.client.info()["SystemTime"])
        assert at is not None
        return stamp(at)

    def refused(self, action: Callable[..., object], *arguments: Any, **options: Any) -> tuple[int, str]:
        """Status and words of a refusal, without ids."""
        with pytest.raises(docker.errors.APIError) as caught:
            action(*arguments, **options)
        words = str(caught.value.explanation)
        for box in self.client.containers(all=True, filters={"label": f"peer={self.label}"}):
            words = words.replace(box["Id"], "ID")
        return caught.value.status_code, words


@pytest.fixture(params=["scripted", pytest.param("real", marks=pytest.mark.engine)])
def peer(request: pytest.FixtureRequest) -> Iterator[Peer]:
    """One engine after the other; nothing is left on it."""
    if request.param == "real":
        yield from _peer(os.environ.get("DOCKER_HOST"))
    else:
        with Engine() as engine:
            yield from _peer(engine.url)


def _peer(url: str | None) -> Iterator[Peer]:
    client = docker.APIClient(url, version="1.41", timeout=60)
    peer = Peer(client, uuid.uuid4().hex)
    yield peer
    for box in client.containers(all=True, filters={"label": f"peer={peer.label}"}):
        client.remove_container(box["Id"], force=True)
    client.close()


def test_the_ping_names_the_version_of_the_api(peer: Peer) -> None:
    answer = peer.client.get(f"{peer.client.base_url}/_ping")
    assert (answer.status_code, answer.text, answer.headers["Api-Version"]) == (200, "OK", "1.41")


def test_version_and_info_have_what_doctor_shows(peer: Peer) -> None:
    version, info = peer.client.version(), peer.client.info()
    assert all(version[name] for name in ("Version", "ApiVersion"))
    assert all(name in info for name in ("CgroupDriver", "CgroupVersion", "LiveRestoreEnabled", "SystemTime"))


def test_a_created_container_has_never_run(peer: Peer) -> None:
    name = f"peer-{peer.label}"
    made = peer.make("sh", "-c", "exit 3", name=name, stop_signal="SIGUSR1")
    found = peer.client.inspect_container(name)
    state = {key: found["State"][key] for key in ("Status", "Running", "Pid", "ExitCode", "StartedAt", "FinishedAt")}
    assert state == {
        "Status": "created", "Running": False, "Pid": 0, "ExitCode": 0, "StartedAt": NEVER, "FinishedAt": NEVER,
    }  # fmt: skip
    assert (found["Id"], found["Name"]) == (made, f"/{name}")
    assert found["Image"].startswith("sha256:")
    assert found["Config"]["Labels"] == {"peer": peer.label}
    assert found["Config"]["StopSignal"] == "SIGUSR1"


def test_a_name_is_taken_once(peer: Peer) -> None:
    name = f"peer-{peer.label}"
    peer.make("true", name=name)
    status, words = peer.refused(peer.make, "true", name=name)
    assert status == 409
    assert words.startswith(f'Conflict. The container name "/{name}" is already in use by container "ID".')


def test_an_image_that_is_not_there(peer: Peer) -> None:
    assert peer.refused(peer.client.create_container, "nosuch:1", ["true"]) == (404, "No such image: nosuch:1")
    assert peer.refused(peer.client.inspect_image, "nosuch:1") == (
        404, "no such image: nosuch:1: No such image: nosuch:1",
    )  # fmt: skip
    found = peer.client.inspect_image(peer.client.inspect_image("busybox")["Id"])
    assert "busybox:latest" in found["RepoTags"]


@pytest.mark.parametrize("action", ["inspect_container", "start", "remove_container", "kill"])
def test_a_container_that_is_not_there(peer: Peer, action: str) -> None:
    status, words = peer.refused(getattr(peer.client, action), "nosuch")
    assert (status, words.endswith("No such container: nosuch")) == (404, True)


def test_what_does_not_run_takes_no_signal(peer: Peer) -> None:
    made = peer.make("true")
    expected = (409, "Cannot kill container: ID: Container ID is not running")
    assert peer.refused(peer.client.kill, made) == expected
    peer.client.start(made)
    peer.ended(made)
    assert peer.refused(peer.client.kill, made) == expected
    assert peer.refused(peer.client.pause, made) == (409, "Container ID is not running")


def test_an_end_is_on_record_before_it_is_news(peer: Peer) -> None:
    since = peer.now()
    made = peer.run("sh", "-c", "exit 3")
    state = peer.ended(made)
    assert (state["Status"], state["ExitCode"], state["Pid"], state["OOMKilled"]) == ("exited", 3, 0, False)
    assert NEVER not in (state["StartedAt"], state["FinishedAt"])
    until(lambda: len(peer.events(since)) == 3, "the event of the end")
    assert peer.events(since) == [("create", {}), ("start", {}), ("die", {"exitCode": "3"})]


def test_a_removal_is_an_event_and_only_of_what_does_not_run(peer: Peer) -> None:
    made = peer.run("sleep", "60")
    status, words = peer.refused(peer.client.remove_container, made)
    assert (status, words.startswith("You cannot remove a running container ID.")) == (409, True)
    since = peer.now()
    peer.client.remove_container(made, v=True, force=True)
    assert peer.events(since) == [("kill", {"signal": "9"}), ("die", {"exitCode": "137"}), ("destroy", {})]
    assert peer.refused(peer.client.remove_container, made)[0] == 404


@pytest.mark.parametrize(
    ("command", "code", "words"),
    [
        ("nosuch", 127, 'exec: "nosuch": executable file not found in $PATH'),
        ("/no/such", 127, 'exec: "/no/such": stat /no/such: no such file or directory'),
        ("/etc", 126, 'exec: "/etc": permission denied'),
        ("/etc/passwd", 126, 'exec: "/etc/passwd": permission denied'),
    ],
)
def test_a_command_that_cannot_be_executed(peer: Peer, command: str, code: int, words: str) -> None:
    since = peer.now()
    made = peer.make(command)
    status, said = peer.refused(peer.client.start, made)
    assert (status, words in said) == (400, True)
    state = peer.state(made)
    assert (state["Status"], state["ExitCode"], state["StartedAt"]) == ("created", code, NEVER)
    assert words in state["Error"]
    assert peer.events(since) == [("create", {})]


def test_a_network_that_is_not_there(peer: Peer) -> None:
    made = peer.make("true", network_mode="nosuch")
    assert peer.refused(peer.client.start, made) == (404, "network nosuch not found")
    assert peer.state(made)["Status"] == "created"


def test_what_runs_is_not_started_again(peer: Peer) -> None:
    made = peer.run("sleep", "60")
    before = peer.state(made)
    answer = peer.client._post(peer.client._url("/containers/{0}/start", made))
    assert answer.status_code == 304
    assert peer.state(made) == before


def test_a_pause_and_its_end(peer: Peer) -> None:
    since = peer.now()
    made = peer.run("sleep", "60")
    peer.client.pause(made)
    state = peer.state(made)
    assert (state["Status"], state["Running"], state["Paused"]) == ("paused", True, True)
    assert peer.refused(peer.client.pause, made) == (409, "Container ID is already paused")
    let_pause_settle()
    peer.client.unpause(made)
    assert peer.refused(peer.client.unpause, made) == (500, "Container ID is not paused")
    assert [action for action, _ in peer.events(since)] == ["create", "start", "pause", "unpause"]


def test_a_signal_that_the_first_process_does_not_handle_does_nothing(peer: Peer) -> None:
    since = peer.now()
    made = peer.run("sleep", "60")
    peer.client.kill(made, signal=15)
    assert peer.events(since)[-1] == ("kill", {"signal": "15"})
    assert peer.state(made)["Running"]
    assert peer.refused(peer.client.kill, made, signal="NOSUCH") == (400, "Invalid signal: NOSUCH")


def test_a_handled_signal_and_an_unhandled_stop(peer: Peer) -> None:
    made = peer.run("sh", "-c", "trap 'exit 7' TERM; echo up; while :; do sleep 0.05; done")
    until(lambda: peer.said(made), "its first line")
    peer.client.kill(made, signal="SIGTERM")
    assert peer.ended(made)["ExitCode"] == 7
    made = peer.run(*IGNORES)
    until(lambda: peer.said(made), "its first line")
    since = peer.now()
    peer.client.stop(made, timeout=0)
    killed = [("kill", {"signal": "15"}), ("kill", {"signal": "9"}), ("die", {"exitCode": "137"}), ("stop", {})]
    assert peer.events(since) == killed
    assert peer.client._post(peer.client._url("/containers/{0}/stop", made)).status_code == 304


def test_a_restart_by_somebody_else(peer: Peer) -> None:
    made = peer.run("sleep", "60")
    before, since = peer.state(made), peer.now()
    peer.client.restart(made, timeout=0)
    after = peer.state(made)
    assert [action for action, _ in peer.events(since)] == ["kill", "kill", "die", "stop", "start", "restart"]
    assert after["Running"]
    assert after["StartedAt"] > after["FinishedAt"] > before["StartedAt"]
    assert peer.client.inspect_container(made)["RestartCount"] == 0


def test_events_are_filtered_by_action_and_label(peer: Peer) -> None:
    since = peer.now()
    peer.ended(peer.run("true"))
    until(lambda: peer.events(since, "die"), "the event of the end")
    assert [action for action, _ in peer.events(since, "start", "die")] == ["start", "die"]
    assert peer._replace(label="nobody").events(since) == []


def test_events_since_one_begin_with_that_one(peer: Peer) -> None:
    """By this the driver knows an engine that was started again: it has forgotten."""
    made = peer.run("true")
    peer.ended(made)
    until(lambda: peer.events("1", "die"), "the event of the end")
    lines = peer.client.events(since="1", until=peer.now(), filters={"container": made}, decode=True)
    last = [event["timeNano"] for event in lines][-1]
    assert [action for action, _ in peer.events(stamp(last))] == ["die"]
    assert peer.events(stamp(last + 1)) == []


def test_an_attachment_gets_what_is_written_and_ends_with_it(peer: Peer) -> None:
    made = peer.make("sh", "-c", "printf out; printf err >&2")
    got = b""
    with peer.attached(made, 60) as connection:
        peer.client.start(made)
        while data := connection.recv(4096):
            got += data
    frames = {b"\x01\0\0\0\0\0\0\x03out", b"\x02\0\0\0\0\0\0\x03err"}
    assert {got[:11], got[11:]} == frames
    assert peer.said(made) in (b"outerr", b"errout")


def test_an_attachment_to_what_has_ended_does_not_end(peer: Peer) -> None:
    """Whoever takes over must read the log instead."""
    made = peer.run("true")
    peer.ended(made)
    with peer.attached(made, 0.3) as connection, pytest.raises(TimeoutError):
        connection.recv(1)


def test_a_followed_log_begins_at_the_beginning_and_ends_with_the_process(peer: Peer) -> None:
    made = peer.run("sh", "-c", "echo one; sleep 0.3; echo two")
    assert b"".join(peer.client.logs(made, stream=True, follow=True)).startswith(b"one\n")  # (the last may be late)
    assert b"".join(peer.client.logs(made, stream=True, follow=True)) == b"one\ntwo\n"


def test_a_stats_stream_of_what_has_ended_says_year_1(peer: Peer) -> None:
    made = peer.run("sleep", "60")
    stream = peer.client.stats(made, decode=True, stream=True)
    first = next(stream)
    assert first["read"] > "2000"
    assert first["cpu_stats"]["cpu_usage"]["total_usage"] >= 0
    assert first["memory_stats"]["limit"] > 0
    assert "pids_stats" in first
    peer.client.kill(made)
    assert any(document["read"] == NEVER for document in stream)
    stream.close()


def test_the_list_shows_what_runs_or_all(peer: Peer) -> None:
    filters = {"label": f"peer={peer.label}"}
    made, running = peer.make("true"), peer.run("sleep", "60")
    assert [box["Id"] for box in peer.client.containers(filters=filters)] == [running]
    found = {box["Id"]: (box["State"], box["Labels"]) for box in peer.client.containers(all=True, filters=filters)}
    labels = {"peer": peer.label}
    assert found == {made: ("created", labels), running: ("running", labels)}
    assert {box["HostConfig"]["NetworkMode"] for box in peer.client.containers(all=True, filters=filters)} == {"none"}


def test_nothing_but_containers_is_made(peer: Peer) -> None:
    filters = {"label": f"peer={peer.label}"}
    peer.run("true")
    assert peer.client.networks(filters=filters) == []
    assert not peer.client.volumes(filters=filters)["Volumes"]


@pytest.mark.parametrize(("probe", "verdict"), [("echo fine", "healthy"), ("echo broken; false", "unhealthy")])
def test_a_health_check(peer: Peer, probe: str, verdict: str) -> None:
    since = peer.now()
    check = {"test": ["CMD-SHELL", probe], "interval": 10**8, "retries": 2}
    made = peer.run("sleep", "60", healthcheck=check)
    assert peer.state(made)["Health"]["Status"] in ("starting", verdict)
    until(lambda: peer.state(made)["Health"]["Status"] == verdict, verdict)
    assert peer.state(made)["Health"]["Log"][-1]["Output"].split()[0] == probe.split()[1].rstrip(";")
    assert (f"health_status: {verdict}", {}) in peer.events(since)
    assert peer.events(since, "health_status") == [(f"health_status: {verdict}", {})]


def test_a_registry_that_does_not_answer_is_a_refused_pull(peer: Peer) -> None:
    status, words = peer.refused(peer.client.pull, "localhost:1/nosuch", tag="1")
    assert (status, "dial tcp" in words) == (500, True)
