"""Figures for Prometheus: what they are called, what they say, and that they come from what is recorded."""

from __future__ import annotations

import re
import signal
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from held import HeldDriver
from hypothesis import given, settings
from hypothesis import strategies as st
from ledgers import COMMAND, START, Call, said, small, uid
from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families
from running import IMAGE, LIMIT, until

import calls
from driver.docker.door import operation
from ledger.ledger import Ledger
from ledger.read import Reader
from ledger.tally import Buckets, Tally
from machine.errors import UsageError
from machine.facts import Admitted, Gap, Pulled
from machine.states import REASONS, Reason, State
from machine.units import SECOND

PREFIX = "call_ledger_"
KNOWN = {
    "up": ("gauge", ()),
    "calls": ("counter", ("reason", "state")),
    "live_calls": ("gauge", ("state",)),
    "call_state_seconds": ("histogram", ("state",)),
    "call_waiting_seconds": ("histogram", ()),
    "image_pulls": ("counter", ("outcome",)),
    "gaps": ("counter", ("of",)),
    "samples_lost": ("counter", ()),
}
OF_A_RUNNER = {
    "runner_calls": ("gauge", ("phase",)),
    "engine_request_seconds": ("histogram", ("operation", "outcome")),
    "engine_events": ("counter", ("action",)),
    "hot_containers": ("gauge", ("state",)),
    "hot_evictions": ("counter", ()),
    "pool_holders": ("gauge", ("state",)),
}
OF_A_CLEANER = {
    "used_images": ("gauge", ("state",)),
    "used_images_bytes": ("gauge", ("state",)),
    "used_images_limit_bytes": ("gauge", ()),
    "removed_images": ("counter", ()),
}


def parsed(text: str) -> dict[str, Metric]:
    """The families by name, without the prefix that each has."""
    found = list(text_string_to_metric_families(text))
    assert all(family.name.startswith(PREFIX) for family in found)
    assert len({family.name for family in found}) == len(found)
    return {family.name.removeprefix(PREFIX): family for family in found}


def printed(path: Path) -> dict[str, Metric]:
    status, out, err = said(path, "metrics")
    assert (status, err) == (0, "")
    return parsed(out)


def fetched(url: str | None) -> dict[str, Metric]:
    assert url is not None
    with urllib.request.urlopen(url, timeout=LIMIT) as answer:
        return parsed(answer.read().decode())


def values(family: Metric, suffix: str = "") -> dict[Any, float]:
    """By the values of the labels, in the order of their names; only one: by itself."""
    found = {}
    for sample in family.samples:
        if sample.name.removeprefix(PREFIX) == family.name.removeprefix(PREFIX) + suffix:
            labels = tuple(value for _, value in sorted(sample.labels.items()))
            found[labels[0] if len(labels) == 1 else labels] = sample.value
    return found


def check(families: dict[str, Metric], known: dict[str, tuple[str, tuple[str, ...]]]) -> None:
    """What promtool checks, and that a histogram is one."""
    assert {name: family.type for name, family in families.items()} == {name: kind for name, (kind, _) in known.items()}
    for name, family in families.items():
        kind, labels = known[name]
        assert family.documentation.endswith(".")
        assert not name.endswith(("_total", "_count", "_sum", "_bucket", "_info"))
        assert name.endswith("_seconds") == (kind == "histogram")
        seen = {tuple(sorted(sample.labels.keys() - {"le"})) for sample in family.samples}
        assert seen <= {labels}
        if kind == "counter":
            assert {sample.name for sample in family.samples} <= {f"{PREFIX}{name}_total"}
            assert all(sample.value >= 0 for sample in family.samples)
        if kind == "histogram":
            _check_histogram(family)


def _check_histogram(family: Metric) -> None:
    rows: dict[tuple[tuple[str, str], ...], list[tuple[float, float]]] = {}
    for sample in family.samples:
        if sample.name.endswith("_bucket"):
            key = tuple(sorted((name, value) for name, value in sample.labels.items() if name != "le"))
            rows.setdefault(key, []).append((float(sample.labels["le"]), sample.value))
    counts = [sample.value for sample in family.samples if sample.name.endswith("_count")]
    assert len(rows) == len(counts)
    for row, count in zip(rows.values(), counts, strict=True):
        assert row == sorted(row)
        assert [value for _, value in row] == sorted(value for _, value in row)
        assert row[-1] == (float("inf"), count)


# What a ledger says.


def test_names_types_units_and_labels(path: Path) -> None:
    families = printed(path)
    check(families, KNOWN)
    texts = {value for family in families.values() for sample in family.samples for value in sample.labels.values()}
    assert texts.isdisjoint([*map(uid, range(12)), "three", "slow", "busybox:1"])  # their number has no bound


