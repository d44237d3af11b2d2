"""From options to a spec: variables, env-files, and secrets from where they are kept. What is wrong is named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from calls.options import build_spec
from machine.errors import SpecError

SECRET = "hunter2-correct-horse"


@pytest.fixture
def env_file(tmp_path: Path) -> Path:
    return tmp_path / "some.env"


@pytest.fixture(autouse=True)
def outside(monkeypatch: pytest.MonkeyPatch) -> None:
    """What our own environment has."""
    monkeypatch.setenv("OUTSIDE", "from outside")
    monkeypatch.setenv("KEPT", SECRET)
    monkeypatch.delenv("NOWHERE", raising=False)


def env(**options: Any) -> dict[str, str]:
    """The variables that a call with these options gets."""
    return build_spec("busybox", **options).env


def refusal(**options: Any) -> str:
    """What is said of these options."""
    with pytest.raises(SpecError) as refused:
        build_spec("busybox", **options)
    return str(refused.value)


# Variables and labels.


def test_variables_as_a_dict_or_as_a_list_are_the_same() -> None:
    assert env(env={"A": "1", "B": "x=y"}) == env(env=["A=1", "B=x=y"]) == {"A": "1", "B": "x=y"}


def test_a_name_alone_takes_the_value_from_our_environment() -> None:
    assert env(env=["OUTSIDE"]) == {"OUTSIDE": "from outside"}


def test_a_name_alone_that_is_not_set_is_left_out_as_docker_does() -> None:
    assert env(env=["NOWHERE"]) == {}


def test_an_empty_value_is_a_value() -> None:
    assert env(env=["OUTSIDE="]) == {"OUTSIDE": ""}


def test_a_variable_without_a_name_is_refused() -> None:
    assert refusal(env=["=x"]).startswith("--env: ")


def test_a_variable_without_a_name_is_refused_without_repeating_its_value() -> None:
    assert SECRET not in refusal(env=[f"={SECRET}"])


def test_labels_as_a_dict_or_as_a_list_are_the_same() -> None:
    given = build_spec("busybox", label=["a=1", "b"]).label
    assert given == build_spec("busybox", label={"a": "1", "b": ""}).label == {"a": "1", "b": ""}


def test_a_label_without_a_name_is_refused() -> None:
    assert refusal(label=["=x"]) == "--label: a label needs a name (write NAME=value)"


def test_what_is_none_was_not_asked_for() -> None:
    assert build_spec("busybox", timeout=None, name=None, env=None).asked() == {"image": "busybox"}


def test_a_command_in_one_text_is_refused_and_not_split() -> None:
    with pytest.raises(SpecError, match=r"^COMMAND: give a list"):
        build_spec("busybox", "echo 'a b'")


# Env-files.


def test_an_env_file_has_a_variable_a_line(env_file: Path) -> None:
    env_file.write_text("# comment\n\n  A=1\nB=x = y # kept\nOUTSIDE\nNOWHERE\nC=\n", encoding="utf-8")
    assert env(env_file=[env_file]) == {"A": "1", "B": "x = y # kept", "OUTSIDE": "from outside", "C": ""}


def test_quotes_in_an_env_file_are_part_of_the_value_as_with_docker(env_file: Path) -> None:
    env_file.write_text("A=\"x\"\nB='y'\n", encoding="utf-8")
    assert env(env_file=env_file) == {"A": '"x"', "B": "'y'"}


def test_an_env_file_may_begin_with_a_byte_order_mark_and_end_its_lines_as_windows_does(env_file: Path) -> None:
    env_file.write_bytes(b"\xef\xbb\xbfA=1\r\nB=2\r\n")
    assert env(env_file=env_file) == {"A": "1", "B": "2"}


@pytest.mark.parametrize("character", ["\f", "\v", "\x1c", "\x85", "\u2028"])
def test_only_a_line_feed_ends_a_line_of_an_env_file(env_file: Path, character: str) -> None:
    env_file.write_text(f"A=one{character}two\nB=2\n", encoding="utf-8")
    assert env(env_file=env_file) == {"A": f"one{character}two", "B": "2"}


def test_a_later_env_file_goes_before_an_earlier_one_and_a_flag_before_both(env_file: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.env"
    env_file.write_text("A=1\nB=1\nC=1\n", encoding="utf-8")
    other.write_text("B=2\nC=2\n", encoding="utf-8")
    assert env(env_file=[env_file, other], env=["C=3"]) == {"A": "1", "B": "2", "C": "3"}


def test_an_env_file_that_is_missing_is_named(tmp_path: Path) -> None:
    assert (
        refusal(env_file=[tmp_path / "nosuch"])
        == f"--env-file: cannot read {tmp_path}/nosuch: No such file or directory"
    )


def test_an_env_file_that_is_no_text_is_named(env_file: Path) -> None:
    env_file.write_bytes(b"A=\xff\n")
    assert refusal(env_file=[env_file]).startswith(f"--env-file: cannot read {env_file}: ")


@pytest.mark.parametrize("line", ["=x", "MY VAR=x", "MY\tVAR"])
def test_a_line_without_a_proper_name_is_told_by_its_number(env_file: Path, line: str) -> None:
    env_file.write_text(f"A=1\n{line}\n", encoding="utf-8")
    assert refusal(env_file=[env_file]).startswith(f"--env-file: {env_file}, line 2: ")


def test_a_bad_line_is_told_without_its_value(env_file: Path) -> None:
    env_file.write_text(f"MY TOKEN={SECRET}\n", encoding="utf-8")
    assert SECRET not in refusal(env_file=[env_file])


# Secrets.


@pytest.fixture
def sources(tmp_path: Path) -> dict[str, str]:
    """Each way to give a secret of the name KEPT."""
    file = tmp_path / "secret"
    file.write_text(f"{SECRET}\n", encoding="utf-8")
    return {"name": "KEPT", "env": "KEPT=env:KEPT", "file": f"KEPT=file:{file}", "cmd": f"KEPT=cmd:cat {file}"}


@pytest.mark.parametrize("source", ["name", "env", "file", "cmd"])
def test_a_secret_comes_from_where_it_is_kept_without_the_last_line_feed(sources: dict[str, str], source: str) -> None:
    spec = build_spec("busybox", secret=[sources[source]])
    assert (spec.env, spec.secret) == ({"KEPT": SECRET}, ("KEPT",))


@pytest.mark.parametrize("source", ["name", "env", "file", "cmd"])
def test_the_record_of_a_secret_has_no_value(sources: dict[str, str], source: str) -> None:
    assert SECRET not in str(build_spec("busybox", secret=[sources[source]]).record(lambda _: "print"))


def test_a_secret_goes_before_a_variable_of_its_name() -> None:
    assert env(env=["KEPT=plain"], secret=["KEPT"]) == {"KEPT": SECRET}


@pytest.mark.parametrize("content", ["a\r\nb", "a\n\nb\n"])
def test_a_secret_in_a_file_is_taken_byte_for_byte_but_for_one_last_line_feed(tmp_path: Path, content: str) -> None:
    file = tmp_path / "secret"
    file.write_bytes(content.encode() + b"\n")
    assert env(secret=[f"A=file:{file}"]) == {"A": content}


@pytest.mark.parametrize("content", ["a\\r\\nb", "a\\n\\nb\\n"])
def test_a_secret_by_a_command_is_taken_byte_for_byte_but_for_one_last_line_feed(content: str) -> None:
    assert env(secret=[f"A=cmd:printf '{content}\\n'"]) == {"A": content.encode().decode("unicode_escape")}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("", "a secret needs a name (write NAME, NAME=env:VAR, NAME=file:PATH or NAME=cmd:COMMAND)"),
        (f"=env:{SECRET}", "a secret needs a name (write NAME, NAME=env:VAR, NAME=file:PATH or NAME=cmd:COMMAND)"),
        (f"A={SECRET}", "A: write A=env:VAR, A=file:PATH or A=cmd:COMMAND, not the value"),
        (f"A=xyz:{SECRET}", "A: write A=env:VAR, A=file:PATH or A=cmd:COMMAND, not the value"),
        (f"A={SECRET}:x", "A: write A=env:VAR, A=file:PATH or A=cmd:COMMAND, not the value"),
        ("A=env:NOWHERE", "A: NOWHERE is not set in the environment"),
        ("NOWHERE", "NOWHERE: NOWHERE is not set in the environment"),
        ("A=file:/nosuch", "A: cannot read /nosuch: No such file or directory"),
        (f"A=cmd:echo {SECRET}; exit 3", "A: its command ended with status 3"),
    ],
)
def test_what_is_wrong_with_a_secret_is_said_without_repeating_it(given: str, message: str) -> None:
    assert refusal(secret=[given]) == f"--secret: {message}"


def test_a_secret_file_that_is_no_text_is_refused_without_repeating_it(tmp_path: Path) -> None:
    file = tmp_path / "secret"
    file.write_bytes(SECRET.encode() + b"\xff")
    message = refusal(secret=[f"A=file:{file}"])
    assert message.startswith(f"--secret: A: cannot read {file}")
    assert SECRET not in message


def test_a_command_that_prints_no_text_is_refused_without_repeating_it() -> None:
    message = refusal(secret=[f"A=cmd:printf '{SECRET}\\377'"])
    assert message.startswith("--secret: A: ")
    assert SECRET not in message


def test_a_secret_with_a_nul_is_refused_without_repeating_it() -> None:
    message = refusal(secret=[f"A=cmd:printf '{SECRET}\\0'"])
    assert message == "--env: contains a NUL character"
