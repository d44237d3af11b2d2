"""`calls images --load`: images from a file that `docker save` has written."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import docker
import docker.errors
import pytest
import running
from ledgers import COMMAND
from running import IMAGE, calls, run
from terminals import screen

from driver.docker.stored import load

pytestmark = pytest.mark.engine


class Saved(NamedTuple):
    """An image in a file, which the engine does not have any more."""

    name: str
    id: str
    file: Path


@pytest.fixture
def saved(engine: docker.APIClient, tmp_path: Path) -> Iterator[Saved]:
    name = f"test-load-{os.getpid()}-{uuid.uuid4().hex[:8]}"
    made = engine.create_container(IMAGE, ["true"])
    image = engine.commit(made, repository=name, tag="one", conf={"Labels": {"of": name}})["Id"]
    engine.remove_container(made)
    file = tmp_path / "image.tar"
    file.write_bytes(b"".join(engine.get_image(f"{name}:one")))
    engine.remove_image(image, force=True)
    yield Saved(f"{name}:one", image, file)
    if there(engine, image):
        engine.remove_image(image, force=True)


def there(engine: docker.APIClient, image: str) -> bool:
    """Whether the engine has it."""
    try:
        engine.inspect_image(image)
    except docker.errors.ImageNotFound:
        return False
    return True


def test_what_was_loaded_is_named_and_can_be_called(saved: Saved, engine: docker.APIClient, ledger: Path) -> None:
    assert calls("images", "--load", str(saved.file)) == (0, f"loaded {saved.name}\n".encode(), b"")
    assert engine.inspect_image(saved.name)["Id"] == saved.id
    assert not ledger.exists()
    with running.nothing_left(engine):
        assert run("--pull", "never", saved.name, "echo", "here") == (0, b"here\n", b"")


@pytest.mark.parametrize("form", ["--json", "--nl"])
def test_from_standard_input_and_as_json(form: str, saved: Saved) -> None:
    said = calls("images", "--load", "-", form, stdin=saved.file.read_bytes())
    assert (said.status, json.loads(said.out), said.err) == (0, {"loaded": [saved.name]}, b"")


def test_what_has_no_name_is_said_by_its_id(saved: Saved, engine: docker.APIClient) -> None:
    engine.load_image(saved.file.read_bytes())
    nameless = b"".join(engine.get_image(saved.id))
    engine.remove_image(saved.id, force=True)
    assert load(engine, [nameless]) == (saved.id,)
    assert there(engine, saved.id)


def test_several_at_once(saved: Saved, engine: docker.APIClient) -> None:
    engine.load_image(saved.file.read_bytes())
    other = saved.name.replace(":one", ":two")
    engine.tag(saved.id, other.split(":")[0], "two")
    both = b"".join(engine.get_image(saved.name.split(":")[0]))
    engine.remove_image(saved.id, force=True)
    assert sorted(load(engine, [both])) == [saved.name, other]


@pytest.mark.parametrize(
    ("data", "theirs"), [(b"no tar at all" * 99999, b"invalid tar header"), (b"", b"no such file")]
)
def test_a_refusal_is_in_the_engines_words(data: bytes, theirs: bytes, tmp_path: Path) -> None:
    (tmp_path / "other").write_bytes(data)
    said = calls("images", "--load", str(tmp_path / "other"))
    assert (said.status, said.out, said.err.count(b"\n")) == (2, b"", 1)
    assert theirs in said.err
    assert b"{" not in said.err


def test_half_an_image_is_none(saved: Saved, engine: docker.APIClient) -> None:
    data = saved.file.read_bytes()
    said = calls("images", "--load", "-", stdin=data[: len(data) // 2])
    assert (said.status, said.out, b"unexpected EOF" in said.err) == (2, b"", True)
    assert not there(engine, saved.id)


def test_without_an_engine(saved: Saved) -> None:
    said = calls("images", "--load", str(saved.file), DOCKER_HOST="unix:///nowhere.sock")
    assert (said.status, said.out, b"no Docker Engine at unix:///nowhere.sock" in said.err) == (2, b"", True)


@pytest.mark.parametrize("file", ["/nowhere", "/", "/proc/self/mem"])
def test_a_file_that_cannot_be_read(file: str) -> None:
    said = calls("images", "--load", file)
    assert (said.status, said.out) == (2, b"")
    assert said.err.startswith(f"calls: --load: cannot read {file}: ".encode())
    assert said.err.count(b"\n") == 1


def test_standard_input_that_is_a_terminal_is_no_file() -> None:
    ours, theirs = pty.openpty()
    done = subprocess.run([*COMMAND, "images", "--load", "-"], stdin=theirs, capture_output=True, check=False)
    os.close(ours)
    os.close(theirs)
    assert (done.returncode, done.stderr) == (2, b"calls: --load: standard input is a terminal, and no file\n")


@pytest.mark.parametrize("words", [("--clean", "--limit", "1g"), ("--exempt", "busybox"), ("--dry-run",)])
def test_it_goes_alone(words: tuple[str, ...], saved: Saved, engine: docker.APIClient) -> None:
    said = calls("images", "--load", str(saved.file), *words)
    assert (said.status, b"--load goes with no other option" in said.err) == (2, True)
    assert not there(engine, saved.id)


@pytest.mark.parametrize(("file", "shown"), [("FILE", b" %\r\x1b[K"), ("-", b"MiB\r\x1b[K")])
def test_progress_goes_to_a_terminal(file: str, shown: bytes, saved: Saved) -> None:
    """Of a stream it is not known how much there will be."""
    ours, theirs = pty.openpty()
    words = [*COMMAND, "images", "--load", file.replace("FILE", str(saved.file))]
    with (
        subprocess.Popen(["cat", saved.file], stdout=subprocess.PIPE) as source,
        subprocess.Popen(words, stdin=source.stdout, stdout=subprocess.PIPE, stderr=theirs) as loading,
    ):
        os.close(theirs)
        line = screen(ours)
        told, _ = loading.communicate()
    os.close(ours)
    assert (loading.returncode, told) == (0, f"loaded {saved.name}\n".encode())
    assert line.startswith(b"\r\x1b[Kloading: ")
    assert line.endswith(shown)
