"""The Docker Engine as a driver, through docker-py. The only place that knows docker and requests.

errors          foreign errors become ours, by one table
engine          one engine: the connection and the requests
transport       how requests travel: one pool of connections
door            every request passes it, and is measured
unending        answers that do not end by themselves: events, samples
config          a spec as the engine's create request
creation        creating a container once, however often it is asked for
resources       networks and volumes, made when missing and removed when ours
images          which image, and when to fetch it
auth            credentials for a registry
pulling         fetching images; calls share a transfer
transfer        one transfer: the engine's pull, its progress, and when to try again
stored          the images that the engine has: loading and removing them
streams         the connections of output and input, taken apart
output          one container's output: attached, or taken over
events          the engine's events, read by one thread for all calls
stats           the engine's own stats stream, for engines whose control groups cannot be seen
groups          the control groups of containers
hearing         what the events say of one container
container       one container of one call
inside          a look into a running container: its processes, another command in it
warm            what a pool of networks is to be
pool            holders of ready networks, and containers that join them
hot             the containers that stay for several calls
hot_container   one of them
shell           what it runs: a shell that carries out commands
hot_call        one call in a hot container
hot_shell       one whose command the shell carries out
hot_exec        one whose command the engine carries out
command_output  what that writes
driver          the driver itself
"""

from driver.docker.driver import DockerDriver

__all__ = ["DockerDriver"]
