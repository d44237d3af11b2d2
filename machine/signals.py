"""Signals by name and number, as people and engines write them."""

from __future__ import annotations

import signal


def signal_number(name: str | int) -> int:
    """`"TERM"`, `"SIGTERM"`, `"15"` or 15 -> 15. ValueError for what is no signal."""
    text = str(name).strip().upper()
    if text.isascii() and text.isdecimal():
        number = int(text)
        if 1 <= number <= 64:
            return number
    else:
        member = signal.Signals.__members__.get(text if text.startswith("SIG") else "SIG" + text)
        if member is not None:
            return int(member)
    raise ValueError(f"{name!r} is not a signal (write TERM, SIGTERM or 15)")


def signal_name(number: int) -> str:
    """15 -> `"TERM"`; a real-time signal without a name -> its number."""
    try:
        return signal.Signals(number).name.removeprefix("SIG")
    except ValueError:
        return str(number)
