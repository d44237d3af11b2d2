"""Bad input: whatever is wrong is said by the option's name, and nothing is made. Every option has its turn."""

from __future__ import annotations

import importlib
import os
import sys
from pathlib import Path
from typing import Any

import click
import pytest
import running
from ledgers import small
from running import IMAGE, shown, told

import calls
from calls.cli.group import _COMMANDS, run
from calls.options import build_spec
from driver.protocol import LABEL
from ledger.read import Reader
from machine.errors import SpecError, UsageError
from machine.spec import Spec

NUMBERS = ("", "-1", "0", "x", "1e400", "nan", "1_000", "١", str(2**63), "1,5", "0x10")
"""None of them is an amount of anything that a call could need."""
SIZES = (*NUMBERS, "5x", "-5m", "9999999t", "1m2m")
TIMES = (*NUMBERS, "5x", "-5s", "1h 30m", "300y", "999999d")
NOT_UTF8 = os.fsdecode(b"a=\xff\xfe")
NAMES = ("", "a b", "-a", "é", "a\n", "a/b")
BAD: dict[str, tuple[str, ...]] = {
    "env": ("", "=x"),
    "env_file": ("", "/nowhere", "/"),
    "secret": ("", "=x", "NOSUCH_VARIABLE", "A=value", "A=file:/nowhere", "A=cmd:exit 1"),
    "volume": ("", "a", "a:b", "/a:b", "a b:/c", "/a:/b:ro:rw", "/a:/b:", "/a:/"),
    "mount": (
        *(
            "",
            "x",
            "type=npipe,target=/x",
            "type=bind,target=/x",
            "type=bind,source=/a,target=x",
            "target=/a,target=/b",
        ),
        *("type=bind,source=/a,target=/x,readonly=yes", "type=tmpfs,target=/x,tmpfs-size=lots", 'target="/x'),
    ),
    "tmpfs": ("", "a", "/", ":size=1m"),
    "label": ("", "=x", f"{LABEL}call=x"),
    "workdir": ("a", ".", " ", "C:\\"),
    "user": ("a b", " ", "1:2:3", "-1", "1:-1", str(2**31), "a:"),
    "name": (*NAMES, "a" * 129),
    "network": (*NAMES, "container:", "a,a", "a,none", "host,a"),
    "network_of": (*NAMES, "a,", "a,a", "none,a", "a,host", "container:x"),
    "network_alias": (*NAMES, "a"),
    "ip": ("", "x", "300.1.1.1", "1.2.3", "::1", "1.2.3.4/8"),
    "ip6": ("", "x", "1.2.3.4", "::g", "fe80::1%eth0", "fd00::1/64"),
    "mac_address": (
        "",
        "x",
        "02:42:ac:11:00",
        "02:42:ac:11:00:0g",
        "0242ac110002",
        "02:42:ac:11:00:02:03",
        "0:0:0:0:0:0",
    ),
    "publish": (
        *("", "x", "0", "70000", "1:2:3:4", "80/icmp", "9-8", "1-3:80-81", "-80", "١", "300.1.1.1:80:80", "[1]:80:80"),
        *("999.1.1.1::80", "localhost:80:80"),
    ),
    "hostname": (*NAMES, "a" * 64),
    "add_host": ("", "a", ":1.2.3.4", "a:x", "a b:1.2.3.4", "a\nb:1.2.3.4", "a:300.1.1.1"),
    "dns": ("", "example.org", "1.2.3", "300.1.1.1", "::1%a\nb"),
    "dns_search": ("", "a b", "-a", "a\n"),
    "dns_option": ("", "a b", "a\n"),
    "memory": (*SIZES, "5m", "1k"),
    "memory_reservation": (*SIZES, "5m"),
    "memory_swappiness": (*(text for text in NUMBERS if text != "0"), "101", "1.5"),
    "shm_size": SIZES,
    "cpus": (*NUMBERS, "0.0000000001", "0.001", "1025", "50%"),
    "cpu_shares": (*NUMBERS, "1", "262145", "1.5"),
    "cpuset_cpus": ("", "-1", "x", "0-", "1-0", "0,,1", "99999", "١"),
    "pids_limit": (*NUMBERS, "1.5", str(2**22 + 1)),
    "ulimit": ("", "nofile", "files=1", "nofile=-2", "nofile=2:1", f"nofile={2**63}", "nofile=١", "nofile=1:2:3"),
    "oom_score_adj": ("", "x", "1.5", "-1001", "1001", "1_0", "nan"),
    "storage_opt": ("", "=x", "size"),
    "sysctl": ("", "=x", "net.core.somaxconn", "net.core.somaxconn=", "a b=1", "../x=1"),
    "device": ("", "fuse", "/dev/fuse:x", "/dev/fuse:/a:rwx", "/dev/fuse:/a:r:w"),
    "gpus": ("", "0", "-1", "some", "1.5", "x=1", "device", "device=", "device=0,", "device=a b", "all,1", "١"),
    "pid": ("", "private", "container:", "container:a b", "Host", "host\n"),
    "ipc": ("", "x", "container:", "container:-a", "shared", "Private"),
    "uts": ("", "private", "container:x", "HOST"),
    "userns": ("", "private", "container:x"),
    "cgroupns": ("", "none", "container:x"),
    "runtime": (*NAMES, "run c"),
    "group_add": ("", "a b", "1:2", "-1", str(2**31)),
    "cap_add": ("", "net raw", "CAP-NET", "A,B"),
    "cap_drop": ("", "net raw", "CAP-NET", "A,B"),
    "security_opt": (
        *("", "x", "seccomp", "seccomp=", "seccomp=/nowhere", "seccomp={", "no-new-privileges=maybe", "apparmor="),
        *("no-new-privileges:x", "seccomp=/dev/null"),
    ),
    "log_driver": ("", "a b", "-x"),
    "log_opt": ("", "=x", "tag"),
    "platform": ("", "Linux", "linux/", "a/b/c/d", "a b"),
    "entrypoint": ("a\udcff",),
    "pull": ("", "sometimes", "ALWAYS"),
    "pull_idle_timeout": TIMES,
    "health_cmd": ("",),
    "health_interval": (*TIMES, "0.5ms"),
    "health_retries": (*NUMBERS, "1.5"),
    "health_start_period": (*TIMES, "0.5ms"),
    "health_probe_timeout": (*TIMES, "0.5ms"),
    "stop_signal": ("", "FOO", "0", "65", "-9", "9.5", "١"),
    "stop_timeout": tuple(text for text in TIMES if text != "0"),
    "timeout": TIMES,
    "prepare_timeout": TIMES,
    "health_timeout": TIMES,
    "sample": (*TIMES, "50ms", "OFF"),
    "log_limit": tuple(text for text in SIZES if text != "0"),
    "idempotency_key": ("", "k" * 256),
    "driver": ("", "nosuch", "Docker"),
}
"""For each option of `calls run` that takes a value, what is none. An option that is added needs a line here."""
PROFILE = 'seccomp={"defaultAction":"SCMP_ACT_ALLOW"}'
CONTRADICTIONS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("memory-reservation", ("--memory", "64m", "--memory-reservation", "65m")),
    ("network-of", ("--network", "a", "--network-of", "b")),
    ("publish", ("--network", "none", "--publish", "80")),
    ("publish", ("--network", "host", "--publish", "80")),
    ("publish", ("--network", "container:x", "--publish", "80")),
    ("publish", ("--publish", "8080:80", "-p", "8080:81")),
    ("publish-all", ("--network", "none", "-P")),
    ("network-alias", ("--network", "none", "--network-alias", "a")),
    ("hostname", ("--network", "container:x", "--hostname", "a")),
    ("add-host", ("--network", "container:x", "--add-host", "a:1.2.3.4")),
    ("dns", ("--network", "container:x", "--dns", "1.2.3.4")),
    ("dns-search", ("--network", "container:x", "--dns-search", "a")),
    ("dns-option", ("--network", "container:x", "--dns-option", "a")),
    *(
        (option, ("--network", network, f"--{option}", address))
        for option, address in (("ip", "10.9.9.9"), ("ip6", "fd00::9"), ("mac-address", "02:42:ac:11:00:02"))
        for network in ("none", "host", "container:x", "a,b")
    ),
    ("ip", ("--network", "bridge", "--ip", "10.9.9.9")),
    ("ip6", ("--network", "default", "--ip6", "fd00::9")),
    ("ip", ("--network-of", "a,b", "--ip", "10.9.9.9")),
    ("hostname", ("--uts", "host", "--hostname", "a")),
    *(("shm-size", ("--shm-size", "8m", "--ipc", mode)) for mode in ("none", "host", "container:x")),
    ("sysctl", ("--network", "host", "--sysctl", "net.core.somaxconn=5")),
    ("tmpfs", ("--volume", "/a:/x", "--tmpfs", "/x/")),
    ("mount", ("--volume", "/a:/x", "--mount", "target=/x")),
    ("volume", ("--volume", "/a:/x", "--volume", "/b:/x")),
    ("ulimit", ("--ulimit", "nofile=1", "--ulimit", "nofile=2")),
    ("cap-add", ("--cap-add", "CAP_NET_RAW", "--cap-drop", "net_raw")),
    ("cap-add", ("--cap-add", "ALL", "--cap-drop", "all")),
    ("privileged", ("--privileged", "--cap-drop", "NET_RAW")),
    ("security-opt", ("--security-opt", PROFILE, "--security-opt", "seccomp=unconfined")),
    ("security-opt", ("--security-opt", "no-new-privileges", "--security-opt", "no-new-privileges:false")),
    ("log-opt", ("--log-driver", "none", "--log-opt", "tag=x")),
    ("pull-idle-timeout", ("--pull", "never", "--pull-idle-timeout", "5s")),
    ("no-healthcheck", ("--no-healthcheck", "--health-cmd", "true")),
    ("no-healthcheck", ("--no-healthcheck", "--health-interval", "5s")),
    ("no-healthcheck", ("--no-healthcheck", "--health-timeout", "5s")),
    ("hot", ("--hot", "--keep")),
    ("hot", ("--hot", "--pull", "always")),
    ("hot", ("--hot", "--health-cmd", "true")),
    ("hot", ("--hot", "--tty")),
    ("tty", ("-i", "--tty")),
    ("idempotency-key", ("--idempotency-key", "k", "-it")),
    ("untrusted", ("--untrusted", "--privileged")),
    ("untrusted", ("--untrusted", "--cap-add", "all")),
    *(("untrusted", ("--untrusted", f"--{option}", "host")) for option in ("pid", "ipc", "uts", "userns")),
    ("untrusted", ("--untrusted", "--gpus", "all")),
    ("untrusted", ("--untrusted", "--driver", "local")),
    ("detach", ("--detach", "--interactive")),
    ("detach", ("-d", "-it")),
    ("json", ("--detach", "--json")),
    ("rm", ("--rm", "--keep")),
)
OTHERS: dict[str, dict[str, tuple[str, ...]]] = {
    "images": {"limit": ("", "x", "-1", "nan"), "exempt": ("", "A B", "a:b:c"), "load": ("", "/nowhere", "/")},
    "logs": {
        "since": ("", "soon", "1700000000", "1700000000.5", "-5m", "2025-13-01"),
        "tail": ("", "x", "-1", "1.5", str(2**64)),
    },
    "metrics": {"port": ("", "http", "70000", "-1", "١", "a..b:80", f"{'a' * 70}:80", "9" * 5000)},
    "exec": {"env": ("", "=x"), "user": ("a b", "1:2:3", "-1"), "workdir": ("a", " ")},
    "signal": {},
    "top": {},
    "pause": {},
    "resume": {},
}
WORDS = {
    "limit": ("--clean",),
    "exempt": (),
    "load": (),
    "port": (),
    **dict.fromkeys(OTHERS["exec"], ("@last", "true")),
}
"""What stands beside the option that is wrong; a call, if nothing else is said."""


