"""call-ledger: the flight recorder for container calls.

>>> import calls
>>> with calls.Runner(ledger="x.db") as runner:                                   # doctest: +SKIP
...     call = runner.run("busybox", ["true"], network="none", timeout=10)
...     call.state, call.exit_code
('success', 0)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from calls.outcome import Call
    from calls.runner import Runner
    from calls.slots import CallFuture
    from machine.errors import (
        CallsError,
        DriverError,
        IllegalTransitionError,
        LedgerError,
        SpecError,
        UnknownCallError,
        UsageError,
    )

__all__ = [
    "Call",
    "CallFuture",
    "CallsError",
    "DriverError",
    "IllegalTransitionError",
    "LedgerError",
    "Runner",
    "SpecError",
    "UnknownCallError",
    "UsageError",
]

_RUNNER = frozenset(("Call", "CallFuture", "Runner"))


def __getattr__(name: str) -> Any:
    # Lazily: `calls --help` must not wait for what only a running call needs.
    if name not in __all__:
        raise AttributeError(f"module 'calls' has no attribute {name!r}")
    if name in _RUNNER:
        import calls.runner as home
    else:
        import machine.errors as home  # type: ignore[no-redef]
    return getattr(home, name)
