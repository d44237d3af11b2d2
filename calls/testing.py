"""For tests of programs that carry out calls: a driver that does what a script says, on a clock of its own.

docs/drivers.md shows how. A `Runner` gets the `ScriptedDriver`, and its `Schedule` as the clock; nothing really waits.
"""

from __future__ import annotations

from driver.protocol import Destroyed, Died, ForeignSignal, Froze, HealthCheck, HealthStatus, OomKilled, Thawed
from driver.scripted import Schedule, Script, ScriptedContainer, ScriptedDriver, Step, exits, happens, writes
from machine.errors import DriverError
from machine.samples import Sample
from machine.states import Reason

__all__ = [
    "Destroyed",
    "Died",
    "DriverError",
    "ForeignSignal",
    "Froze",
    "HealthCheck",
    "HealthStatus",
    "OomKilled",
    "Reason",
    "Sample",
    "Schedule",
    "Script",
    "ScriptedContainer",
    "ScriptedDriver",
    "Step",
    "Thawed",
    "exits",
    "happens",
    "writes",
]
