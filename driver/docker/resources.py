"""Networks and volumes that calls need: made where they are missing, and removed when no call needs them any more.

What is made carries the labels of the call it is made for. Only what carries our ledger is ever removed: a namesake
that was there before is used and left alone, and so is what a call with `--keep` has made, which is not labelled.
"""

from __future__ import annotations

import re
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import docker

from driver.docker.config import endpoint, networks
from driver.docker.engine import nanoseconds
from driver.docker.errors import speaking, status
from driver.protocol import LABEL, Labels, Leftover
from machine.errors import DriverError
from machine.networks import is_named
from machine.spec import Spec
from machine.states import Reason

_MISSING = r"network \S+ not found"
_LIVE = ["created", "running", "paused", "restarting"]
_IN_USE = (403, 409)  # a network with containers that run; a volume with any container at all


class Claim(NamedTuple):
    """What one container needs, by name. `labels`: of what is made for it."""

    networks: tuple[str, ...]
    volumes: tuple[str, ...]
    labels: Mapping[str, str]


class Resources:
    """The networks and volumes of one engine. Thread-safe."""

    def __init__(self, connect: Callable[[], docker.APIClient], labels: Labels) -> None:
        """`connect` gives the engine's client; `labels` say what is ours."""
        self._connect = connect
        self._ledger = f"{LABEL}ledger={labels.ledger}"
        self._lock = threading.Lock()
        self._claims: list[Claim] = []  # of containers that are not removed yet: equal ones count
        self._held: dict[str, Claim] = {}

    def provide(self, spec: Spec, labels: Mapping[str, str]) -> tuple[Spec, Claim]:
        """Make what is missing; -> the spec, with the network that was chosen of several, and what is claimed.

        `hold` or `release` what is claimed. DriverError when something cannot be made: nothing is claimed then.
        """
        marks = {} if spec.keep else labels
        with self._lock:
            if spec.network_of:
                spec = spec._replace(network=self._least_used(spec.network_of), network_of=())
            claim = Claim(networks(spec), _volumes(spec), marks)
            self._claims.append(claim)
            try:
                self._make(claim)
            except BaseException:
                self._let_go(claim)
                raise
        return spec, claim

    def join(self, container: str, spec: Spec) -> None:
        """Connect a container that has not started to all its networks but the first, in which it was created."""
        for name in networks(spec)[1:]:
            try:
                with speaking(Reason.CREATE_REFUSED):
                    aliases = endpoint(spec)["Aliases"] if is_named(name) else None
                    self._connect().connect_container_to_network(container, name, aliases=aliases)
            except DriverError as error:
                if "already exists in network" not in str(error):
                    raise

    def hold(self, container: str, claim: Claim) -> None:
        """The container that has the claim, for `restore` and `release_of`."""
        self._held[container] = claim

    def restore(self, container: str) -> None:
        """Make again what somebody removed before the container was started."""
        with self._lock:
            if claim := self._held.get(container):
                self._make(claim)

    def release_of(self, container: str) -> None:
        """The container is gone. Idempotent."""
        if claim := self._held.pop(container, None):
            self.release(claim)

    def release(self, claim: Claim) -> None:
        """Remove what is ours and claimed by nobody else."""
        with self._lock:
            self._let_go(claim)

    def close(self) -> None:
        """Release what is still held by containers that are no call's: those of calls are removed before, or kept."""
        for container, claim in list(self._held.items()):
            if f"{LABEL}call" not in claim.labels:
                self.release_of(container)

    def leftovers(self) -> Iterator[Leftover]:
        """What is ours, one for each call; or, of no call, for each runner."""
        found: dict[tuple[str, str], int] = {}
        for each, made in self._ours():
            labels = each["Labels"]
            key = labels.get(f"{LABEL}call", ""), labels.get(f"{LABEL}runner", "")
            found[key] = max(nanoseconds(made) or 0, found.get(key, 0))
        for (uid, runner), made_at in found.items():
            yield Leftover(uid, runner, "" if uid else runner, "gone", made_at)

    def reap(self, leftover: Leftover) -> None:
        """Remove what was made for it. DriverError when somebody uses it."""
        name, value = ("call", leftover.uid) if leftover.uid else ("runner", leftover.runner)
        with self._lock:
            for each, _ in self._ours(f"{LABEL}{name}={value}"):
                if leftover.uid or f"{LABEL}call" not in each["Labels"]:
                    self._remove(each)

    def _ours(self, *labels: str) -> Iterator[tuple[dict[str, Any], str]]:
        """Networks and volumes, and when they were made."""
        filters = {"label": [self._ledger, *labels]}
        with speaking(Reason.LOST):
            for network in self._connect().networks(filters=filters):
                yield network, network["Created"]
            for volume in self._connect().volumes(filters=filters)["Volumes"] or ():
                yield volume, volume["CreatedAt"]

    def _least_used(self, names: tuple[str, ...]) -> str:
        """The network with the fewest containers, whoever made them; of several the first."""
        filters = {"network": list(names), "status": _LIVE}
        with speaking(Reason.CREATE_REFUSED):
            found = self._connect().containers(all=True, filters=filters)
        there = Counter(name for each in found for name in each["NetworkSettings"]["Networks"])
        soon = Counter(name for claim in self._claims for name in claim.networks)
        return min(names, key=lambda name: max(there[name], soon[name]))

    def _make(self, claim: Claim) -> None:
        for name in claim.networks:
            if is_named(name) and self._look("network", name) is None:
                self._make_network(name, claim.labels)
        with speaking(Reason.CREATE_REFUSED):
            for name in claim.volumes if claim.labels else ():  # else the engine makes them, with the container
                self._connect().create_volume(name, labels=dict(claim.labels))  # or tells of the one that is there

    def _make_network(self, name: str, labels: Mapping[str, str]) -> None:
        client = self._connect()
        try:
            with speaking(Reason.CREATE_REFUSED):
                made = client.create_network(name, labels=dict(labels), check_duplicate=True)["Id"]
                namesakes = [each for each in client.networks(names=[name]) if each["Name"] == name]
        except DriverError as error:
            if status(error) != 409:  # else somebody has made it just now
                raise
            return
        # Engines make two of one name when two ask at once: the first one stays.
        if min(namesakes, key=lambda each: (each["Created"], each["Id"]))["Id"] != made:
            with speaking(Reason.CREATE_REFUSED):
                client.remove_network(made)

    def _let_go(self, claim: Claim) -> None:
        if claim in self._claims:
            self._claims.remove(claim)
        needed = {name for other in self._claims for name in (*other.networks, *other.volumes)}
        for name in filter(is_named, claim.networks):
            self._remove_ours("network", name, needed)
        for name in claim.volumes:
            self._remove_ours("volume", name, needed)

    def _remove_ours(self, kind: str, name: str, needed: set[str]) -> None:
        found = None if name in needed else self._look(kind, name)
        key, _, ledger = self._ledger.partition("=")
        if found is not None and (found.get("Labels") or {}).get(key) == ledger:
            try:
                self._remove(found)
            except DriverError as error:
                if status(error) not in _IN_USE:  # whoever uses it removes it in the end
                    raise

    def _remove(self, found: Mapping[str, Any]) -> None:
        try:
            with speaking(Reason.ENGINE_LOST):
                if "Mountpoint" in found:
                    self._connect().remove_volume(found["Name"])
                else:
                    self._connect().remove_network(found["Id"])
        except DriverError as error:
            if status(error) != 404:
                raise

    def _look(self, kind: str, name: str) -> dict[str, Any] | None:
        client = self._connect()
        try:
            with speaking(Reason.CREATE_REFUSED):
                return dict(client.inspect_network(name) if kind == "network" else client.inspect_volume(name))
        except DriverError as error:
            if status(error) != 404:
                raise
            return None


def _volumes(spec: Spec) -> tuple[str, ...]:
    if not (spec.volume or spec.mount):
        return ()
    from machine.configuration import mounts

    return tuple(each.source for each in mounts(spec) if each.kind == "volume" and each.source)


def is_missing(error: DriverError) -> bool:
    """Whether a start was refused because a network is not there any more."""
    return status(error) == 404 and re.search(_MISSING, str(error)) is not None


def claim_of(found: Mapping[str, Any], labels: Mapping[str, str]) -> Claim:
    """What a container has by the engine's record of it: the claim of one that another runner made."""
    joined = tuple((found.get("NetworkSettings") or {}).get("Networks") or ())
    named = (each["Name"] for each in found.get("Mounts") or () if each["Type"] == "volume")
    return Claim(joined, tuple(name for name in named if not re.fullmatch("[0-9a-f]{64}", name)), labels)
