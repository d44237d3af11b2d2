"""The shell that is a hot container's own process: it carries out one command after the other, each a child of its own.

It reads from its standard input what it is to do, and marks in both streams where a command's output begins and
ends. A mark holds a random token that only the shell and we know, so what belongs to which command is certain; what
comes between two commands is of nobody. When the connection breaks, the input of the shell ends, and with it the
shell, as soon as the command has: its exit code is the command's.
"""

from __future__ import annotations

import os
import shlex
import threading
from collections.abc import Callable, Sequence
from typing import Protocol

from driver.protocol import STDERR, STDOUT

NOT_EXECUTABLE, NOT_FOUND = 126, 127
"""What a shell says of a command that is no program, and of one that is not there."""

# What a shell sets for itself a command does not get, unless the container has it; `exec` looks in PATH as we do.
# The pair of braces below, and the one around each command, keep an end in the middle from being carried out.
_PRELUDE = """{
calls_find() {
    case $1 in
    */*)
        [ -e "$1" ] || return 127
        [ -f "$1" ] && [ -x "$1" ] || return 126
        return 0
    esac
    calls_ifs=$IFS IFS=: calls_code=127
    for calls_at in $PATH; do
        [ -f "${calls_at:-.}/$1" ] || continue
        [ -x "${calls_at:-.}/$1" ] && calls_code=0 && break
        calls_code=126
    done
    IFS=$calls_ifs
    return $calls_code
}
calls_run() {
    calls_token=$1
    shift
    calls_find "$1"
    calls_code=$?
    if [ $calls_code != 0 ]; then
        echo "$calls_token-$calls_code"
        return $calls_code
    fi
    echo "$calls_token+"
    echo "$calls_token+" >&2
    (unset -v $calls_unset; exec "$@") </dev/null
    calls_code=$?
    echo "$calls_token=$calls_code"
    echo "$calls_token=" >&2
    return $calls_code
}
calls_unset=
for calls_name in OLDPWD PWD SHLVL; do
    case $calls_given in *" $calls_name "*) ;; *) calls_unset="$calls_unset $calls_name" ;; esac
done
}
"""


class Listener(Protocol):
    """Hears of one command, from the thread that reads."""

    def begun(self) -> None:
        """The command is about to be executed."""

    def refused(self, code: int) -> None:
        """It cannot be executed, and was not: NOT_FOUND or NOT_EXECUTABLE."""

    def output(self, stream: int, data: bytes) -> None:
        """It wrote this."""

    def ended(self, code: int) -> None:
        """It has ended, and all of its output has come."""

    def broke_off(self) -> None:
        """The connection is over before its end was heard of."""


class Shell:
    """One shell; one command at a time. What is read goes to `take`, from one thread."""

    def __init__(self) -> None:
        """Not connected yet."""
        self._send: Callable[[bytes], None]
        self._said: _Said | None = None
        self._lock = threading.Lock()
        self.over = False
        """Whether the connection is."""

    def begin(self, send: Callable[[bytes], None], environment: Sequence[str]) -> None:
        """Tell it what it needs to know. `send` writes to its input; `environment`: the names that were given to it."""
        self._send = send
        send(f"calls_given={shlex.quote(' ' + ' '.join(environment) + ' ')}\n{_PRELUDE}".encode())

    def carry_out(self, words: Sequence[str], listener: Listener) -> None:
        """Ask for a command. OSError when that cannot be said any more: it may have been, in part."""
        token = f"@{os.urandom(16).hex()}"  # a part of it right before it cannot be taken for its beginning
        with self._lock:
            self._said = _Said(token.encode(), listener)
        self._send(f"{{ calls_run {token} {shlex.join(words)}\n}}\n".encode(errors="surrogateescape"))

    def forget(self) -> None:
        """Nobody listens any more."""
        with self._lock:
            self._said = None

    def take(self, stream: int, data: bytes) -> None:
        """What it wrote."""
        with self._lock:
            said = self._said
        if said is not None:
            said.take(stream, data)

    def end(self) -> None:
        """Nothing more comes."""
        with self._lock:
            self.over, said = True, self._said
        if said is not None and not said.whole:
            said.listener.broke_off()


class _Said:
    """What is said of one command, and by it: told apart by the marks."""

    def __init__(self, token: bytes, listener: Listener) -> None:
        self.listener = listener
        self._token = token
        self._rest = {STDOUT: b"", STDERR: b""}
        self._begun: set[int] = set()
        self._ended: set[int] = set()
        self._code = 0
        self.whole = False
        """Whether it is over."""

    def take(self, stream: int, data: bytes) -> None:
        data = self._rest[stream] + data
        while (at := data.find(self._token)) >= 0 and (end := data.find(b"\n", at)) >= 0:
            self._pass_on(stream, data[:at])
            self._mark(stream, data[at + len(self._token) : end].decode())
            data = data[end + 1 :]
        kept = len(data) - at if at >= 0 else self._beginning(data)
        self._pass_on(stream, data[: len(data) - kept])
        self._rest[stream] = data[len(data) - kept :]

    def _beginning(self, data: bytes) -> int:
        """How many bytes at the end could be the beginning of a mark."""
        return next((n for n in range(len(self._token) - 1, 0, -1) if data.endswith(self._token[:n])), 0)

    def _pass_on(self, stream: int, data: bytes) -> None:
        if data and stream in self._begun - self._ended:
            self.listener.output(stream, data)

    def _mark(self, stream: int, mark: str) -> None:
        kind, code = mark[0], int(mark[1:] or 0)
        if kind == "+":
            self._begun.add(stream)
            if stream == STDOUT:
                self.listener.begun()
        elif kind == "-":
            self.whole = True
            self.listener.refused(code)
        else:
            self._ended.add(stream)
            self._code |= code  # said on the one, nothing on the other
            if len(self._ended) == len(self._rest):
                self.whole = True
                self.listener.ended(self._code)
