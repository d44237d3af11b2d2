"""What the tests of local processes share: preparing and starting them, and waiting for an end."""

from __future__ import annotations

import os
import select
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from contract import LIMIT, Ear

from calls.clock import SystemClock
from driver.local import LocalContainer, LocalDriver
from machine.spec import Spec
from machine.units import SECOND

MIB = 2**20
Prepare = Callable[..., tuple[LocalContainer, Ear]]


@contextmanager
def preparing(driver: LocalDriver) -> Iterator[Prepare]:
    """A function that prepares a command with options; whatever it prepared is removed."""
    prepared: list[LocalContainer] = []

    def prepare(*command: str, **options: Any) -> tuple[LocalContainer, Ear]:
        ear = Ear(SystemClock())
        spec = Spec.parse(driver="local", command=command, **options)
        prepared.append(driver.prepare(f"call-{len(prepared)}", spec, ear))
        return prepared[-1], ear

    yield prepare
    for container in prepared:
        container.remove()


def starting(prepare: Prepare) -> Prepare:
    """As `prepare`, and started."""

    def start(*command: str, **options: Any) -> tuple[LocalContainer, Ear]:
        container, ear = prepare(*command, **options)
        container.start()
        return container, ear

    return start


def ends(pid: int) -> bool:
    """Whether the process is over, or comes to its end now: whoever was killed needs a moment to die."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    over, _, _ = select.select([descriptor], [], [], LIMIT / SECOND)
    os.close(descriptor)
    return bool(over)


def known(value: int | None) -> int:
    """`value`, which must not be None."""
    assert value is not None
    return value
