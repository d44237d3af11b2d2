"""A request: what is taken, what is refused and in which words, and what of it is recorded."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from machine.errors import SpecError
from machine.secrets import MARK, SHORTEST, fingerprint, is_secret
from machine.spec import Spec
from machine.units import SECOND

MIB = 2**20
TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=20)
NAMES = st.from_regex(r"[A-Z][A-Z_]{0,8}", fullmatch=True)


def _target(volume: str) -> str:
    return volume.rpartition(":")[2]


SPECS = st.fixed_dictionaries(
    {"image": st.just("busybox")},
    optional={
        "driver": st.sampled_from(("docker", "local")),
        "command": st.lists(TEXT, max_size=3),
        "name": st.from_regex(r"[a-zA-Z0-9][a-zA-Z0-9_.-]{0,20}", fullmatch=True),
        "env": st.dictionaries(NAMES, TEXT, max_size=3),
        "label": st.dictionaries(TEXT, TEXT, max_size=3),
        "workdir": TEXT.map("/{}".format),
        "volume": st.lists(
            st.from_regex(r"(/[ -9;-~é]{0,8}:)?/[a-z]{1,4}", fullmatch=True), max_size=2, unique_by=_target
        ),
        "memory": st.integers(6 * MIB, 2**50),
        "cpus": st.floats(0.01, 1024),
        "read_only": st.booleans(),
        "pull": st.sampled_from(("missing", "always", "never", "newer")),
        "stop_signal": st.sampled_from(("TERM", "SIGKILL", 2)),
        "stop_timeout": st.integers(0, 9999),
        "timeout": st.integers(1, 9999) | st.sampled_from(("1.5s", "1h30m", "10")),
        "sample": st.sampled_from((None, "off", "100ms", 5)),
        "log_limit": st.sampled_from((None, "off", "1k", 0, 7)),
    },
)


def key(value: str) -> str:
    """The fingerprint of a secret, with a key of this test's own."""
    return fingerprint(b"key", value)


def parse(**options: Any) -> Spec:
    return Spec.parse(**{"image": "busybox", **options})


def refused_option(**options: Any) -> str | None:
    """The option that is refused, or None."""
    try:
        parse(**options)
    except SpecError as refused:
        return refused.option
    return None


# What is taken.


@pytest.mark.parametrize(
    ("options", "taken"),
    [
        ({"timeout": "1h30m"}, 5400 * SECOND),
        ({"timeout": 0.25}, SECOND // 4),
        ({"stop_timeout": 0}, 0),
        ({"memory": "64m"}, 64 * MIB),
        ({"memory": 6 * MIB}, 6 * MIB),
        ({"cpus": "1.5"}, 1.5),
        ({"pids_limit": "7"}, 7),
        ({"stop_signal": "SIGINT"}, "INT"),
        ({"stop_signal": 9}, "KILL"),
        ({"sample": "100ms"}, SECOND // 10),
        ({"sample": "off"}, None),
        ({"log_limit": "off"}, None),
        ({"log_limit": "1k"}, 1024),
        ({"command": ["a", "b c"]}, ("a", "b c")),
        ({"volume": ["/a:/b"]}, ("/a:/b",)),
        ({"name": "a" * 128}, "a" * 128),
    ],
)
def test_values_are_taken_as_people_write_them(options: dict[str, Any], taken: object) -> None:
    (option,) = options
    assert getattr(parse(**options), option) == taken


def test_what_was_not_asked_for_has_its_default() -> None:
    assert parse() == Spec(image="busybox")


def test_a_local_call_needs_no_image() -> None:
    assert Spec.parse(driver="local", command=["true"]).image is None


@given(SPECS)
def test_what_was_asked_for_makes_the_same_spec_again(options: dict[str, Any]) -> None:
    spec = Spec.parse(**options)
    assert Spec(**spec.asked()) == spec


@given(SPECS)
def test_what_was_asked_for_is_what_differs_from_the_defaults(options: dict[str, Any]) -> None:
    spec = Spec.parse(**options)
    default = Spec()
    assert spec.asked().keys() == {name for name in Spec._fields if getattr(spec, name) != getattr(default, name)}


# What is refused.


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"image": ""}, "IMAGE: no image given"),
        ({"nosuch": 1}, "--nosuch: there is no such option"),
        ({"command": "echo hi"}, "COMMAND: give a list, not the text 'echo hi'"),
        ({"command": ["a\0"]}, "COMMAND: contains a NUL character"),
        (
            {"command": ["\udcff"]},
            "COMMAND: contains bytes that are not UTF-8: neither engine nor ledger can take them",
        ),
        ({"volume": "/a:/b"}, "--volume: give a list, not the text '/a:/b'"),
        ({"memory": "5m"}, "--memory: the engine's minimum is 6m"),
        ({"memory": "much"}, "--memory: 'much' is not a size (write 65536, 64m or 1.5g)"),
        ({"memory": 0}, "--memory: must be more than zero"),
        ({"timeout": 0}, "--timeout: must be more than zero"),
        ({"timeout": "soon"}, "--timeout: 'soon' is not a duration (write 90s, 5m, 1h30m or 250ms)"),
        ({"timeout": -1}, "--timeout: -1 is out of range"),
        ({"timeout": float("nan")}, "--timeout: nan is out of range"),
        ({"prepare_timeout": 0}, "--prepare-timeout: must be more than zero"),
        ({"health_timeout": 0}, "--health-timeout: must be more than zero"),
        ({"sample": "50ms"}, "--sample: at least 100ms between samples (or off)"),
        ({"stop_signal": "FOO"}, "--stop-signal: 'FOO' is not a signal (write TERM, SIGTERM or 15)"),
        (
            {"name": "a b"},
            "--name: 'a b' is not a name (letters, digits, _ . - and a letter or digit first)",
        ),
        ({"no_healthcheck": True, "health_cmd": "true"}, "--no-healthcheck: contradicts --health-cmd"),
        ({"env": {"": "x"}}, "--env: a variable needs a name without '='"),
        ({"env": {"a=b": "x"}}, "--env: a variable needs a name without '='"),
        ({"pull": "sometimes"}, "--pull: input should be 'missing', 'always', 'never' or 'newer'"),
        ({"cpus": 0}, "--cpus: the engine's minimum is 0.01"),
    ],
)
def test_what_is_wrong_is_said_by_the_options_name(options: dict[str, Any], message: str) -> None:
    with pytest.raises(SpecError) as refused:
        parse(**options)
    assert str(refused.value) == message


