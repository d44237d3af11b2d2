"""A Podman of a test's own: a service on a socket file, with images, containers and a state that no other one sees."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import docker
import requests.exceptions
from running import LIMIT, until

# Its own limits are above what some hosts allow, and then nothing starts. Its locks and its log would be the system's.
_SETTINGS = """
[containers]
default_ulimits = ["nofile=1024:1024", "nproc=4096:4096"]
[engine]
cgroup_manager = "cgroupfs"
events_logger = "file"
lock_type = "file"
tmp_dir = "{folder}/tmp"
"""


def missing() -> str | None:
    """Why there can be none here; None when there can."""
    if os.geteuid() != 0:
        return "only root is tried"
    if os.environ.get("CALLS_PODMAN") != "1":
        return "CALLS_PODMAN=1 asks for it: it takes minutes, and every Podman of a host shares a control group"
    return None if shutil.which("podman") else "there is no podman"


@contextmanager
def private_podman(image: bytes) -> Iterator[str]:
    """One that has an image (as a file); -> what DOCKER_HOST is to be. Afterwards there is nothing of it.

    But for the control group `libpod_parent`, which is not its own: every Podman of the host puts containers there.
    """
    folder = Path(tempfile.mkdtemp(prefix="calls.", dir="/tmp"))  # not deeper: the path of a socket has 107 bytes
    (folder / "containers.conf").write_text(_SETTINGS.format(folder=folder), encoding="utf-8")
    words = ["podman", "--root", f"{folder}/root", "--runroot", f"{folder}/run", "--storage-driver", "vfs"]
    environment = os.environ | {"CONTAINERS_CONF": f"{folder}/containers.conf"}
    url = f"unix://{folder}/podman.sock"

    def do(*more: str, **options: bytes) -> None:
        subprocess.run([*words, *more], env=environment, check=True, capture_output=True, timeout=LIMIT, **options)  # type: ignore[call-overload]

    try:
        do("load", input=image)
        do("tag", "localhost/busybox", "docker.io/library/busybox")
        with (folder / "log").open("ab") as log, subprocess.Popen(
            [*words, "system", "service", "--time", "0", url],
            stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment, start_new_session=True,
            cwd=folder,  # where its conmon leaves a file `oom`
        ) as service:  # fmt: skip
            until((folder / "podman.sock").exists, f"an answer: {folder}/log")
            try:
                yield url
            finally:
                service.terminate()
        do("rm", "--force", "--all")
    finally:
        _clear(folder)


def _clear(folder: Path) -> None:
    for process in Path("/proc").glob("[0-9]*"):  # a conmon stays for five minutes after a command in a container
        with contextlib.suppress(OSError):
            if f"{folder}/".encode() in (process / "cmdline").read_bytes() and process.name != str(os.getpid()):
                os.kill(int(process.name), signal.SIGKILL)
    for mount in Path("/proc/self/mounts").read_text(encoding="utf-8").splitlines():
        if mount.split()[1].startswith(f"{folder}/"):
            subprocess.run(["umount", "-l", mount.split()[1]], check=False, capture_output=True)
    shutil.rmtree(folder)


@contextmanager
def client(url: str) -> Iterator[docker.APIClient]:
    """A client of it, to do things behind the runner's back."""
    made = docker.APIClient(url, version="1.41", timeout=LIMIT)
    with contextlib.suppress(requests.exceptions.ConnectionError):
        yield made
    made.close()
