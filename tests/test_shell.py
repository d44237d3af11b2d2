"""The shell of a hot container, spoken to directly: what it carries out, and whose every byte is."""

from __future__ import annotations

import itertools
import os
import selectors
import shutil
import signal
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from running import until

from driver.docker.shell import NOT_EXECUTABLE, NOT_FOUND, Shell

SHELLS = [words for words in (["dash"], ["bash", "--posix"], ["bash"], ["busybox", "sh"]) if shutil.which(words[0])]
ENVIRONMENT = {"PATH": os.environ["PATH"], "GIVEN": "1"}


class Heard:
    """What a listener hears."""

    def __init__(self) -> None:
        self.said = {1: b"", 2: b""}
        self.news: list[Any] = []

    def begun(self) -> None:
        self.news.append("begun")

    def refused(self, code: int) -> None:
        self.news.append(("refused", code))

    def output(self, stream: int, data: bytes) -> None:
        assert "begun" in self.news or stream == 2
        self.said[stream] += data

    def ended(self, code: int) -> None:
        self.news.append(("ended", code))

    def broke_off(self) -> None:
        self.news.append("broke off")

    @property
    def over(self) -> bool:
        return bool(self.news) and self.news[-1] != "begun"


class Spoken:
    """A shell as a child of ours; `hear` passes on what it writes, a few bytes at a time."""

    def __init__(self, words: Sequence[str], environment: dict[str, str] = ENVIRONMENT, piece: int = 7) -> None:
        self.process = subprocess.Popen(
            words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, bufsize=0, env=environment,
            start_new_session=True,
        )  # fmt: skip
        self._piece = piece
        self._selector = selectors.DefaultSelector()
        for number, pipe in ((1, self.process.stdout), (2, self.process.stderr)):
            assert pipe is not None
            self._selector.register(pipe, selectors.EVENT_READ, number)
        self.shell = Shell()
        self.shell.begin(self._send, list(environment))

    def _send(self, data: bytes) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(data)

    def read(self) -> bool:
        """Pass on what there is; False at the end of both."""
        for key, _ in self._selector.select():
            data = os.read(key.fd, self._piece)
            if data:
                self.shell.take(key.data, data)
            else:
                self._selector.unregister(key.fd)
        if not self._selector.get_map():
            self.shell.end()
            return False
        return True

    def carry_out(self, *words: str) -> Heard:
        """A command to its end."""
        heard = Heard()
        self.shell.carry_out(words, heard)
        while not heard.over and self.read():
            pass
        return heard


@contextmanager
def spoken(words: Sequence[str], **options: Any) -> Iterator[Spoken]:
    """A shell that is gone afterwards."""
    made = Spoken(words, **options)
    try:
        yield made
    finally:
        with made.process, suppress(ProcessLookupError):
            os.killpg(made.process.pid, signal.SIGKILL)


@pytest.fixture(params=SHELLS, ids=" ".join)
def shell(request: pytest.FixtureRequest) -> Iterator[Spoken]:
    """Each kind of shell that there is here."""
    with spoken(request.param) as made:
        yield made


def script(text: str) -> list[str]:
    return ["sh", "-c", text]


def test_each_command_has_its_own_output_and_code(shell: Spoken) -> None:
    first = shell.carry_out(*script("printf one; printf two >&2; exit 3"))
    second = shell.carry_out(*script("echo three"))
    assert (first.said, first.news) == ({1: b"one", 2: b"two"}, ["begun", ("ended", 3)])
    assert (second.said, second.news) == ({1: b"three\n", 2: b""}, ["begun", ("ended", 0)])


def test_a_signal_is_an_exit_code_above_128(shell: Spoken) -> None:
    assert shell.carry_out(*script("kill -9 $$")).news[-1] == ("ended", 137)


def test_the_default_of_each_signal_is_in_force(shell: Spoken) -> None:
    assert shell.carry_out(*script("kill -INT $$; echo ignored")).news[-1] == ("ended", 130)