def test_what_the_calls_of_a_ledger_add_up_to(path: Path) -> None:
    families = printed(path)
    assert {labels: count for labels, count in values(families["calls"], "_total").items() if count} == {
        ("exit", "success"): 4,
        ("exit", "error"): 1,
        ("deadline", "timeout"): 1,
        ("oom", "killed"): 1,
        ("pull-missing", "error"): 1,
        ("user", "cancelled"): 1,
    }
    assert len(values(families["calls"], "_total")) == sum(map(len, REASONS.values()))  # also those of which none is
    assert values(families["live_calls"]) == {
        **dict.fromkeys(("preparing", "prepared", "running", "health-wait"), 0),
        "paused": 1,
    }
    assert values(families["image_pulls"], "_total")["missing"] == 1
    counts = values(families["call_state_seconds"], "_count")
    assert (counts["preparing"], counts["prepared"], counts["running"], counts["paused"]) == (9, 7, 7, 0)
    assert values(families["call_state_seconds"], "_sum")["prepared"] == pytest.approx(7 * 0.25)


def test_what_happened_on_the_way(ledger: Path) -> None:
    now = START
    with Ledger(ledger) as writing:
        one, two = Call(writing, 1), Call(writing, 2)
        one.note(Admitted(waited=3 * SECOND, lacking=("memory",))).note(Pulled(image="a", seconds=1))
        two.note(Pulled(image="a", seconds=1, fallback="no network"))
        one.note(Gap(of="samples", since=now, until=now, why="full", lost=7))
        one.note(Gap(of="samples", since=now, until=now, why="late"))
        two.note(Gap(of="events", since=now, until=now, why="away", lost=3))
        two.end(State.ERROR, Reason.PULL_DENIED, never_ran=True)
    families = printed(ledger)
    assert {name: count for name, count in values(families["image_pulls"], "_total").items() if count} == {
        "ok": 1,
        "fallback": 1,
        "denied": 1,
    }
    assert values(families["gaps"], "_total") == {"samples": 2, "events": 1, "output": 0, "clock": 0}
    assert values(families["samples_lost"], "_total") == {(): 7}
    assert values(families["call_waiting_seconds"], "_sum") == {(): 3}


@settings(max_examples=25)
@given(st.lists(st.integers(0, 8), max_size=25))
def test_counting_what_is_new_is_counting_all_of_it(tmp_path_factory: pytest.TempPathFactory, acts: list[int]) -> None:
    path = tmp_path_factory.mktemp("tally") / "ledger.db"
    with Ledger(path) as writing:
        live = [Call(writing, 0)]
        steps = Tally(path)
        for number, act in enumerate(acts, 1):
            if act < 3 or not live:
                live.append(Call(writing, number).start() if act else Call(writing, number))
            elif act < 6:
                live.pop(act % len(live)).later(act).end(State.ERROR, Reason.EXIT, exit_code=1)
            elif act == 6:
                live[0].note(Gap(of="samples", since=0, until=1, why="full", lost=number))
            else:
                steps.update()
    whole = Tally(path)
    for tally in (steps, whole):
        tally.update()
    assert summary(steps) == summary(whole)
    with Reader(path) as reader:
        assert whole.ended.total() + whole.live.total() == reader.about()["calls"]


def summary(tally: Tally) -> Any:
    spans = {name: (buckets.counts, pytest.approx(buckets.sum)) for name, buckets in tally.spent.items()}
    return tally.ended, tally.live, spans, tally.pulls, tally.gaps, tally.samples_lost


def test_another_ledger_in_the_same_place_is_counted_afresh(ledger: Path, path: Path) -> None:
    small(ledger)
    tally = Tally(ledger)
    tally.update()
    assert sum(tally.ended.values()) == 9
    for file in ledger.parent.glob("ledger.db*"):
        file.unlink()
    with Ledger(ledger) as writing:
        Call(writing, 1).start().end(State.SUCCESS, Reason.EXIT, exit_code=0)
    tally.update()
    assert (tally.ended, tally.live.total()) == ({("success", "exit"): 1}, 0)


def test_what_was_pruned_still_counts(ledger: Path) -> None:
    small(ledger)
    before = printed(ledger)
    assert said(ledger, "prune", "--older-than", "1d")[0] == 0
    for name in ("calls", "call_state_seconds", "image_pulls"):
        assert values(printed(ledger)[name], "_total") == values(before[name], "_total")
        assert values(printed(ledger)[name], "_count") == values(before[name], "_count")


@given(st.lists(st.floats(0, 100), max_size=50))
def test_a_value_counts_where_it_does_not_exceed_the_bound(numbers: list[float]) -> None:
    buckets = Buckets((1, 10))
    for number in numbers:
        buckets.add(number)
    assert buckets.counts == [
        sum(number <= 1 for number in numbers),
        sum(1 < number <= 10 for number in numbers),
        sum(number > 10 for number in numbers),
    ]
    assert buckets.sum == pytest.approx(sum(numbers))