@pytest.mark.parametrize("junk", [None, object(), [], {}, b"", 10**400, -(10**400), float("inf"), "\0"])
@pytest.mark.parametrize("option", Spec._fields)
def test_any_junk_is_taken_or_refused_by_name(option: str, junk: object) -> None:
    assert refused_option(**{option: junk}) in {None, option}


@pytest.mark.parametrize("name", ["", "-a", ".a", "a b", "a/b", "é", "a\n", "a" * 129])
def test_names_that_could_be_mistaken_are_refused(name: str) -> None:
    with pytest.raises(SpecError, match=r"^--name: "):
        parse(name=name)


def test_what_a_driver_cannot_honour_is_refused_and_named() -> None:
    with pytest.raises(SpecError, match=r"^--memory: the local driver cannot honour it") as refused:
        parse(memory="64m", workdir="/").require({"image", "workdir"}, "local")
    assert refused.value.option == "memory"


# What is recorded.


@st.composite
def leaky(draw: st.DrawFn) -> tuple[Spec, list[str]]:
    """A spec whose secrets stand in every place where a user could put them, and the secrets."""
    # Letters that are in no name of an option and in no fingerprint: what is found is a leak.
    value = st.text(st.sampled_from("XYZ%é "), min_size=SHORTEST, max_size=12)
    secrets = draw(st.dictionaries(st.sampled_from(("API_KEY", "my_token", "Password")), value, min_size=1))
    named = draw(st.dictionaries(st.sampled_from(("PLAIN", "OTHER")), value))
    said = draw(st.lists(st.sampled_from([*secrets.values(), *named.values()]), min_size=1, max_size=3))
    text = " - ".join(said)
    spec = parse(
        env={**secrets, **named, "SAYS": text, "OPTS_" + text.replace("=", ""): "x"},
        secret=tuple(named),
        command=("sh", "-c", text, *said),
        label={text: text, "a": said[0]},
        workdir=f"/{text}",
        volume=(f"/{text}:/x",),
        entrypoint=text,
        health_cmd=text,
    )
    return spec, [*secrets.values(), *named.values()]


@given(leaky())
def test_a_record_never_contains_the_value_of_a_secret(given: tuple[Spec, list[str]]) -> None:
    spec, secrets = given
    text = json.dumps(spec.record(key), ensure_ascii=False)
    assert [secret for secret in secrets if secret in text] == []


@given(leaky())
def test_a_record_has_a_fingerprint_for_each_secret(given: tuple[Spec, list[str]]) -> None:
    spec, _ = given
    assert spec.record(key)["secret"] == {name: key(spec.env[name]) for name in sorted(spec.secret_names())}


@given(NAMES, TEXT)
def test_a_variable_is_recorded_plainly_exactly_when_its_name_is_not_a_secrets(name: str, value: str) -> None:
    record = parse(env={name: value}).record(key)
    assert record.get("env") == (None if is_secret(name) else {name: value})


@given(SPECS)
def test_a_record_without_secrets_is_what_was_asked_for(options: dict[str, Any]) -> None:
    spec = Spec.parse(**options)
    assume(not spec.secret_names())
    assert json.dumps(spec.record(key)) == json.dumps(spec.asked())


@pytest.mark.parametrize("value", ["image", "command", "label"])
def test_a_secret_that_is_a_word_of_ours_does_not_rename_the_fields_of_the_record(value: str) -> None:
    record = parse(command=["x"], label={"a": "b"}, env={"TOKEN": value}).record(key)
    assert record.keys() == {"image", "command", "label", "secret"}


def test_even_a_secret_too_short_to_be_searched_for_has_no_value_on_record() -> None:
    record = parse(env={"TOKEN": "abc"}).record(key)
    assert record == {"image": "busybox", "secret": {"TOKEN": key("abc")}}


def test_a_secret_in_the_command_is_replaced_by_the_mark() -> None:
    record = parse(env={"TOKEN": "s3cret"}, command=["login", "--password=s3cret"]).record(key)
    assert record["command"] == ["login", f"--password={MARK}"]
