"""Which images are removed, and in which order: by themselves, by `calls images` and by a runner."""

from __future__ import annotations

import contextlib
import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import docker
import docker.errors
import ledgers
import pytest
from hypothesis import given
from hypothesis import strategies as st
from registry import Registry, serving

import calls
from calls.cleaning import Exempt, Image, surplus, used_images
from driver.docker.stored import Stored
from ledger.images import Use
from machine.errors import UsageError

NONE = {"network": "none"}


def stored(number: int, name: str = "", *, size: int = 10, used: bool = False, digest: bool = True) -> Stored:
    """An image that is called `name:1`."""
    name = name or f"r.example/image{number}"
    digests = (f"{name}@sha256:{number:064x}",) if digest else ()
    return Stored(f"sha256:{number:064x}", (f"{name}:1",), digests, size, used)


def use(image: Stored, last: int, live: int = 0) -> Use:
    return Use(image.names[0], image.id, 1, last, live)


def kept(image: Stored, *uses: Use, exempt: tuple[str, ...] = ()) -> str | None:
    (found,) = used_images([image], uses or [use(image, 1)], Exempt(exempt))
    return found.kept


def test_the_least_recently_used_go_first_and_no_more_than_needed() -> None:
    images = [stored(number, size=10) for number in range(5)]
    uses = [use(image, last) for image, last in zip(images, (50, 20, 40, 10, 30), strict=True)]
    found = used_images(images, uses, Exempt(()))
    assert [image.last for image in found] == [10, 20, 30, 40, 50]
    assert [image.last for image in surplus(found, 30)] == [10, 20]
    assert surplus(found, 50) == []
    assert len(surplus(found, 0)) == 5


def test_what_no_call_has_used_is_not_counted() -> None:
    mine, others = stored(1), stored(2, size=10**9)
    assert [image.stored for image in used_images([mine, others], [use(mine, 1)], Exempt(()))] == [mine]


def test_what_is_in_use_is_kept() -> None:
    assert kept(stored(1, used=True)) == "in use"
    assert kept(stored(1), use(stored(1), 1, live=1)) == "in use"
    assert kept(stored(1), use(stored(1), 1), Use("r.example/image1:1", None, 1, 5, 1)) == "in use"
    assert kept(stored(1)) is None


def test_what_no_registry_knows_is_kept() -> None:
    assert kept(stored(1, digest=False)) == "only here"


def test_an_image_of_a_call_that_got_no_further_is_known_by_its_name() -> None:
    image = stored(1, "busybox")
    (found,) = used_images([image], [Use("docker.io/library/busybox:1", None, 3, 7, 0)], Exempt(()))
    assert (found.calls, found.last) == (3, 7)
    assert used_images([image], [Use("busybox", None, 1, 7, 0)], Exempt(())) == []  # which is latest


def test_a_name_that_has_moved_on_is_not_the_image_of_its_old_calls() -> None:
    old, new = stored(1, "app")._replace(names=()), stored(2, "app")
    found = used_images([old, new], [Use("app:1", old.id, 4, 1, 0), Use("app:1", new.id, 2, 2, 0)], Exempt(()))
    assert [(image.stored, image.calls) for image in found] == [(old, 4), (new, 2)]


@pytest.mark.parametrize(
    ("exempt", "covered"),
    [
        ("busybox", True),
        ("docker.io/library/busybox", True),
        ("busybox:1", True),
        ("busybox:2", False),
        ("busybox:latest", False),
        ("r.example/busybox", False),
        (f"busybox@sha256:{1:064x}", True),
        (f"busybox@sha256:{2:064x}", False),
        (f"sha256:{1:064x}", True),
        (f"{1:064x}", True),
        (f"{2:064x}", False),
    ],
)
def test_what_is_exempt(exempt: str, *, covered: bool) -> None:
    assert (kept(stored(1, "busybox"), exempt=(exempt,)) == "exempt") == covered


@given(
    st.lists(st.tuples(st.integers(0, 99), st.integers(0, 9), st.sampled_from((None, "in use", "exempt")))),
    st.integers(0, 999),
)
def test_whatever_there_is_only_what_may_go_goes_and_no_more_than_needed(
    given: list[tuple[int, int, str | None]], limit: int
) -> None:
    images = [Image(stored(number, size=size), 1, last, why) for number, (size, last, why) in enumerate(sorted(
        given, key=lambda entry: entry[1]))]  # fmt: skip
    going = surplus(images, limit)
    left = sum(image.stored.size for image in images) - sum(image.stored.size for image in going)
    assert all(image.kept is None for image in going)
    assert left <= limit or len(going) == sum(image.kept is None and True for image in images)
    if going:
        assert left + going[-1].stored.size > limit
    assert going == [image for image in images if image in going]


