"""One container that follows a script, on a clock of its own."""

from __future__ import annotations

import queue
from contextlib import suppress

from contract import Ear

from driver.protocol import Fact
from driver.scripted import Schedule, Script, ScriptedContainer, ScriptedDriver
from machine.spec import Spec

SPEC = Spec.parse(driver="scripted", image="img", command=["anything"])


def play(script: Script, *, start: bool = True) -> tuple[Schedule, ScriptedContainer, Ear]:
    """A container of `script`, started, with the clock it lives by and the ear that hears of it."""
    schedule = Schedule()
    ear = Ear(schedule)
    container = ScriptedDriver(schedule, script).prepare("u", SPEC, ear)
    if start:
        container.start()
    return schedule, container, ear


def heard(ear: Ear) -> list[Fact]:
    """All facts that the script has in store for the next half minute."""
    with suppress(queue.Empty):
        while True:
            ear.hear()
    return ear.facts
