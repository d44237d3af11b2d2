"""What goes through `calls run`: output out and input in, byte for byte, once, and as the ledger keeps it."""

from __future__ import annotations

import fcntl
import hashlib
import os
import random
import struct
import subprocess
import termios
from collections.abc import Iterator
from pathlib import Path

import docker
import pytest
import running
from running import IMAGE, LIMIT, RUN, calls, events, kept, run, shell, shown, under, until, verdict

pytestmark = pytest.mark.engine

MIB = 2**20
BINARY = 'i=0; while [ $i -lt 256 ]; do printf "\\\\$(printf %03o $i)"; i=$((i + 1)); done'
POUR = "head -c 16777216 /dev/urandom >/data; sha256sum </data >&2; cat /data"


@pytest.fixture(autouse=True)
def nothing_left(engine: docker.APIClient) -> Iterator[None]:
    with running.nothing_left(engine):
        yield


def digest(data: bytes) -> str:
    """As sha256sum has it."""
    return hashlib.sha256(data).hexdigest()


def full(pipe: int) -> None:
    """Wait until a pipe holds so much that its writer may have to wait: a full one can be half empty."""
    held = struct.Struct("i")
    until(lambda: held.unpack(fcntl.ioctl(pipe, termios.FIONREAD, bytes(held.size)))[0] >= 32_000, "a full pipe")


def test_the_two_streams_are_apart() -> None:
    script = "echo one; echo two >&2; printf three; printf four >&2"
    assert run(IMAGE, "sh", "-c", script) == (0, b"one\nthree", b"two\nfour")
    assert (kept(1), kept(2)) == (b"one\nthree", b"two\nfour")


def test_every_byte_there_is() -> None:
    every = bytes(range(256))
    assert run(IMAGE, "sh", "-c", f"{BINARY}; ({BINARY}) >&2") == (0, every, every)
    assert (kept(1), kept(2)) == (every, every)


def test_much_output_arrives_once_and_is_kept_whole() -> None:
    said = run("--log-limit", "64m", IMAGE, "sh", "-c", POUR)
    assert (said.status, len(said.out)) == (0, 16 * MIB)
    assert said.err.decode() == f"{digest(said.out)}  -\n"
    assert digest(kept(1)) == digest(said.out)
    assert digest(calls("logs", "@last", "--stdout").out) == digest(said.out)
    assert "output-cut" not in running.kinds()


