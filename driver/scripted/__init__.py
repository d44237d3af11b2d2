"""A driver whose containers do what a script says, on a clock that stands still between two events.

For tests of programs that carry out calls: no engine, no threads, nothing really waits. A `Script` says
what happens to a container and when; a `Schedule` lets time pass, and it happen, in its `get`.

>>> schedule = Schedule()
>>> driver = ScriptedDriver(schedule, Script([writes(b"hello"), exits(3, after=2.5)]))

schedule  the clock
script    what a container does
process   a container as it is, whoever holds it
driver    the driver, and its containers as it holds them
"""

from driver.scripted.driver import ScriptedContainer, ScriptedDriver
from driver.scripted.schedule import Schedule
from driver.scripted.script import Script, Step, exits, happens, writes

__all__ = ["Schedule", "Script", "ScriptedContainer", "ScriptedDriver", "Step", "exits", "happens", "writes"]
