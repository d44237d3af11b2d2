"""Names of images, by the distribution project's grammar, beside the answers of both generations of Fn's ParseImage."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from machine.reference import Reference, is_id, parse

DIGEST = "sha256:066978f9d271cfde1586ee5c6a3904a683a228252d6bc831e9c64a6fb823bc10"
GOLDEN = [
    json.loads(line)
    for line in (Path(__file__).parent / "golden" / "parse_image.jsonl").read_text(encoding="utf-8").splitlines()
]
"""What Fn makes of names: `seed` and `later`, each as [registry, repository, tag]; "" is Docker Hub."""

NO_NAMES = {
    ":tag", "Busybox", "app/", "app:", "app:1@", "app::1", "app:tag/with/slash", "app@a@b", "http://localhost:5000/app",
}  # fmt: skip
"""What Fn takes for a name, in both generations, and is none."""
SEED_WRONG = {
    "[::1]:5000/app:1", "eu.gcr.io/p/a/b/c/d:9", "gcr.io/proj/sub/app:1", "localhost:5000/app:1", "myhost/team/app",
    "myhost:5000/app", "myhost:5000/app:1", "team/sub/app", "user/app.v2:1", "index.docker.io/library/busybox:1",
    f"fnproject/fn-test-utils:v1@{DIGEST}", f"fnproject/fn-test-utils@{DIGEST}", f"mongo@{DIGEST}",
    f"my.registry/fn-test-utils@{DIGEST}", f"localhost.localdomain:5000/samalba/hipache:latest@{DIGEST}",
}  # fmt: skip
"""Names that the seed takes apart wrongly: a host by the count of parts or by any dot, digests dropped."""
LATER_WRONG = {"index.docker.io/library/busybox:1"}
"""The same for the later one, apart from a digest given as tag: the old name of Docker Hub is another registry."""


def as_fn(reference: Reference) -> list[str]:
    """As Fn writes it, where it is right."""
    return ["" if reference.host == "docker.io" else reference.host, reference.path, reference.version]


@pytest.mark.parametrize("case", GOLDEN, ids=lambda case: case["image"])
def test_beside_fn(case: dict[str, object]) -> None:
    image = str(case["image"])
    if image in NO_NAMES:
        with pytest.raises(ValueError, match=r"\w"):
            parse(image)
        return
    ours = as_fn(parse(image))
    assert (ours != case["seed"], ours != case["later"]) == (image in SEED_WRONG, image in LATER_WRONG)


def test_every_name_in_which_fn_is_wrong_is_one_of_its_vectors() -> None:
    assert {case["image"] for case in GOLDEN} >= NO_NAMES | SEED_WRONG | LATER_WRONG


@pytest.mark.parametrize(
    ("text", "full", "repository"),
    [
        ("busybox", "docker.io/library/busybox:latest", "busybox"),
        ("docker.io/busybox", "docker.io/library/busybox:latest", "busybox"),
        ("index.docker.io/busybox:1", "docker.io/library/busybox:1", "busybox"),
        ("library/a/b", "docker.io/library/a/b:latest", "library/a/b"),
        ("localhost/app", "localhost/app:latest", "localhost/app"),
        ("localhost:5000/app", "localhost:5000/app:latest", "localhost:5000/app"),
        ("localhost:5000/a/b/c:1", "localhost:5000/a/b/c:1", "localhost:5000/a/b/c"),
        ("host/app", "docker.io/host/app:latest", "host/app"),
        ("HOST/app", "HOST/app:latest", "HOST/app"),
        ("a.b/c", "a.b/c:latest", "a.b/c"),
        ("[2001:db8::1]/app", "[2001:db8::1]/app:latest", "[2001:db8::1]/app"),
        ("x__y/a-----b.c", "docker.io/x__y/a-----b.c:latest", "x__y/a-----b.c"),
        (f"busybox@{DIGEST}", f"docker.io/library/busybox@{DIGEST}", "busybox"),
        (f"busybox:1@{DIGEST}", f"docker.io/library/busybox:1@{DIGEST}", "busybox"),
        ("a" * 12, f"docker.io/library/{'a' * 12}:latest", "a" * 12),
        ("app:_", "docker.io/library/app:_", "app"),
        ("app:" + "t" * 128, "docker.io/library/app:" + "t" * 128, "app"),
    ],
)
def test_in_full(text: str, full: str, repository: str) -> None:
    reference = parse(text)
    assert (str(reference), reference.repository) == (full, repository)


@pytest.mark.parametrize(
    "text",
    [
        "", "/", "a/", "/a", "a//b", "-a", "a-", "a..b", "a___b", "a._b", "app:-x", "app:.x", "app:" + "t" * 129,
        "host:port/app", "host:/app", "-h.x/app", "h-.x/app", "a b", "a\n", "app:1\n", "ä", "app:ä", "a@", "a@b",
        "a@sha256:" + "0" * 63, "a@sha256:" + "0" * 65, "a@sha256:" + "A" * 64, "a@md5:" + "0" * 32, "٣.x/a", "a.x:٣/b",
        "x" * 256, f"{'x' * 200}.y/{'z' * 55}",
    ],
)  # fmt: skip
def test_no_names(text: str) -> None:
    with pytest.raises(ValueError, match=r"name|tag|digest"):
        parse(text)


@pytest.mark.parametrize("text", ["0" * 64, "sha256:" + "a" * 64])
def test_an_id_is_no_reference(text: str) -> None:
    assert is_id(text)
    with pytest.raises(ValueError, match="is the id of an image"):
        parse(text)


PARTS = st.from_regex(r"[a-z0-9]+((\.|_|__|-+)[a-z0-9]+){0,2}", fullmatch=True)
REFERENCES = st.builds(
    lambda host, parts, tag, digest: Reference(host, "/".join(parts), tag or (None if digest else "latest"), digest),
    st.sampled_from(("localhost", "localhost:5000", "a.b", "127.0.0.1:80", "[::1]:5000", "Host")),
    st.lists(PARTS, min_size=1, max_size=4),
    st.none() | st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,9}", fullmatch=True),
    st.none() | st.just(DIGEST),
)


@given(REFERENCES)
def test_what_is_written_in_full_is_read_again(reference: Reference) -> None:
    assert parse(str(reference)) == reference


@given(PARTS)
def test_a_short_name_and_the_full_one_are_the_same(name: str) -> None:
    assert parse(name) == parse(f"docker.io/library/{name}:latest") == parse(parse(name).repository)


@given(st.text("aA0.:/@_-[]\n ", max_size=24))
def test_every_text_is_a_reference_or_refused(text: str) -> None:
    try:
        reference = parse(text)
    except ValueError:
        return
    assert parse(str(reference)) == reference
