"""A call as a process of this host: no image, no isolation, the same record.

container  the process: its start, its group, its exact end
streams    its output and input
meter      what it uses
family     its processes, and whether it is stopped
adopted    the process of a call whose runner is gone
search     finding such processes
driver     the driver itself
"""

from driver.local.container import NOT_ISOLATED, LocalContainer
from driver.local.driver import LocalDriver

__all__ = ["NOT_ISOLATED", "LocalContainer", "LocalDriver"]