def test_of_more_than_the_limit_head_and_tail_are_kept() -> None:
    said = run("--log-limit", "1m", IMAGE, "sh", "-c", POUR)
    assert said.err.decode() == f"{digest(said.out)}  -\n"
    assert kept(1) == said.out[: MIB // 2] + said.out[-MIB // 2 :]
    (cut,) = [event["data"] for event in events() if event["kind"] == "output-cut"]
    assert cut == {"stream": "stdout", "offset": MIB // 2, "lost": 15 * MIB}
    assert kept(2) == said.err
    missing = f"calls: {15 * MIB} bytes of stdout are missing here: --log-limit was reached\n"
    assert calls("logs", "@last", "--stdout") == (0, kept(1), missing.encode())


def test_a_reader_that_takes_its_time_loses_nothing() -> None:
    script = "i=0; while [ $i -lt 60000 ]; do echo 0123456789abcdef; i=$((i + 1)); done"
    with under(*RUN, IMAGE, "sh", "-c", script) as call:
        call.hear(b"0123456789abcdef\n")
        assert call.process.stdout is not None
        full(call.process.stdout.fileno())
        said = call.end()
    assert said == (0, b"0123456789abcdef\n" * 60_000, b"")
    assert kept(1) == said.out


def test_input() -> None:
    data = random.Random(1).randbytes(5 * MIB + 1)
    said = run("-i", IMAGE, "sh", "-c", "tee /data; sha256sum </data >&2", stdin=data)
    assert (said.status, digest(said.out)) == (0, digest(data))
    assert said.err.decode() == f"{digest(data)}  -\n"


def test_input_that_nobody_reads_ends_nothing() -> None:
    assert run("-i", IMAGE, "sh", "-c", "echo done; exit 3", stdin=bytes(MIB)) == (3, b"done\n", b"")


def test_input_is_passed_on_as_it_comes() -> None:
    with under(*RUN, "-i", IMAGE, "cat", stdin=subprocess.PIPE) as call:
        assert call.process.stdin is not None
        for line in (b"one\n", b"two\n"):
            call.process.stdin.write(line)
            call.hear(line)
        until(lambda: shown()["state"] == "running", "the start to be recorded")
        assert call.end() == (0, b"one\ntwo\n", b"")


def test_without_i_there_is_no_input() -> None:
    assert run(IMAGE, "cat", stdin=b"not for it") == (0, b"", b"")


# A terminal or pipe may be non-blocking because of somebody who has it, too.


def test_output_to_what_must_not_block() -> None:
    source, target = os.pipe()
    os.set_blocking(target, False)
    with under(*RUN, IMAGE, "sh", "-c", POUR, stdout=target) as call, os.fdopen(source, "rb") as reader:
        os.close(target)
        full(source)
        out = reader.read()
        status, _, err = call.end()
    assert (status, len(out), err.decode()) == (0, 16 * MIB, f"{digest(out)}  -\n")


def test_input_from_what_must_not_block() -> None:
    source, target = os.pipe()
    os.set_blocking(source, False)
    with under(*RUN, "-i", IMAGE, "cat", stdin=source) as call, os.fdopen(target, "wb", buffering=0) as writer:
        os.close(source)
        writer.write(b"one\n")
        call.hear(b"one\n")
        writer.write(b"two\n")
        writer.close()
        assert call.end() == (0, b"one\ntwo\n", b"")


def test_a_reader_that_goes_away_ends_the_call() -> None:
    script = f'"$@" {" ".join(RUN)} --stop-timeout 0 {IMAGE} yes 2>/dev/null | head -n 1; echo $?'
    done = subprocess.run(shell(script), capture_output=True, timeout=LIMIT, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"y\n0\n", b"")
    running.until(running.settled, "the end of the call")
    assert verdict() == ("cancelled", "user", 137)
    (asked,) = [event["data"] for event in events() if event["kind"] == "cancel-requested"]
    assert asked["comment"] == "nobody reads the output any more"


def test_a_reader_of_both_streams_that_goes_away() -> None:
    with under(*RUN, "--stop-timeout", "0", IMAGE, "yes", stderr=subprocess.STDOUT) as call:
        call.hear(b"y\n")
        assert call.process.stdout is not None
        call.process.stdout.close()
        assert call.process.wait(LIMIT) == 130
    assert verdict() == ("cancelled", "user", 137)


def test_a_stream_that_cannot_be_written_is_told_and_the_other_goes_on() -> None:
    script = "trap 'echo over >&2; exit 4' TERM; echo one; while :; do sleep 0.05; done"
    with Path("/dev/full").open("wb") as full, under(*RUN, IMAGE, "sh", "-c", script, stdout=full) as call:
        said = call.end()
    why = "the output cannot be passed on: No space left on device"
    assert said.status == 130
    assert said.err.startswith(f"calls: {why}\nover\ncalls: cancelled/user, exit code 4".encode())
    assert [event["data"]["comment"] for event in events() if event["kind"] == "cancel-requested"] == [why]
    assert (kept(1), kept(2)) == (b"one\n", b"over\n")


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_streams_that_are_not_there(closed: str, ledger: Path) -> None:
    """Else the ledger's own file could be number 1, and get the output."""
    script = f'"$@" {" ".join(RUN)} -i {IMAGE} sh -c "echo out; echo err >&2; cat; exit 3" {closed}'
    done = subprocess.run(shell(script), input=b"", capture_output=True, timeout=LIMIT, check=False)
    out = b"" if ">&-" in closed.replace("2>&-", "") else b"out\n"
    err = b"" if "2>&-" in closed else b"err\n"
    assert (done.returncode, done.stdout, done.stderr) == (3, out, err)
    assert (kept(1), kept(2)) == (b"out\n", b"err\n")
    assert ledger.read_bytes().startswith(b"SQLite format 3\0")