@pytest.mark.parametrize(("word", "code"), [("nosuch", NOT_FOUND), ("/nosuch", NOT_FOUND), ("/etc", NOT_EXECUTABLE)])
def test_what_cannot_be_executed_is_refused_and_nothing_is_said(shell: Spoken, word: str, code: int) -> None:
    heard = shell.carry_out(word)
    assert (heard.news, heard.said) == ([("refused", code)], {1: b"", 2: b""})
    assert shell.carry_out("true").news == ["begun", ("ended", 0)]


def test_words_of_the_shells_own_are_no_commands(shell: Spoken) -> None:
    assert shell.carry_out("calls_find", "sh").news == [("refused", NOT_FOUND)]
    assert shell.carry_out("export").news == [("refused", NOT_FOUND)]


def test_its_input_is_empty(shell: Spoken) -> None:
    assert shell.carry_out("cat").said[1] == b""
    assert shell.carry_out("cat").news[-1] == ("ended", 0)


def test_the_environment_is_the_containers(shell: Spoken) -> None:
    said = shell.carry_out("env").said[1].decode().splitlines()
    assert sorted(line for line in said if not line.startswith("_=")) == sorted(
        f"{name}={value}" for name, value in ENVIRONMENT.items()
    )


@pytest.mark.parametrize("words", SHELLS, ids=" ".join)
def test_what_was_given_is_kept(words: list[str]) -> None:
    with spoken(words, environment={**ENVIRONMENT, "OLDPWD": "/tmp"}) as shell:
        assert b"OLDPWD=/tmp\n" in shell.carry_out("env").said[1]


def test_what_comes_between_two_commands_is_of_nobody(shell: Spoken, tmp_path: Path) -> None:
    said = tmp_path / "said"
    shell.carry_out(*script(f"(sleep 0.1; echo late; echo late >&2; echo > {said}) & echo early"))
    until(said.exists, "what comes late")
    assert shell.carry_out(*script("echo mine; echo mine >&2")).said == {1: b"mine\n", 2: b"mine\n"}


def test_half_a_command_is_not_carried_out(shell: Spoken, tmp_path: Path) -> None:
    whole: list[bytes] = []
    other = Shell()
    other.begin(whole.append, [])
    other.carry_out(["touch", str(tmp_path / "made")], Heard())
    pipe = shell.process.stdin
    assert pipe is not None
    pipe.write(whole[1].rstrip(b"}\n"))
    pipe.close()
    shell.process.wait()
    assert not list(tmp_path.iterdir())


def test_when_its_input_ends_it_ends_as_the_command_did(shell: Spoken) -> None:
    heard = Heard()
    shell.shell.carry_out(script("echo up; sleep 0.2; exit 7"), heard)
    assert shell.process.stdin is not None
    shell.process.stdin.close()
    assert shell.process.wait() == 7


def test_an_end_that_was_not_heard_of_broke_off(shell: Spoken) -> None:
    heard = Heard()
    shell.shell.carry_out(script("echo up; sleep 600"), heard)
    while heard.said[1] != b"up\n":
        shell.read()
    os.killpg(shell.process.pid, signal.SIGKILL)
    while shell.read():
        pass
    assert (heard.news, shell.shell.over) == (["begun", "broke off"], True)


@given(st.data())
def test_marks_are_found_however_the_stream_is_cut(data: st.DataObject) -> None:
    sent: list[bytes] = []
    shell, heard = Shell(), Heard()
    shell.begin(sent.append, [])
    shell.carry_out(["true"], heard)
    token = sent[1].split()[2]
    pieces = st.binary(max_size=8) | st.integers(1, 32).map(lambda n: token[:n])
    noise, said, after = (b"".join(data.draw(st.lists(pieces, max_size=5))) for _ in range(3))
    for stream, mark in ((2, b"=\n"), (1, b"=3\n")):
        whole = noise + token + b"+\n" + said + token + mark + after
        cuts = sorted(data.draw(st.sets(st.integers(0, len(whole)))))
        for start, end in itertools.pairwise([0, *cuts, len(whole)]):
            shell.take(stream, whole[start:end])
    assert heard.said == {1: said, 2: said}
    assert heard.news == ["begun", ("ended", 3)]
