"""A call as it stood at a moment, for people."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import starmap
from typing import Any

from calls.cli import words
from calls.cli.events import said
from calls.cli.render import Column, Row, table
from machine.samples import METRICS
from machine.units import SECOND

_LABELLED = (
    Column("", lambda line: line["label"], width=len("deadline")),
    Column("", lambda line: line["text"], fold=True, coloured=True),
)


def show(found: Iterable[tuple[str, str]]) -> None:
    """Print what `lines` made; what has no text is left out."""
    table(({"label": label, "text": text} for label, text in found if text), _LABELLED, header=False)


def lines(stood: Row) -> Iterator[tuple[str, str]]:
    """What `Log.stood` gave, for people: a label (none where a line goes on), and text."""
    yield "call", stood["id"]
    if len(stood) == 1:
        return
    call = stood["call"]
    yield "name", call["name"] or ""
    when = f"{words.when(stood['at'])} (+{stood['t_seconds']:.3f}s)"
    yield "moment", f"{when}, after event {stood['seq']} of {stood['events']}"
    yield "event", f"{stood['event']['kind']} {words.pairs(said(stood['event']))}".rstrip()
    verdict = words.state(call) + (f"/{call['reason']}" if call["reason"] else "")
    yield "state", f"{verdict} for {words.span(stood['state_seconds'])}"
    yield "took", words.took(call)
    yield "health", stood["health"] or ""
    yield "deadline", _deadline(stood["deadline_seconds"])
    yield "owner", _owner(stood["owner"])
    for number, pending in enumerate(stood["pending"]):
        yield "" if number else "pending", _pending(pending)
    yield "sample", _sample(stood["sample"])
    for name, output in stood["output"].items():
        yield from _output(name, output)
    yield "gaps", str(stood["gaps"] or "")
    if stood["pruned"]:
        yield "pruned", f"{', '.join(stood['pruned'])}: not in the ledger any more, whatever the moment"


def _deadline(left: float | None) -> str:
    if left is None:
        return ""
    return f"in {words.span(left)}" if left >= 0 else f"passed {words.span(-left)} ago"


def _owner(owner: Mapping[str, Any] | None) -> str:
    if owner is None:
        return ""
    adopted = ", which adopted it" if owner["adopted"] else ""
    return f"{owner['host']}:{owner['pid']}, runner {words.short(owner['runner'])}{adopted}"


def _pending(pending: Mapping[str, Any]) -> str:
    more = words.pairs({name: value for name, value in pending.items() if name not in ("what", "seq", "since")})
    return f"{pending['what']}, since event {pending['seq']} {more}".rstrip()


def _sample(sample: Row | None) -> str:
    if sample is None:
        return ""
    metrics = {name: sample[name] for name in METRICS if sample[name] is not None}
    return f"+{sample['t_seconds']:.3f}s {' '.join(starmap(_metric, metrics.items()))}"


def _metric(name: str, value: float) -> str:
    what, _, unit = name.rpartition("_")
    known = {
        "ns": lambda: words.span(value / SECOND),
        "bytes": lambda: words.size(value),
        "pct": lambda: f"{value:.1f}%",
    }
    return f"{what}={known[unit]()}" if unit in known else f"{name}={value}"


def _output(name: str, output: Row) -> Iterator[tuple[str, str]]:
    if output["bytes"] is None:
        yield name, "not there any more"
    elif output["bytes"]:
        kept = "" if output["kept_bytes"] == output["bytes"] else f", {words.size(output['kept_bytes'])} of it kept"
        yield name, f"{words.size(output['bytes'])}{kept}; it ends:"
        yield from (("", line) for line in output["tail"])