def options(command: str) -> list[click.Option]:
    """The options of a command, but for the ledger."""
    found: click.Command = importlib.import_module(_COMMANDS[command][0]).command
    return [each for each in found.params if isinstance(each, click.Option) and each.name != "ledger"]


def flags_of(command: str) -> list[str]:
    return sorted(each.opts[0] for each in options(command) if each.is_flag)


def said(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    """What the command line says, in this very process: nothing of this gets as far as a second one."""
    sys.stderr.reconfigure(errors="backslashreplace")  # type: ignore[union-attr] # as it is in a process of its own
    status = run([*words])
    out, err = capsys.readouterr()
    return status, out, err


# Of `calls run`.


def test_each_option_that_takes_a_value_has_some_that_are_none() -> None:
    assert {each.name for each in options("run") if not each.is_flag} == BAD.keys()
    assert all(BAD.values())


def test_the_command_line_has_the_options_of_a_spec() -> None:
    known = {each.name for each in options("run")}
    assert known == {*Spec._fields} - {"image", "command"} | {"env_file", "untrusted", "detach", "as_json", "rm"}


@pytest.mark.parametrize("option", sorted(BAD))
def test_a_value_that_is_none_is_refused_by_the_options_name(
    option: str, ledger: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flag = f"--{option.replace('_', '-')}"
    for value in (*BAD[option], NOT_UTF8):
        status, out, err = said(capsys, "run", f"{flag}={value}", IMAGE, "true")
        assert (status, out) == (125, ""), value
        assert err.startswith(f"calls: {flag}: "), (value, err)
        assert err.count("\n") == 1
    assert not ledger.exists()


@pytest.mark.parametrize("flag", flags_of("run"))
def test_a_flag_takes_no_value(flag: str, ledger: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, out, err = said(capsys, "run", f"{flag}=yes", IMAGE, "true")
    assert (status, out) == (125, "")
    assert err.startswith(f"calls: Option '{flag}' does not take a value.")
    assert not ledger.exists()


@pytest.mark.parametrize(("option", "words"), CONTRADICTIONS, ids="".join)
def test_what_contradicts_another_is_refused_by_the_options_name(
    option: str, words: tuple[str, ...], ledger: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for command in ((IMAGE, "true"), ("--", IMAGE)):
        status, out, err = said(capsys, "run", *words, *command)
        assert (status, out, err.count("\n")) == (125, "", 1)
        assert err.startswith(f"calls: --{option}: "), err
    assert not ledger.exists()


@pytest.mark.parametrize("option", sorted(BAD))
def test_a_runner_refuses_it_as_well_and_records_nothing(option: str, ledger: Path) -> None:
    with calls.Runner(ledger, recover=False) as runner:
        for value in (*BAD[option], NOT_UTF8, "\ud800", Ellipsis, b"x", {"a": object()}):
            with pytest.raises(UsageError) as refused:
                runner.submit(IMAGE, ["true"], **{option: value})
            assert str(refused.value).startswith(f"--{option.replace('_', '-')}: "), value
    assert recorded(ledger) == 0


FLAGS = sorted({name for name, value in Spec._field_defaults.items() if value is False} | {"untrusted"})


@pytest.mark.parametrize("option", FLAGS)
@pytest.mark.parametrize("value", ["yes", "no", 1, 0, [], Ellipsis], ids=str)
def test_what_is_neither_true_nor_false_is_refused(option: str, value: object) -> None:
    with pytest.raises(SpecError) as refused:
        build_spec(IMAGE, **{option: value})
    assert refused.value.option == option


@pytest.mark.parametrize(
    "options",
    [
        {"timeout": True},
        {"memory": True},
        {"cpus": True},
        {"pids_limit": True},
        {"oom_score_adj": False},
        {"stop_timeout": False},
        {"sample": 0},
        {"sample": True},
        {"log_limit": True},
        {"env": {"A": None}},
        {"env": {"A": b"x"}},
        {"env": {1: "x"}},
        {"env": [("A", "x")]},
        {"label": {"A": None}},
        {"label": [("A", "x")]},
        {"sysctl": {"net.core.somaxconn": True}},
        {"volume": {"/a": {"bind": "/b", "mode": "ro"}}},
        {"tmpfs": {"/a": "size=1m"}},
        {"ulimit": {"nofile": 5}},
        {"secret": {"A": "the value itself"}},
        {"secret": [("A", "the value itself")]},
        {"secret": ["A=file:/a\0b"]},
        {"secret": ["A=file:\ud800"]},
        {"secret": ["A=cmd:\0"]},
        {"secret": ["A=cmd:\ud800"]},
        {"env_file": [5]},
        {"env_file": [None]},
        {"env_file": ["a\0b"]},
        {"network_of": [5]},
        {"security_opt": [5]},
        {"auth": "user:password"},
        {"auth": 5},
        {"output": 5},
        {"nosuch": 1},
        {"detach": True},
    ],
    ids=str,
)
def test_a_value_of_another_type_is_refused_by_name(options: dict[str, Any], ledger: Path) -> None:
    with calls.Runner(ledger, recover=False) as runner, pytest.raises(SpecError) as refused:
        runner.submit(IMAGE, ["true"], **options)
    assert [refused.value.option] == list(options)
    assert "the value itself" not in str(refused.value)
    assert recorded(ledger) == 0


@pytest.mark.parametrize("option", ["env", "label", "storage_opt", "sysctl", "log_opt"])
def test_a_number_of_too_many_digits_for_a_text_is_refused_by_name(option: str) -> None:
    with pytest.raises(SpecError, match="'A': a number of too many digits") as refused:
        build_spec(IMAGE, **{option: {"A": 10**5000}})
    assert refused.value.option == option


@pytest.mark.parametrize(
    ("image", "command", "option"),
    [
        *[(image, [], "image") for image in (None, "", " a", "A", "a b", "a:b:c", "a@sha256:0", "a\0", 5, b"a")],
        *[(IMAGE, command, "command") for command in ("", "echo hi", b"echo", [5], [None], ["a\0"], {"a": 5}, 5)],
    ],
)
def test_what_is_no_image_or_no_command(image: Any, command: Any, option: str, ledger: Path) -> None:
    with calls.Runner(ledger, recover=False) as runner, pytest.raises(SpecError) as refused:
        runner.submit(image, command)
    assert refused.value.option == option
    assert recorded(ledger) == 0


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"max_calls": True}, "max_calls"),
        ({"max_calls": "4"}, "max_calls"),
        ({"memory": True}, "memory"),
        ({"cpus": 1e300}, "cpus"),
        ({"cpus": 1e-12}, "cpus"),
        ({"metrics_port": "http"}, "metrics_port"),
        ({"metrics_port": "١"}, "metrics_port"),
        ({"metrics_port": True}, "metrics_port"),
        ({"image_limit": ""}, "image_limit"),
        ({"image_limit": "1g", "image_exempt": ["A B"]}, "image_exempt"),
        ({"image_exempt": ["busybox"]}, "image_exempt"),
        ({"image_limit": "1g", "image_exempt": [5]}, "image_exempt"),
        ({"image_limit": "1g", "image_exempt": 5}, "image_exempt"),
        ({"pool": -1}, "pool"),
        ({"pool": 1, "pool_networks": 5}, "pool_networks"),
        ({"pool": 1, "pool_networks": ["bridge", 5]}, "pool_networks"),
        ({"pool": 1, "pool_image": 5}, "pool_image"),
    ],
    ids=str,
)
def test_a_runner_that_cannot_be_makes_no_ledger(options: dict[str, Any], name: str, ledger: Path) -> None:
    with pytest.raises(UsageError, match=f"^{name}: "):
        calls.Runner(ledger, **options)
    assert not ledger.exists()


