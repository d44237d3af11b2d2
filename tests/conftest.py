"""What all tests share: an engine if there is one, a ledger of their own, the command line as a process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import docker
import ledgers
import pytest
from held import Ahead
from hypothesis import HealthCheck, settings
from running import LIMIT

import calls

IMAGE = "busybox"

settings.register_profile("default", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("default")


def _engine_fault() -> str | None:
    # In a process of its own: what a failed connection leaves open is not the tests' concern.
    probe = f"import docker; docker.from_env().images.get({IMAGE!r})"
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, timeout=LIMIT, check=False)
    if done.returncode == 0:
        return None
    return f"no Docker Engine with the image {IMAGE}: {done.stderr.strip().splitlines()[-1]}"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests of the engine skip where there is none; where one is required they are left to fail."""
    wanted = [item for item in items if item.get_closest_marker("engine")]
    if not wanted or os.environ.get("CALLS_REQUIRE_ENGINE"):
        return
    if fault := _engine_fault():
        for item in wanted:
            item.add_marker(pytest.mark.skip(reason=fault))


@pytest.fixture(autouse=True)
def own_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test touches the user's own ledger or key."""
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("CALLS_LEDGER", str(tmp_path / "ledger.db"))


@pytest.fixture
def heeding_hangup() -> Iterator[None]:
    """What a test starts heeds SIGHUP, also where nohup has the tests ignore it: processes inherit that."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.fixture
def ledger(tmp_path: Path) -> Path:
    """Where the test's ledger is (or will be)."""
    return tmp_path / "ledger.db"


@pytest.fixture
def runner(ledger: Path) -> Iterator[calls.Runner]:
    """A runner on the test's ledger."""
    with calls.Runner(ledger) as runner:
        yield runner


@pytest.fixture
def engine() -> Iterator[docker.APIClient]:
    """The engine itself, to do things behind the runner's back."""
    client = docker.from_env()
    yield client.api
    client.close()


@pytest.fixture(scope="session")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small ledger that no test changes."""
    path = tmp_path_factory.mktemp("small") / "ledger.db"
    ledgers.small(path)
    return path


@pytest.fixture
def said(path: Path) -> ledgers.Said:
    """Runs a command on the small ledger."""
    return partial(ledgers.said, path)


Command = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def clock() -> Ahead:
    """One for a runner whose deadlines are to be brought near."""
    return Ahead()


@pytest.fixture
def command() -> Command:
    """Runs `calls ARGUMENT...` as a user would; -> what it printed and its exit status."""

    def run(*arguments: str, **options: object) -> subprocess.CompletedProcess[str]:
        words = [sys.executable, "-m", "calls.cli", *arguments]
        return subprocess.run(words, capture_output=True, text=True, timeout=LIMIT, check=False, **options)  # type: ignore[call-overload,no-any-return]

    return run


@pytest.fixture
def mounted(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """Mounts a disk of a size; -> where the ledger is to be on it."""
    place = tmp_path / "disk"
    place.mkdir()

    def mount(options: str) -> Path:
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", options, "test", str(place)], capture_output=True, check=False
        )
        if done.returncode != 0:
            pytest.skip(f"cannot mount: {done.stderr.decode().strip()}")
        return place / "ledger.db"

    yield mount
    subprocess.run(["umount", "-l", str(place)], capture_output=True, check=False)


@pytest.fixture
def no_credentials(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """None but those that the test gives: in a folder of its own, `docker`."""
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "docker"))
    for variable in ("DOCKER_AUTH_CONFIG", "DOCKER_AUTH"):
        monkeypatch.delenv(variable, raising=False)
