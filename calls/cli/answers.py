"""Waiting until what was asked of a call that runs was done: whoever conducts it does it, and its log says so."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from functools import partial
from itertools import dropwhile
from pathlib import Path

from calls.cli.common import attended, put, request
from ledger.account import Row
from ledger.read import Reader
from machine.errors import CallEndedError, NotRunningError, UndoneError
from machine.facts import Fact
from machine.states import REQUESTS, STARTED, Kind, State

PATIENCE = 15.0
"""Seconds after which nobody seems to answer: a runner looks five times a second, a new one begins in one."""

Answered = Callable[[Row], bool]
"""Whether an event shows that it is done; it is shown the request itself first, and then what came after it."""


def ask(path: Path, calls: Sequence[str], form: str, fact: Fact, answered: Answered) -> int:
    """Write what is asked for into the log of each call, and wait until it was done. Prints each CALL as it was given.

    -> 0; 1 when one of them does not run, 2 when it was not done: refused, or nobody answered.
    """
    return request(path, calls, form, fact, partial(_ask, answered))


def must_run(reader: Reader, call: str) -> int:
    """The call that a CALL means. NotRunningError or CallEndedError unless it runs."""
    call_id = reader.resolve(call)
    shown = reader.show(call_id)
    if State(shown["state"]).terminal:
        raise CallEndedError(f"{call} has ended already: {shown['state']}/{shown['reason']}")
    if shown["state"] not in STARTED:
        raise NotRunningError(f"{call} has not started yet: it is {shown['state']}")
    return call_id


def _ask(answered: Answered, reader: Reader, append: Callable[..., None], call: str, fact: Fact) -> int:
    call_id = must_run(reader, call)
    before = reader.show(call_id)["events"]
    put(reader, append, call, fact)
    until = time.monotonic() + PATIENCE
    for _ in attended(reader, call_id):
        if _done(reader.events(call_id, before), call, fact, answered):
            break
        if time.monotonic() >= until:
            raise UndoneError(f"{call}: it was asked, and nobody has answered in {PATIENCE:.0f} s (see calls events)")
    return call_id


def _done(events: Sequence[Row], call: str, fact: Fact, answered: Answered) -> bool:
    (what,) = [what for what, kind in REQUESTS.items() if kind is fact.kind]
    asked = fact.kind, json.loads(fact.dump())
    for event in dropwhile(lambda event: (event["kind"], event["data"]) != asked, events):
        if answered(event):
            return True
        if event["kind"] == Kind.SIGNALLED and event["data"]["why"] == what and "error" in event["data"]:
            raise UndoneError(f"{call}: {event['data']['error']}")
        if State(event["state"]).terminal:
            raise CallEndedError(f"{call} has ended meanwhile: {event['state']}")
    return False