@pytest.mark.parametrize("given", [5, True, b"/tmp/x", "", "a\0b", "\ud800"])
def test_a_ledger_that_can_be_no_file_is_refused_and_the_default_not_taken(given: Any, ledger: Path) -> None:
    with pytest.raises(UsageError, match=r"^ledger: .* is not the path of a file$"):
        calls.Runner(given)
    assert not ledger.exists()


def test_a_host_that_can_have_no_such_name_is_one_line(ledger: Path) -> None:
    with pytest.raises(UsageError, match=r"^metrics_port: cannot listen on a\.\.b:80: "):
        calls.Runner(ledger, metrics_port="a..b:80")


def test_one_image_that_is_exempt_may_be_given_as_a_text(ledger: Path) -> None:
    with (
        pytest.raises(UsageError, match=r"^image_exempt: 'A B'"),
        calls.Runner(ledger, image_limit="1g", image_exempt="A B"),
    ):
        pass
    with calls.Runner(ledger, image_limit="1g", image_exempt="busybox") as runner:
        assert runner.cleaner is not None
        assert runner.cleaner._exempt._repositories == {("docker.io", "library/busybox")}


def recorded(ledger: Path) -> int:
    with Reader(ledger) as reader:
        return len(list(reader.calls()))


# Of other commands.


