"""The Docker Engine as a driver, through docker-py. The only place that knows docker and requests.

errors    foreign errors become ours, by one table
engine    one engine: the connection and the requests
config    a spec as the engine's create request
images    which image, and fetching it
streams   the connections of output and input, taken apart
output    one container's output: attached, or taken over
events    the engine's events, read by one thread for all calls
stats     the engine's own stats stream, for engines whose control groups cannot be seen
container one container of one call
driver    the driver itself
"""

from driver.docker.driver import DockerDriver

__all__ = ["DockerDriver"]
