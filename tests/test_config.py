"""The configuration of a container: how it is spelled, what is refused, and what the engine is asked for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from calls.options import build_spec
from driver.docker.config import CONFIG, HOST, create_request, fit
from driver.local.driver import HONOURED
from machine import notation
from machine.errors import DriverError, SpecError
from machine.networks import is_joined, is_named
from machine.notation import Device, Gpus, Mount, Port, Ulimit
from machine.spec import Spec
from machine.units import SECOND

MAC = "02:42:0a:00:00:09"
IPC = "--ipc: 'container:' is not a namespace of shared memory (write none, private, shareable, host or container:ID)"
ELSEWHERE = {
    *("driver", "image", "name", "secret", "label", "keep", "hot", "idempotency_key"),
    *("network_of", "network_alias", "ip", "ip6", "platform"),  # chosen before, said per network, said in the address
    *("pull", "pull_idle_timeout", "stop_timeout", "timeout", "prepare_timeout", "sample", "log_limit"),
    *("health_cmd", "health_interval", "health_retries", "health_start_period", "health_probe_timeout"),
    *("no_healthcheck", "health_timeout"),
}
"""The options of a spec that are not translated one by one into the request."""
EXAMPLES: dict[str, Any] = {
    "volume": ["/a:/b", "data:/c", "/d"],
    "mount": ["type=bind,source=/a:b,target=/e,readonly"],
    "tmpfs": ["/f:size=1m"],
    "network": "one",
    "publish": ["80"],
    "publish_all": True,
    "hostname": "box",
    "mac_address": MAC,
    "add_host": ["db:10.0.0.1"],
    "dns": ["10.0.0.1"],
    "dns_search": ["example.org"],
    "dns_option": ["ndots:2"],
    "memory": "64m",
    "memory_reservation": "32m",
    "memory_swappiness": 0,
    "shm_size": "1m",
    "cpus": 0.5,
    "cpu_shares": 512,
    "cpuset_cpus": "0-1",
    "pids_limit": 9,
    "ulimit": ["nofile=1:2"],
    "oom_score_adj": 5,
    "storage_opt": {"size": "1g"},
    "sysctl": ["net.core.somaxconn=9"],
    "device": ["/dev/fuse"],
    "gpus": "all",
    "pid": "host",
    "ipc": "shareable",
    "uts": "host",
    "userns": "host",
    "cgroupns": "private",
    "runtime": "runc",
    "group_add": ["7"],
    "cap_add": ["NET_RAW"],
    "cap_drop": ["ALL"],
    "security_opt": ["no-new-privileges"],
    "privileged": True,
    "log_driver": "syslog",
    "log_opt": {"tag": "x"},
    "read_only": True,
    "init": True,
    "workdir": "/w",
    "user": "1:2",
    "entrypoint": "",
    "env": {"A": "b"},
    "interactive": True,
    "tty": True,
    "stop_signal": "INT",
    "command": ["a", "b c"],
}
TOGETHER = {option: value for option, value in EXAMPLES.items() if option not in ("privileged", "uts")}
"""Those that do not contradict each other."""


def refusal(**options: Any) -> str:
    """What is said of these options."""
    with pytest.raises(SpecError) as refused:
        build_spec("busybox", **options)
    return str(refused.value)


def request(**options: Any) -> dict[str, Any]:
    """What the engine is asked for."""
    return create_request(build_spec("busybox", **options), {})


# The whole.


def test_every_option_is_said_or_known_to_be_said_elsewhere() -> None:
    assert set(Spec._fields) == CONFIG.keys() | HOST.keys() | ELSEWHERE
    assert not ELSEWHERE & (CONFIG.keys() | HOST.keys())
    assert EXAMPLES.keys() == CONFIG.keys() | HOST.keys()


def test_nothing_is_said_that_was_not_asked_for() -> None:
    assert request() == {"Image": "busybox", "Labels": {}, "AttachStdout": True, "AttachStderr": True, "HostConfig": {}}


@pytest.mark.parametrize("option", sorted(EXAMPLES.keys() - {"volume", "publish"}))
def test_each_option_is_said_in_one_place(option: str) -> None:
    bare, said = request(), request(**{option: EXAMPLES[option]})
    host, bare_host = said.pop("HostConfig"), bare.pop("HostConfig")
    found = [name for name in said if said.get(name) != bare.get(name)]
    inside = [name for name in host if host.get(name) != bare_host.get(name)]
    assert found if option in CONFIG else inside
    assert not (inside if option in CONFIG else found)


def test_everything_at_once_is_json() -> None:
    whole = json.loads(json.dumps(request(**TOGETHER)))
    assert whole["Cmd"] == ["a", "b c"]
    assert whole["HostConfig"]["LogConfig"] == {"Type": "syslog", "Config": {"tag": "x"}}
    assert whole["Volumes"] == {"/d": {}}
    assert whole["HostConfig"]["Binds"] == ["/a:/b", "data:/c"]
    assert whole["HostConfig"]["Mounts"][0] == {"Type": "bind", "Source": "/a:b", "Target": "/e", "ReadOnly": True}


def test_all_of_it_is_recorded_and_read_again() -> None:
    spec = build_spec("busybox", **TOGETHER)
    record = json.loads(json.dumps(spec.record(lambda value: value)))
    assert record.keys() - {"image"} == TOGETHER.keys()
    assert Spec.recorded(record) == spec


@pytest.mark.parametrize("option", sorted((CONFIG.keys() | HOST.keys()) - HONOURED))
def test_a_local_process_has_none_of_it(option: str) -> None:
    spec = build_spec(None, ["true"], driver="local", **{option: EXAMPLES[option]})
    with pytest.raises(SpecError) as refused:
        spec.require(HONOURED, "local")
    assert refused.value.option == option


def test_memory_is_without_swap() -> None:
    assert request(memory="64m")["HostConfig"] == {"Memory": 64 * 2**20, "MemorySwap": 64 * 2**20}


def test_a_path_from_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    host = request(volume=["./a:/b", ".:/c"], mount=["type=bind,src=./x:y,dst=/d"])["HostConfig"]
    assert host["Binds"] == [f"{tmp_path}/a:/b", f"{tmp_path}:/c"]
    assert host["Mounts"][0]["Source"] == f"{tmp_path}/x:y"


def test_a_path_from_a_folder_that_is_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    with pytest.raises(SpecError, match=r"^--volume: \./a is a path from the current folder, which is gone$"):
        build_spec("busybox", volume=["./a:/b"])


def test_the_first_network_is_where_it_is_created() -> None:
    said = request(network=["one", "two"], network_alias=["db"])
    assert said["HostConfig"]["NetworkMode"] == "one"
    assert said["NetworkingConfig"] == {"EndpointsConfig": {"one": {"Aliases": ["db"]}}}


def test_an_address_is_said_where_its_network_is() -> None:
    own = request(network="mine", ip="10.9.9.9", ip6="fd00::9", network_alias=["db"])["NetworkingConfig"]
    addresses = {"IPv4Address": "10.9.9.9", "IPv6Address": "fd00::9"}
    assert own == {"EndpointsConfig": {"mine": {"Aliases": ["db"], "IPAMConfig": addresses}}}
    assert (
        "IPAMConfig" not in request(network="mine", network_alias=["db"])["NetworkingConfig"]["EndpointsConfig"]["mine"]
    )


@pytest.mark.parametrize(("network", "where"), [(None, "default"), ("bridge", "bridge"), ("mine", "mine")])
def test_newer_engines_take_a_mac_address_where_the_network_is(network: str | None, where: str) -> None:
    asked = request(network=network, mac_address=MAC, **({"ip": "10.9.9.9"} if network == "mine" else {}))
    assert fit(asked, "1.43") == asked
    assert asked["MacAddress"] == MAC
    found = fit(asked, "1.44")
    assert "MacAddress" not in found
    ((name, said),) = found["NetworkingConfig"]["EndpointsConfig"].items()
    assert (name, said["MacAddress"], "IPAMConfig" in said) == (where, MAC, network == "mine")


def test_an_engine_that_knows_no_namespaces_of_control_groups_is_not_asked_for_one() -> None:
    asked = request(cgroupns="host")
    assert fit(asked, "1.41") == asked
    with pytest.raises(DriverError, match=r"--cgroupns needs version 1\.41 of the engine's API"):
        fit(asked, "1.40")
    assert fit(request(), "1.40") == request()


def test_a_health_check_in_nanoseconds() -> None:
    check = request(health_cmd="true", health_interval="2s", health_retries=4)["Healthcheck"]
    assert check == {"Test": ["CMD-SHELL", "true"], "Interval": 2 * SECOND, "Retries": 4}
    assert request(no_healthcheck=True)["Healthcheck"] == {"Test": ["NONE"]}


# How it is spelled.


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("80", [Port(80, "tcp", "", "")]),
        ("8080:80", [Port(80, "tcp", "", "8080")]),
        ("53:53/udp", [Port(53, "udp", "", "53")]),
        ("127.0.0.1::80", [Port(80, "tcp", "127.0.0.1", "")]),
        ("127.0.0.1:8080:80/sctp", [Port(80, "sctp", "127.0.0.1", "8080")]),
        ("[::1]:8080:80", [Port(80, "tcp", "::1", "8080")]),
        ("8000-8001:80-81", [Port(80, "tcp", "", "8000"), Port(81, "tcp", "", "8001")]),
        ("8000-8009:80", [Port(80, "tcp", "", "8000-8009")]),
        ("80-81", [Port(80, "tcp", "", ""), Port(81, "tcp", "", "")]),
    ],
)
def test_ports(text: str, found: list[Port]) -> None:
    assert notation.ports(text) == found


@given(st.integers(1, 65535), st.integers(0, 65535), st.sampled_from(("tcp", "udp", "sctp")))
def test_any_pair_of_ports(inside: int, host: int, protocol: str) -> None:
    assert notation.ports(f"{host}:{inside}/{protocol}") == [Port(inside, protocol, "", str(host))]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("/a", Mount("volume", "", "/a", {})),
        ("data:/a", Mount("volume", "data", "/a", {})),
        ("/x:/a:ro", Mount("bind", "/x", "/a", {"ro": ""})),
        ("../x:/a", Mount("bind", "../x", "/a", {})),
    ],
)
def test_volumes(text: str, found: Mount) -> None:
    assert notation.volume(text) == found


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("type=bind,src=/a:b,dst=/c", Mount("bind", "/a:b", "/c", {})),
        ('type=bind,"source=/a,b",target=/c,ro', Mount("bind", "/a,b", "/c", {"readonly": ""})),
        ("source=data,destination=/c,readonly=true", Mount("volume", "data", "/c", {"readonly": ""})),
        ("type=volume,target=/c,readonly=false", Mount("volume", "", "/c", {})),
        ("type=tmpfs,target=/c,tmpfs-size=1m", Mount("tmpfs", "", "/c", {"tmpfs-size": "1m"})),
    ],
)
def test_mounts(text: str, found: Mount) -> None:
    assert notation.mount(text) == found


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("nofile=5", Ulimit("nofile", 5, 5)),
        ("core=0:-1", Ulimit("core", 0, -1)),
        ("memlock=-1", Ulimit("memlock", -1, -1)),
        ("nproc=1:2", Ulimit("nproc", 1, 2)),
    ],
)
def test_ulimits(text: str, found: Ulimit) -> None:
    assert notation.ulimit(text) == found


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("/dev/a", Device("/dev/a", "/dev/a", "rwm")),
        ("/dev/a:r", Device("/dev/a", "/dev/a", "r")),
        ("/dev/a:/dev/b", Device("/dev/a", "/dev/b", "rwm")),
        ("/dev/a:/dev/b:rw", Device("/dev/a", "/dev/b", "rw")),
    ],
)
def test_devices(text: str, found: Device) -> None:
    assert notation.device(text) == found


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("all", Gpus(-1, ())),
        ("2", Gpus(2, ())),
        ("device=0", Gpus(0, ("0",))),
        ("device=0,GPU-3a23c669-1f69", Gpus(0, ("0", "GPU-3a23c669-1f69"))),
        ('"device=0,1"', Gpus(0, ("0", "1"))),
        ("device=nvidia.com/gpu=0", Gpus(0, ("nvidia.com/gpu=0",))),
    ],
)
def test_gpus(text: str, found: Gpus) -> None:
    assert notation.gpus(text) == found


@pytest.mark.parametrize(
    ("text", "which"), [(2, {"Count": 2}), ("all", {"Count": -1}), ("device=7", {"DeviceIDs": ["7"]})]
)
def test_gpus_are_asked_for_as_the_docker_command_does(text: object, which: dict[str, Any]) -> None:
    assert request(gpus=text)["HostConfig"] == {"DeviceRequests": [{**which, "Capabilities": [["gpu"]]}]}


@pytest.mark.parametrize(
    ("name", "named", "joined"),
    [
        *[(None, False, True), ("bridge", False, True), ("none", False, False), ("host", False, False)],
        *[("container:x", False, False), ("mine", True, True)],
    ],
)
def test_kinds_of_networks(name: str | None, *, named: bool, joined: bool) -> None:
    assert (is_named(name), is_joined(name)) == (named, joined)


# What is refused, and by which name.


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"volume": ["aa:b"]}, "--volume: 'b' is not an absolute path in the container"),
        (
            {"volume": ["a b:/x"]},
            "--volume: 'a b' is neither a path nor the name of a volume (write /PATH, ./PATH or NAME)",
        ),
        ({"volume": ["/a:/b:/c:/d"]}, "--volume: '/a:/b:/c:/d' has too many colons: a path with a colon needs --mount"),
        ({"volume": ["/a:/x"], "tmpfs": ["/x/"]}, "--tmpfs: /x is mounted twice"),
        ({"tmpfs": ["/"]}, "--tmpfs: the root of the container is no place for a mount"),
        (
            {"mount": ["type=npipe,target=/x"]},
            "--mount: type=npipe is not a kind of mount (write type=bind, volume or tmpfs)",
        ),
        ({"mount": ["type=bind,target=/x"]}, "--mount: type=bind needs source=/PATH"),
        (
            {"mount": ["target=/x,size=1"]},
            "--mount: 'size' means nothing for type=volume (write source, target, readonly)",
        ),
        ({"mount": ["type=tmpfs,source=a,target=/x"]}, "--mount: type=tmpfs has no source"),
        ({"mount": ["type=tmpfs,target=/x,tmpfs-size=big"]}, "--mount: 'big' is not a size (write 65536, 64m or 1.5g)"),
        ({"mount": ["type=tmpfs,target=/x,tmpfs-mode=9"]}, "--mount: tmpfs-mode=9 is not a mode (write 1777)"),
        ({"mount": ['"a']}, "--mount: '\"a': unexpected end of data"),
        ({"network": ["a", "none"]}, "--network: none goes with no other network"),
        ({"network": ["a", "a"]}, "--network: 'a,a' names a network twice"),
        ({"network": "a b"}, "--network: 'a b' is not the name of a network (letters, digits, _ . -)"),
        ({"network": []}, "--network: '' is not the name of a network (letters, digits, _ . -)"),
        ({"network": "a", "network_of": "b,c"}, "--network-of: contradicts --network: it takes one network of several"),
        ({"network_of": "b,"}, "--network-of: '' is not the name of a network (letters, digits, _ . -)"),
        (
            {"network": "bridge", "network_alias": "x"},
            "--network-alias: needs a --network that has names: not the default one, nor none or host",
        ),
        (
            {"publish": ["x"]},
            "--publish: 'x' is not a port to publish (write 80, 8080:80, 127.0.0.1:8080:80 or 53:53/udp)",
        ),
        ({"publish": ["0"]}, "--publish: '0': a container has no port 0"),
        ({"publish": ["70000"]}, "--publish: 70000 is not a port, nor a range of ports"),
        ({"publish": ["9-8"]}, "--publish: 9-8 is not a port, nor a range of ports"),
        ({"publish": ["1-3:80-81"]}, "--publish: '1-3:80-81': 3 ports of the host for 2 of the container"),
        ({"publish": ["80"], "network": "none"}, "--publish: contradicts --network none: there is nothing to publish"),
        (
            {"publish_all": True, "network": "host"},
            "--publish-all: contradicts --network host: there is nothing to publish",
        ),
        ({"network": "a", "ip": "fd00::1"}, "--ip: 'fd00::1' is not an IPv4 address"),
        ({"network": "a", "ip6": "fe80::1%eth0"}, "--ip6: 'fe80::1%eth0' is not an IPv6 address"),
        ({"mac_address": "02:42"}, "--mac-address: '02:42' is not a MAC address (write 02:42:ac:11:00:02)"),
        ({"ip": "10.9.9.9"}, "--ip: needs a --network that somebody has made: the default one gives addresses itself"),
        (
            {"network": "host", "mac_address": "02:42:ac:11:00:02"},
            "--mac-address: contradicts --network host: it has no address of its own there",
        ),
        ({"network": ["a", "b"], "ip": "10.9.9.9"}, "--ip: needs one --network: it is an address in that one"),
        ({"pid": "private"}, "--pid: 'private' is not a namespace of processes (write host or container:ID)"),
        ({"ipc": "container:"}, IPC),
        ({"uts": "private"}, "--uts: 'private' is not a namespace of names (write host, or leave it out)"),
        ({"userns": ""}, "--userns: '' is not a namespace of users (write host, or leave it out)"),
        ({"cgroupns": "none"}, "--cgroupns: 'none' is not a namespace of control groups (write host or private)"),
        ({"runtime": "a b"}, "--runtime: 'a b' is not the name of a runtime (write runc)"),
        ({"gpus": "some"}, "--gpus: 'some' is no choice of GPUs (write all, 2, device=0 or device=0,1)"),
        ({"memory_swappiness": 101}, "--memory-swappiness: input should be less than or equal to 100"),
        ({"hostname": "a", "uts": "host"}, "--hostname: contradicts --uts host: the name is the host's"),
        ({"shm_size": "8m", "ipc": "none"}, "--shm-size: contradicts --ipc none: it has no /dev/shm of its own"),
        ({"untrusted": True, "ipc": "host"}, "--untrusted: contradicts --ipc host"),
        ({"untrusted": True, "gpus": 1}, "--untrusted: contradicts --gpus: these are devices of the host"),
        ({"hot": True, "tty": True}, "--hot: contradicts --tty: the container's input and output carry several calls"),
        ({"hostname": "-a"}, "--hostname: '-a' is not a host's name (at most 63 letters, digits, . -)"),
        ({"hostname": "a" * 64}, f"--hostname: '{'a' * 64}' is not a host's name (at most 63 letters, digits, . -)"),
        ({"add_host": ["db"]}, "--add-host: 'db' is not a host (write NAME:ADDRESS or NAME:host-gateway)"),
        ({"dns": ["example.org"]}, "--dns: 'example.org' is not an IP address"),
        ({"dns_search": ["a b"]}, "--dns-search: 'a b' is not a domain (write example.org, or . for none)"),
        ({"dns_option": [""]}, "--dns-option: '' is not an option of resolv.conf (write ndots:2)"),
        ({"memory_reservation": "1m"}, "--memory-reservation: the engine's minimum is 6m"),
        (
            {"memory": "64m", "memory_reservation": "65m"},
            "--memory-reservation: is more than --memory: it is the part of it that is meant to be there",
        ),
        ({"shm_size": 0}, "--shm-size: must be more than zero"),
        ({"cpu_shares": 1}, "--cpu-shares: input should be greater than or equal to 2"),
        ({"cpuset_cpus": "all"}, "--cpuset-cpus: 'all' is not a set of CPUs (write 0-1,3)"),
        ({"oom_score_adj": 1001}, "--oom-score-adj: input should be less than or equal to 1000"),
        ({"ulimit": ["nofile=2:1"]}, "--ulimit: 'nofile=2:1': the soft limit is above the hard one"),
        ({"ulimit": [f"nofile={2**63}"]}, f"--ulimit: 'nofile={2**63}' is out of range"),
        ({"storage_opt": ["=1"]}, "--storage-opt: a value needs a name (write NAME=value)"),
        ({"sysctl": ["a b=1"]}, "--sysctl: 'a b' is not the name of a kernel parameter (write net.core.somaxconn=64)"),
        (
            {"device": ["fuse"]},
            "--device: 'fuse' is not a device (write /dev/fuse, /dev/fuse:/dev/inside or /dev/fuse:/dev/fuse:r)",
        ),
        ({"group_add": [""]}, "--group-add: '' is no user or group (write a name or a number)"),
        ({"cap_add": ["net raw"]}, "--cap-add: 'net raw' is not a capability (write NET_ADMIN, or ALL)"),
        ({"security_opt": ["seccomp=/nowhere"]}, "--security-opt: cannot read /nowhere: No such file or directory"),
        (
            {"security_opt": [f"seccomp={__file__}"]},
            f"--security-opt: {__file__} is not a seccomp profile: it is not JSON",
        ),
        ({"log_driver": ""}, "--log-driver: '' is not a log driver (write none, json-file, syslog, ...)"),
        ({"platform": "Linux"}, "--platform: 'Linux' is not a platform (write linux, linux/arm64 or linux/arm/v7)"),
        ({"untrusted": True, "privileged": True}, "--untrusted: contradicts --privileged"),
    ],
)
def test_what_is_wrong_is_said_by_the_options_name(options: dict[str, Any], message: str) -> None:
    assert refusal(**options) == message


@pytest.mark.parametrize("text", ["", "nofile", "nofile=", "nofile=x", "files=1", "nofile=1:2:3"])
def test_what_is_no_limit_is_told_what_to_write(text: str) -> None:
    assert refusal(ulimit=[text]).startswith(f"--ulimit: {text!r} is not a limit (write nofile=1024 or ")


@pytest.mark.parametrize("text", ["", "seccomp", "seccomp=", "selinux=x", "seccomp:unconfined"])
def test_what_is_no_security_option_is_told_what_to_write(text: str) -> None:
    assert refusal(security_opt=[text]).startswith(f"--security-opt: {text!r} is not known (write no-new-privileges, ")


@pytest.mark.parametrize("option", sorted(EXAMPLES))
@pytest.mark.parametrize("junk", [5.5, object(), [[]], {"a": []}, b"\xff", [None]])
def test_any_junk_is_taken_or_refused_by_name(option: str, junk: object) -> None:
    try:
        build_spec("busybox", **{option: junk})
    except SpecError as refused:
        assert refused.option == option  # noqa: PT017 - it may be taken as well


# A seccomp profile, and what nobody vouches for.


def test_a_seccomp_profile_goes_into_the_request_and_the_record(tmp_path: Path) -> None:
    file = tmp_path / "profile"
    file.write_text('{\n "defaultAction": "SCMP_ACT_ALLOW"\n}\n')
    spec = build_spec("busybox", security_opt=[f"seccomp={file}", "label=disable"])
    assert spec.security_opt == ('seccomp={"defaultAction":"SCMP_ACT_ALLOW"}', "label=disable")
    assert build_spec("busybox", security_opt=spec.security_opt) == spec


def test_what_nobody_vouches_for_is_recorded_as_what_it_became() -> None:
    assert build_spec("busybox", untrusted=True).asked() == {
        "image": "busybox",
        "user": "1000:1000",
        "tmpfs": ("/tmp:size=64m,nr_inodes=65536,mode=1777",),
        "network": "none",
        "pids_limit": 50,
        "ulimit": ("nofile=350", "memlock=65536", "sigpending=5000", "msgqueue=819200"),
        "cap_drop": ("ALL",),
        "security_opt": ("no-new-privileges",),
        "read_only": True,
    }


@pytest.mark.parametrize(
    ("options", "changed"),
    [
        ({"user": "7"}, {"user": "7"}),
        ({"pids_limit": 9}, {"pids_limit": 9}),
        ({"network": "mine"}, {"network": "mine"}),
        ({"network_of": "a,b"}, {"network": None, "network_of": ("a", "b")}),
        ({"read_only": False}, {"read_only": False}),
        ({"cap_add": ["NET_RAW"]}, {"cap_add": ("NET_RAW",)}),
        ({"cap_drop": ["NET_RAW"]}, {"cap_drop": ("NET_RAW", "ALL")}),
        ({"volume": ["/x:/tmp"]}, {"volume": ("/x:/tmp",), "tmpfs": ()}),
        ({"tmpfs": ["/tmp/"]}, {"tmpfs": ("/tmp/",)}),
        ({"mount": ["type=tmpfs,target=/tmp"]}, {"mount": ("type=tmpfs,target=/tmp",), "tmpfs": ()}),
        (
            {"ulimit": ["nofile=9"]},
            {"ulimit": ("nofile=9", "memlock=65536", "sigpending=5000", "msgqueue=819200")},
        ),
        ({"security_opt": ["no-new-privileges=false"]}, {"security_opt": ("no-new-privileges=false",)}),
        ({"security_opt": ["apparmor=x"]}, {"security_opt": ("apparmor=x", "no-new-privileges")}),
    ],
)
def test_what_is_given_goes_before_what_nobody_vouches_for(options: dict[str, Any], changed: dict[str, Any]) -> None:
    plain = build_spec("busybox", untrusted=True)
    assert build_spec("busybox", untrusted=True, **options) == plain._replace(**changed)
