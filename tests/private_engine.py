"""A Docker Engine of a test's own, to be killed: with a network, mounts and folders apart, so that nothing is left."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import docker
import docker.errors
import requests.exceptions
from running import until

_ROOM = """
if command -v ip >/dev/null; then ip link set lo up; else busybox ip link set lo up; fi
mount -t tmpfs tmpfs /run
[ ! -d /etc/docker ] || mount -t tmpfs tmpfs /etc/docker
echo ready
exec sleep infinity
"""
PATH = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"

_CONTAINERD = "exec/containerd/containerd.pid"


def _dead(pid: str) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def missing() -> str | None:
    """Why there can be none here; None when there can."""
    if os.geteuid() != 0:
        return "only root can start an engine"
    absent = [tool for tool in ("dockerd", "containerd", "unshare", "nsenter") if not shutil.which(tool, path=PATH)]
    return f"there is no {absent[0]}" if absent else None


class PrivateEngine:
    """One engine. `url` is for DOCKER_HOST. Made by `private_engine`."""

    def __init__(self, folder: Path, room: int, *, live_restore: bool, more: Sequence[str] = ()) -> None:
        """Started by `start`, in the namespaces of the process `room`. `more`: options of dockerd."""
        self.url = f"unix://{folder}/docker.sock"
        self._folder = folder
        self.room = room
        self._more = more
        self._live_restore = live_restore
        self._daemon: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, for the first time or again; returns when it answers."""
        folder = self._folder
        for left in ("pid", _CONTAINERD):  # of one that was killed: the dead still have a pid until they are buried
            (folder / left).unlink(missing_ok=True)
        (folder / "daemon.json").write_text("{}", encoding="utf-8")
        words = [
            "nsenter", "--net", "--mount", "--target", str(self.room),
            "dockerd", "--config-file", f"{folder}/daemon.json", "--host", self.url, "--data-root", f"{folder}/data",
            "--exec-root", f"{folder}/exec", "--pidfile", f"{folder}/pid", "--iptables=false", "--ip6tables=false",
            "--exec-opt", "native.cgroupdriver=cgroupfs", "--cgroup-parent", f"/{folder.name}",
        ]  # fmt: skip
        with (folder / "log").open("ab") as log:
            self._daemon = subprocess.Popen(
                [*words, *["--live-restore"] * self._live_restore, *self._more],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=os.environ | {"PATH": PATH},
                start_new_session=True,
            )
        until(self._answers, f"an answer of the engine: {folder}/log")

    def _answers(self) -> bool:
        assert self._daemon is not None
        assert self._daemon.poll() is None, (self._folder / "log").read_text(encoding="utf-8")[-2000:]
        with socket.socket(socket.AF_UNIX) as probe:  # docker-py would leave a refused one to the collector
            if probe.connect_ex(f"{self._folder}/docker.sock"):
                return False
        try:
            with self.client() as client:
                return bool(client.ping())
        except requests.exceptions.RequestException:
            return False  # it listens before it can answer

    @contextmanager
    def client(self) -> Iterator[docker.APIClient]:
        """A client of it."""
        client = docker.APIClient(self.url, version="1.41", timeout=60)
        try:
            yield client
        finally:
            client.close()

    def kill9(self) -> None:
        """Kill the daemon, and only it: the kernel takes its containerd along, and the containers go on."""
        assert self._daemon is not None
        pid = (self._folder / _CONTAINERD).read_text(encoding="utf-8").strip()
        self._daemon.kill()
        self._daemon.wait()
        until(lambda: _dead(pid), "the end of containerd")

    def stop(self) -> None:
        """End it, its containers first."""
        if self._daemon is None or self._daemon.poll() is not None:
            return
        broken = docker.errors.DockerException, requests.exceptions.RequestException
        with contextlib.suppress(*broken), self.client() as client:
            for container in client.containers(all=True):
                client.remove_container(container["Id"], force=True)
        self._daemon.terminate()
        try:
            self._daemon.wait(20)
        except subprocess.TimeoutExpired:
            self.kill9()


@contextmanager
def private_engine(image: bytes, *, live_restore: bool, more: Sequence[str] = ()) -> Iterator[PrivateEngine]:
    """An engine that has one image, and afterwards nothing: no process, no mount, no folder, no control group."""
    folder = Path(tempfile.mkdtemp(prefix="calls.", dir="/tmp"))  # not deeper: the path of a socket has 107 bytes
    room = subprocess.Popen(
        ["unshare", "--net", "--mount", "sh", "-c", _ROOM], stdout=subprocess.PIPE, start_new_session=True
    )
    try:
        assert room.stdout is not None
        assert room.stdout.readline() == b"ready\n"
        engine = PrivateEngine(folder, room.pid, live_restore=live_restore, more=more)
        try:
            engine.start()
            with engine.client() as client:
                client.load_image(image)
            yield engine
        finally:
            engine.stop()
    finally:
        _clear(room.pid, folder)
        room.communicate()


def _clear(room: int, folder: Path) -> None:
    containers = list((folder / "exec").rglob("init.pid"))
    for first in containers:  # they have networks of their own, and outlive an engine that was killed
        with contextlib.suppress(OSError):
            os.kill(int(first.read_text(encoding="utf-8")), signal.SIGKILL)
    network = os.readlink(f"/proc/{room}/ns/net")
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if os.readlink(process / "ns/net") == network:
                os.kill(int(process.name), signal.SIGKILL)
    groups = [Path("/sys/fs/cgroup") / folder.name, *Path("/sys/fs/cgroup").glob(f"*/{folder.name}")]
    for first in containers:  # a call's own group is not below the engine's
        groups += [path.parent for path in Path("/sys/fs/cgroup").glob(f"*/call-*/{first.parent.name}")]
    for group in groups:
        for _ in range(50):
            _empty(group)
            if not group.exists():
                break
            time.sleep(0.1)  # the kernel takes its time to let the dead go
    shutil.rmtree(folder)


def _empty(group: Path) -> None:
    # Containers without a network of ours are found by their control group.
    for tasks in group.rglob("cgroup.procs"):
        with contextlib.suppress(OSError):
            for pid in tasks.read_text(encoding="utf-8").split():
                os.kill(int(pid), signal.SIGKILL)
    for place in sorted((path for path in group.rglob("*") if path.is_dir()), reverse=True):
        with contextlib.suppress(OSError):
            place.rmdir()
    with contextlib.suppress(OSError):
        group.rmdir()