@pytest.mark.parametrize("command", sorted(OTHERS))
def test_other_commands_refuse_it_by_name_as_well(
    command: str, ledger: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    small(ledger)
    assert {each.name for each in options(command) if not each.is_flag} == OTHERS[command].keys()
    for option, values in OTHERS[command].items():
        for value in values:
            words = (f"--{option}={value}", *WORDS.get(option, ("@last",)))
            status, out, err = said(capsys, "--ledger", str(ledger), command, *words)
            assert (status, out, err.count("\n")) == (125 if command == "exec" else 2, "", 1), value
            assert err.startswith((f"calls: --{option}: ", f"calls: Invalid value for '--{option}': ")), (value, err)


def test_a_limit_that_is_empty_does_not_remove_all_images(ledger: Path, capsys: pytest.CaptureFixture[str]) -> None:
    small(ledger)
    expected = "calls: --limit: '' is not a size (write 65536, 64m or 1.5g)\n"
    assert said(capsys, "--ledger", str(ledger), "images", "--clean", "--limit", "") == (2, "", expected)


@pytest.mark.parametrize(
    "words",
    [
        *(("--ledger", "", "ps"), ("ps", "--ledger="), ("--ledger", "", "doctor")),
        ("--ledger", "", "run", "--driver", "local", "--", "true"),
    ],
)
def test_the_name_of_a_ledger_that_is_empty_is_refused_and_the_default_not_taken(
    words: tuple[str, ...], ledger: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status, out, err = said(capsys, *words)
    assert (status, out, err) == (125 if "run" in words else 2, "", "calls: ledger: '' is not the path of a file\n")
    assert not ledger.exists()


# Of bytes that are no text.


@pytest.mark.parametrize("command", sorted(_COMMANDS.keys() - {"run"}))
def test_an_argument_that_is_not_utf8_is_refused_by_name_unless_it_is_a_file(
    command: str, ledger: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    small(ledger)
    before = ledger.read_bytes()
    parameters = importlib.import_module(_COMMANDS[command][0]).command.params
    arguments = [each for each in parameters if isinstance(each, click.Argument)]
    for each in parameters:
        if each.name == "ledger" or isinstance(each.type, click.Path) or getattr(each, "is_flag", False):
            continue
        beside = [NOT_UTF8 if other is each else "@last" for other in arguments]
        words = beside if each in arguments else [each.opts[0], *[NOT_UTF8] * each.nargs, *beside]
        name = (each.metavar or each.opts[0].upper()).strip("[.]") if each in arguments else each.opts[0]
        status, out, err = said(capsys, "--ledger", str(ledger), command, *words)
        if not isinstance(each.type, click.IntRange):  # which has its own words for what is no number
            assert err == f"calls: {name}: contains bytes that are not UTF-8\n"
        assert (status, out, err.count("\n")) == (125 if command == "exec" else 2, "", 1), err
    assert ledger.read_bytes() == before


def test_a_command_with_a_variable_that_is_not_utf8_is_not_run(
    ledger: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    small(ledger)
    monkeypatch.setenv("THIS", NOT_UTF8)
    status, out, err = said(capsys, "--ledger", str(ledger), "exec", "-e", "THIS", "@last", "true")
    assert (status, out, err.count("\n")) == (125, "", 1)
    assert err.startswith("calls: --env: contains bytes that are not UTF-8")


def test_the_name_of_a_file_may_be_any_bytes(tmp_path: Path) -> None:
    place = tmp_path / NOT_UTF8
    place.mkdir()
    ledger, copy = str(place / NOT_UTF8), str(place / "copy")
    (place / "variables").write_text("A=1\n")
    secret, variables = f"B=file:{place}/variables", f"--env-file={place}/variables"
    done = running.calls(
        *("--ledger", ledger, "run", "--driver", "local", variables, "--secret", secret),
        *("--", "sh", "-c", "echo $A $B"),
    )
    assert done[:2] == (0, b"1 A=1\n")
    for words in (
        ["ps"],
        ["show", "@last"],
        ["verify"],
        ["recover"],
        ["backup", copy],
        ["salvage", copy, "-o", f"{copy}2"],
    ):
        assert running.calls("--ledger", ledger, *words).status == 0, words
    assert running.calls("ps", "--ledger", ledger).status == 0


def test_a_runner_refuses_what_is_not_utf8_before_it_is_recorded(ledger: Path) -> None:
    with calls.Runner(ledger, recover=False) as runner:
        for comment in (NOT_UTF8, "\ud800", 5):
            with pytest.raises(SpecError) as refused:
                runner.cancel("a call", comment)  # type: ignore[arg-type]
            assert refused.value.option == "comment"
        with pytest.raises(UsageError, match="not UTF-8"):  # that nobody has validated
            runner.submit_spec(Spec(driver="local", command=("true", NOT_UTF8))).result()
    assert recorded(ledger) == 0


# Of the engine.


@pytest.mark.engine
@pytest.mark.parametrize(
    ("words", "reason", "theirs"),
    [
        (("--cap-add", "NOSUCH"), "create-refused", 'unknown capability: "CAP_NOSUCH"'),
        (("--volume", "/tmp:/x:nosuch"), "create-refused", "invalid mode: nosuch"),
        (("--cpus", "1000"), "create-refused", "Range of CPUs is from 0.01 to "),
        (("--user", "nosuch"), "start-refused", "unable to find user nosuch"),
        (("--tmpfs", "/x:nosuch"), "start-refused", "invalid tmpfs option"),
        (("--device", "/etc"), "start-refused", '"/etc": not a device node'),
    ],
)
def test_what_the_engine_refuses_is_said_in_its_words_under_the_calls_id(
    words: tuple[str, ...], reason: str, theirs: str
) -> None:
    line = told(running.run(*words, IMAGE, "true"))  # which ends with the call's id
    assert line == f"error/{reason}: {shown()['message']}"
    assert theirs in line
    assert not {"{", "\\"} & {*line}
    assert (shown()["never_ran"], shown()["exit_code"], running.kinds()[-1]) == (True, None, "cleaned")