@pytest.mark.parametrize(
    ("options", "message"),
    [({"image_limit": "much"}, "image_limit"), ({"image_limit": 0, "image_exempt": ["A:"]}, "image_exempt")],
)
def test_a_wrong_limit_or_exemption_is_refused_before_there_is_a_ledger(
    ledger: Path, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        calls.Runner(ledger, **options)
    assert not ledger.exists()


@pytest.mark.parametrize(
    "words", [("--clean",), ("--limit", "1"), ("--dry-run",), ("--clean", "--limit", "much"),
              ("--clean", "--limit", "1", "--exempt", "A:")],
)  # fmt: skip
def test_wrong_usage(said: ledgers.Said, words: tuple[str, ...]) -> None:
    assert said("images", *words)[0] == 2


@pytest.fixture
def far() -> Iterator[list[Registry]]:
    """Three registries, each with a tiny image of its own."""
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(serving(random.randbytes(1000))) for _ in range(3)]


@pytest.fixture
def here(engine: docker.APIClient, far: list[Registry]) -> Iterator[Any]:
    """Which of the three images the engine has."""

    def here() -> list[int]:
        names = {name for image in engine.images() for name in image["RepoTags"] or ()}
        return [number for number, registry in enumerate(far) if registry.image in names]

    yield here
    for number in here():
        engine.remove_image(far[number].image)


@pytest.mark.engine
def test_a_runner_keeps_its_images_within_a_limit(ledger: Path, far: list[Registry], here: Any) -> None:
    told: list[str] = []
    with calls.Runner(
        ledger, image_limit=0, image_exempt=[far[1].image], tell=lambda line, _: told.append(line)
    ) as runner:
        for registry in far:
            runner.run(registry.image, **NONE)
    assert here() == [1]
    removed = [line for line in told if line.startswith("removed image")]
    assert {line.split()[2] for line in removed} == {far[0].image, far[2].image}


@pytest.mark.engine
def test_a_runner_without_a_limit_removes_nothing(ledger: Path, far: list[Registry], here: Any) -> None:
    with calls.Runner(ledger) as runner:
        runner.run(far[0].image, **NONE)
    assert here() == [0]


@pytest.mark.engine
def test_what_has_a_container_stays(ledger: Path, far: list[Registry], here: Any, engine: docker.APIClient) -> None:
    with calls.Runner(ledger, image_limit=0) as runner:
        call = runner.run(far[0].image, keep=True, **NONE)
        runner.run(far[1].image, **NONE)
    assert here() == [0]
    engine.remove_container(call.id)


@pytest.mark.engine
def test_calls_images(ledger: Path, far: list[Registry], here: Any) -> None:
    with calls.Runner(ledger) as runner:
        for registry in (far[2], far[0], far[1], far[2]):
            runner.run(registry.image, **NONE)

    def images(*words: str) -> Any:
        status, out, err = ledgers.said(ledger, "images", *words)
        assert (status, err) == (0, "")
        return out

    rows = json.loads(images("--json"))
    assert [row["names"] for row in rows] == [[far[number].image] for number in (0, 1, 2)]
    assert [row["calls"] for row in rows] == [1, 1, 2]
    assert far[0].image in images()
    sizes = [row["size_bytes"] for row in rows]
    limit = str(sizes[1] + sizes[2])
    assert images("--clean", "--limit", limit, "--dry-run").startswith("would remove 1 image, ")
    assert here() == [0, 1, 2]
    done = json.loads(images("--clean", "--limit", limit, "--json"))
    assert [row["names"] for row in done["removed"]] == [[far[0].image]]
    assert (done["removed_bytes"], done["left_bytes"]) == (sizes[0], sizes[1] + sizes[2])
    assert here() == [1, 2]
    images("--clean", "--limit", "0", "--exempt", f"{far[1].host}/image")
    assert here() == [1]
    assert images("--clean", "--limit", "1g").startswith("nothing to remove")
