"""Secrets stay out of the record: in text, in nested data, and in streams however they are cut into pieces."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from machine.secrets import MARK, SHORTEST, Redactor, StreamRedactor, fingerprint, is_secret

BYTES = MARK.encode()
# Few letters, so that secrets overlap, repeat and contain each other; none of them occurs in the mark.
LETTERS = st.sampled_from("xyz")
SECRETS = st.lists(st.text(LETTERS, min_size=SHORTEST, max_size=9), min_size=1, max_size=3)
PLAIN = st.text(st.sampled_from("abc \n\0é"), max_size=9).map(str.encode)
CUTS = st.lists(st.integers(0, 99), max_size=8)


@st.composite
def outputs(draw: st.DrawFn) -> tuple[list[str], bytes]:
    """Secrets, and an output in which they turn up: whole, in part, and overlapping."""
    secrets = draw(SECRETS)
    part = st.text(LETTERS, max_size=6).map(str.encode) | st.sampled_from(secrets).map(str.encode) | PLAIN
    return secrets, b"".join(draw(st.lists(part, max_size=8)))


def streamed(secrets: Sequence[str], output: bytes, cuts: Sequence[int]) -> bytes:
    """`output`, read in pieces that end at `cuts`, as it is passed on."""
    stream = StreamRedactor(Redactor(secrets))
    ends = [0, *sorted(min(cut, len(output)) for cut in cuts), len(output)]
    return b"".join([stream.feed(output[begin:end]) for begin, end in pairwise(ends)]) + stream.close()


# Streams.


@given(outputs(), CUTS)
def test_no_secret_is_ever_passed_on_however_the_stream_is_cut(given: tuple[list[str], bytes], cuts: list[int]) -> None:
    secrets, output = given
    passed = streamed(secrets, output, cuts)
    assert [secret for secret in secrets if secret.encode() in passed] == []


@given(outputs(), CUTS)
@example((["xxxx", "xxxxyyyy"], b"xxxxyyyy"), [4])
@example((["yyyy", "xyyyyx"], b"xyyyyx"), [5])
def test_where_the_stream_is_cut_makes_no_difference(given: tuple[list[str], bytes], cuts: list[int]) -> None:
    secrets, output = given
    assert streamed(secrets, output, cuts) == Redactor(secrets).clean(output)


def test_a_secret_of_several_lines_as_a_terminal_writes_it() -> None:
    assert streamed(["first\nsecond"], b"a first\r\nsecond first\nsecond", [9]) == b"a %b %b" % (BYTES, BYTES)


@given(SECRETS, st.lists(PLAIN).map(b"".join), CUTS)
def test_what_is_not_secret_is_unchanged(secrets: list[str], output: bytes, cuts: list[int]) -> None:
    assert streamed(secrets, output, cuts) == output


@given(st.binary(), CUTS)
def test_without_secrets_nothing_is_held_back(output: bytes, cuts: list[int]) -> None:
    stream = StreamRedactor(Redactor())
    assert [stream.feed(bytes([byte])) for byte in output] == [bytes([byte]) for byte in output]


@given(st.text(min_size=SHORTEST), st.binary(max_size=30), st.binary(max_size=30))
def test_any_secret_read_byte_by_byte_is_found(secret: str, before: bytes, after: bytes) -> None:
    assume(secret not in MARK and secret.lower() not in ("true", "false"))
    assume(secret.encode() not in before + BYTES + after)
    output = before + secret.encode() + after
    assume(output.find(secret.encode()) == len(before))
    assert secret.encode() not in streamed([secret], output, range(len(output)))


@given(outputs())
def test_only_what_may_begin_a_secret_is_held_back(given: tuple[list[str], bytes]) -> None:
    secrets, _ = given
    stream = StreamRedactor(Redactor(secrets[:1]))
    begun = secrets[0][:-1].encode()
    assert (stream.feed(b"-" * 100), stream.feed(begun), stream.feed(b"-")) == (b"-" * 100, b"", begun + b"-")


def test_a_secret_that_is_a_piece_of_the_mark_does_not_multiply_it() -> None:
    assert streamed(["acte", "x" * 30], b"acte and more", range(13)) == BYTES + b" and more"


@pytest.mark.parametrize("cut", range(9))
def test_the_end_of_the_longer_of_two_secrets_does_not_leak(cut: int) -> None:
    assert streamed(["pass", "password"], b"password", [cut]) == BYTES


def test_after_its_end_a_stream_holds_nothing() -> None:
    stream = StreamRedactor(Redactor(["secret"]))
    stream.feed(b"sec")
    assert (stream.close(), stream.close()) == (b"sec", b"")


# Text and data.


def test_the_longest_secret_is_replaced_first() -> None:
    assert Redactor(["pass", "password"]).text("a password") == f"a {MARK}"


def test_a_secret_is_replaced_everywhere_in_nested_data() -> None:
    data: dict[str, Any] = {"a": ["my s3cret", ("s3cret", 1)], "is s3cret": {"b": "s3crets"}, "c": None, "d": 2.5}
    assert Redactor(["s3cret"]).data(data) == {
        "a": [f"my {MARK}", [MARK, 1]],
        f"is {MARK}": {"b": f"{MARK}s"},
        "c": None,
        "d": 2.5,
    }


@pytest.mark.parametrize("value", ["", "1", "abc", "é", "true", "False"])
def test_values_that_cannot_be_told_from_chance_are_passed_over(value: str) -> None:
    assert Redactor([value]).text("1 abc é true False") == "1 abc é true False"


def test_what_counts_is_the_length_in_bytes() -> None:
    assert Redactor(["éé"]).text("éé") == MARK


@pytest.mark.parametrize("secret", ["a.*b", "[abcd]", "(?P<x>", "\\d\\d", "$^$^", "a|bcd"])
def test_a_secret_is_no_pattern(secret: str) -> None:
    assert Redactor([secret]).text(f"{secret} aXXb 12") == f"{MARK} aXXb 12"


@pytest.mark.parametrize("cut", range(1, 13))
def test_what_was_cut_off_keeps_no_part_of_a_secret(cut: int) -> None:
    begun = "pass«wörd»"[:10].encode()[:cut].decode(errors="replace")  # as an engine gives a character that is cut
    redactor = Redactor(["pass«wörd»", "pass«wörd» and more"])
    assert redactor.cut_short(f"it is {begun}...") == "it is ..."
    assert redactor.cut_short(f"it is {begun}") in ("it is ...", "it is pas"[: 6 + cut])


@pytest.mark.parametrize("text", ["", "...", "no route", "no route...", "it is pa", "paswörd..."])
def test_what_ends_in_no_part_of_a_secret_is_left_alone(text: str) -> None:
    assert Redactor(["pass«wörd»"]).cut_short(text) == text == Redactor().cut_short(text)


def test_what_was_cut_off_behind_a_secret_has_none_either() -> None:
    assert Redactor(["pass", "password"]).cut_short("pass, password, passw...") == f"{MARK}, {MARK}, ..."


def test_bytes_that_are_no_text_survive() -> None:
    assert Redactor(["secret"]).text("\udcff secret") == f"\udcff {MARK}"


@given(outputs())
def test_cleaning_what_is_clean_changes_nothing(given: tuple[list[str], bytes]) -> None:
    secrets, output = given
    redactor = Redactor(secrets)
    assert redactor.clean(redactor.clean(output)) == redactor.clean(output)


# Names and fingerprints.


@pytest.mark.parametrize(
    "name",
    ["TOKEN", "GITHUB_TOKEN", "api_key", "SecretSauce", "DB_PASSWORD", "PASSWD", "AWS_CREDENTIALS", "KEYS"],
)
def test_names_that_are_taken_for_secrets(name: str) -> None:
    assert is_secret(name)


@pytest.mark.parametrize("name", ["PATH", "HOME", "PASS", "USER", "TOKE", ""])
def test_names_that_are_not(name: str) -> None:
    assert not is_secret(name)


@given(st.binary(), st.text())
def test_the_same_value_and_key_give_the_same_fingerprint(key: bytes, value: str) -> None:
    assert fingerprint(key, value) == fingerprint(key, value)


@given(st.binary(min_size=1, max_size=64), st.text(), st.text())
def test_another_value_gives_another_fingerprint(key: bytes, value: str, other: str) -> None:
    assume(value != other)
    assert fingerprint(key, value) != fingerprint(key, other)


def test_another_key_gives_another_fingerprint() -> None:
    assert fingerprint(b"one", "value") != fingerprint(b"two", "value")


def test_a_fingerprint_says_how_it_was_made() -> None:
    assert fingerprint(b"key", "value").startswith("hmac-sha256:")