# The command.


def test_without_a_ledger_it_says_so(ledger: Path) -> None:
    status, out, err = said(ledger, "metrics")
    assert (status, out) == (2, "")
    assert err.startswith(f"calls: no ledger at {ledger} yet")


def test_it_serves_until_ctrl_c_and_what_is_new_is_seen(ledger: Path) -> None:
    small(ledger)
    words = [*COMMAND, "--ledger", str(ledger), "metrics", "--port", "0"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            url = process.stdout.readline().strip()
            assert url.startswith("http://127.0.0.1:")
            check(fetched(url), KNOWN)
            with Ledger(ledger) as writing:
                Call(writing, 11).start().end(State.SUCCESS, Reason.EXIT, exit_code=0)
            assert values(fetched(url)["calls"], "_total")["exit", "success"] == 5
            for file in ledger.parent.glob("ledger.db*"):
                file.rename(ledger.parent / f"gone-{file.name}")
            assert {name: values(family) for name, family in fetched(url).items()} == {"up": {(): 0}}
        finally:
            process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=LIMIT)
        assert (out, err.strip()) == ("", "")
    assert process.returncode == 130


def test_a_port_that_is_taken_is_one_line(path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        expected = f"calls: --port: cannot listen on 127.0.0.1:{port}: address already in use\n"
        assert said(path, "metrics", "--port", str(port)) == (2, "", expected)


@pytest.mark.parametrize("place", ["", "http", "70000", "-1", "localhost"])
def test_what_is_no_place_is_refused(path: Path, place: str) -> None:
    expected = f"calls: --port: {place!r} is no place to listen at (write 9464 or 0.0.0.0:9464)\n"
    assert said(path, "metrics", f"--port={place}") == (2, "", expected)


def test_without_the_library_it_says_what_to_install(path: Path) -> None:
    hidden = "import sys; sys.modules['prometheus_client'] = None"
    script = f"{hidden}; from calls.cli.group import run; sys.exit(run(sys.argv[1:]))"
    words = [sys.executable, "-c", script, "--ledger", str(path), "metrics"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=LIMIT, check=False)
    expected = "calls: metrics need prometheus-client: pip install 'call-ledger[metrics]'\n"
    assert (done.returncode, done.stdout, done.stderr) == (2, "", expected)


def test_it_is_loaded_only_when_it_is_wanted() -> None:
    script = "import sys, calls.runner, driver.docker, calls.cli.run\nassert 'prometheus_client' not in sys.modules"
    assert subprocess.run([sys.executable, "-c", script], timeout=LIMIT, check=False).returncode == 0


def test_the_page_about_them_names_each_and_no_other() -> None:
    page = (Path(__file__).parent.parent / "docs" / "metrics.md").read_text(encoding="utf-8")
    rows = [line.split("|") for line in page.splitlines() if re.match(r"\| `", line)]
    told = {
        name: (row[2].strip(), tuple(sorted(re.findall("`(.+?)`", row[3]))))
        for row in rows
        for name in re.findall("`(.+?)`", row[1])
    }
    assert told == KNOWN | OF_A_RUNNER | OF_A_CLEANER


# A runner's.


def test_a_runner_serves_its_ledger_and_what_it_is_doing(ledger: Path) -> None:
    driver = HeldDriver()
    with calls.Runner(ledger, drivers=[driver], max_calls=1, metrics_port=0) as runner:
        futures = [runner.submit("image", driver="held", sample="off", name=name) for name in ("a", "b", "c")]
        driver.running("a")
        families = fetched(runner.metrics_url)
        check(families, KNOWN | OF_A_RUNNER)
        assert values(families["runner_calls"]) == {"under-way": 1, "waiting": 2}
        for name in ("a", "b", "c"):
            driver.running(name).end()
        assert [future.result(LIMIT).state for future in futures] == ["success"] * 3
        until(lambda: values(fetched(runner.metrics_url)["runner_calls"])["under-way"] == 0, "the end of all")
        assert values(fetched(runner.metrics_url)["calls"], "_total")["exit", "success"] == 3
        assert values(fetched(runner.metrics_url)["call_waiting_seconds"], "_count") == {(): 2}
        url = runner.metrics_url
    with pytest.raises(OSError, match="refused"):
        fetched(url)


def test_a_runner_without_a_port_serves_nothing(ledger: Path) -> None:
    with calls.Runner(ledger) as runner:
        assert runner.metrics_url is None


def test_a_runner_whose_port_is_taken_is_not_made(ledger: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        message = f"metrics_port: cannot listen on 127.0.0.1:{port}: address already in use"
        with pytest.raises(UsageError, match=message):
            calls.Runner(ledger, metrics_port=port)


@pytest.mark.engine
def test_how_long_the_engine_takes_and_what_it_says(ledger: Path) -> None:
    with calls.Runner(ledger, metrics_port="127.0.0.1:0") as runner:
        assert runner.run(IMAGE, ["true"], network="none").state == "success"
        assert runner.run("nosuch-image:1", network="none", pull="never").reason == "pull-missing"
        families = fetched(runner.metrics_url)
        check(families, KNOWN | OF_A_RUNNER)
        counts = values(families["engine_request_seconds"], "_count")
    assert counts["ping", "ok"] == counts["container_start", "ok"] == counts["container_remove", "ok"] == 1
    assert (counts["container_create", "ok"], counts["container_create", "404"]) == (1, 1)
    assert counts["container_attach", "ok"] == 1
    assert not any(name == "other" for name, _ in counts)


@pytest.mark.engine
def test_what_is_kept_ready_and_what_the_engine_tells(ledger: Path, tmp_path: Path) -> None:
    options = {"network": "none", "hot": True, "volume": [f"{tmp_path}:/gate"]}
    waits = ["sh", "-c", "until [ -e /gate/open ]; do sleep 0.05; done"]
    with calls.Runner(ledger, metrics_port=0, pool=2, image_limit="1g") as runner:
        driver: Any = runner.driver("docker")
        assert driver.pool.ready(LIMIT)
        assert runner.run(IMAGE, ["true"]).state == "success"
        futures = [runner.submit(IMAGE, waits, **options) for _ in range(2)]
        until(lambda: values(fetched(runner.metrics_url)["hot_containers"])["busy"] == 2, "both at work")
        (tmp_path / "open").touch()
        assert [future.result(LIMIT).state for future in futures] == ["success"] * 2
        until(lambda: values(fetched(runner.metrics_url)["hot_containers"])["paused"] == 2, "the pause of both")
        until(lambda: values(fetched(runner.metrics_url)["used_images"])["in-use"] == 1, "a look of the cleaner")
        families = fetched(runner.metrics_url)
        check(families, KNOWN | OF_A_RUNNER | OF_A_CLEANER)
    assert values(families["hot_containers"]) == {"busy": 0, "idle": 0, "paused": 2}
    assert values(families["hot_evictions"], "_total") == values(families["removed_images"], "_total") == {(): 0}
    assert values(families["pool_holders"]) == {"free": 2, "lent": 0}
    heard = values(families["engine_events"], "_total")
    assert (heard["die"], heard["pause"]) == (1, 2)
    sizes = values(families["used_images_bytes"])
    assert sizes.pop("in-use") > 0
    assert sizes == {"idle": 0, "exempt": 0, "only-here": 0}
    assert values(families["used_images_limit_bytes"]) == {(): 2**30}


def test_an_engine_that_is_not_there_is_counted_as_unreachable(ledger: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", f"unix://{ledger.parent}/nobody.sock")
    with calls.Runner(ledger, metrics_port=0) as runner:
        assert runner.run(IMAGE, ["true"]).reason == "engine-unavailable"
        counts = values(fetched(runner.metrics_url)["engine_request_seconds"], "_count")
    assert counts.keys() == {("ping", "unreachable")}


@pytest.mark.parametrize(
    ("method", "path", "expected"),
    [
        ("GET", "/_ping", "ping"),
        ("GET", "/v1.41/events?filters=%7B%7D", "events"),
        ("GET", "/v1.41/containers/json?all=1", "container_list"),
        ("POST", "/v1.41/containers/create?name=x", "container_create"),
        ("GET", "/v1.41/containers/json/json", "container_inspect"),
        ("POST", "/v1.41/containers/0123/attach?stream=1", "container_attach"),
        ("DELETE", "/v1.41/containers/create?v=1", "container_remove"),
        ("POST", "/v1.41/images/create?fromImage=a", "image_pull"),
        ("GET", "/v1.41/images/localhost:5000/a/b@sha256:00/json", "image_inspect"),
        ("DELETE", "/v1.41/images/localhost:5000/a/b", "image_remove"),
        ("GET", "/v1.41/networks", "network_list"),
        ("GET", "/v1.41/networks/create", "network_inspect"),
        ("POST", "/v1.41/networks/n/connect", "network_connect"),
        ("POST", "/v1.41/exec/0123/start", "exec_start"),
        ("POST", "/v1.41/containers/0123/rename", "other"),
        ("GET", "/", "other"),
        ("PATCH", "/v1.41/anything/at/all", "other"),
    ],
)
def test_an_operation_has_one_name_whatever_it_is_done_to(method: str, path: str, expected: str) -> None:
    assert operation(method, path) == expected
