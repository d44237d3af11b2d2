"""Reading control groups, version 1 and 2, from files as kernels write them."""

from __future__ import annotations

from pathlib import Path

import pytest

from driver.cgroup import CgroupMeter, Mounts, mounts, network
from machine.samples import Sample, with_rates

V1_INFO = """\
31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,relatime - cgroup cgroup rw,cpu,cpuacct
35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory
38 31 0:35 / /sys/fs/cgroup/blkio rw,relatime shared:9 - cgroup cgroup rw,blkio
39 31 0:36 / /sys/fs/cgroup/pids rw,relatime - cgroup cgroup rw,pids
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
"""
V2_INFO = "30 23 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate,memory_recursiveprot\n"

NET = """\
Inter-|   Receive                                                |  Transmit
 face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed
    lo:     500       5    0    0    0     0          0         0      500       5    0    0    0     0       0          0
  eth0:    1000      10    0    0    0     0          0         0      200       2    0    0    0     0       0          0
  eth1:       1       1    0    0    0     0          0         0        2       1    0    0    0     0       0          0
"""


def write(folder: Path, **files: str) -> None:
    """Files of a group; `__` in a name stands for a dot."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name.replace("__", ".")).write_text(text)


@pytest.fixture
def v1(tmp_path: Path) -> Mounts:
    roots = {name: tmp_path / name for name in ("cpu", "cpuacct", "memory", "blkio", "pids")}
    write(roots["cpu"] / "g", cpu__stat="nr_periods 9\nnr_throttled 3\nthrottled_time 777\n")
    write(roots["cpuacct"] / "g", cpuacct__usage="31\n", cpuacct__usage_user="20\n", cpuacct__usage_sys="10\n")
    write(
        roots["memory"] / "g",
        memory__stat="cache 1\nhierarchical_memory_limit 67108864\ntotal_cache 4096\ntotal_rss 8192\ntotal_inactive_file 1000\n",
        memory__usage_in_bytes="13000\n",
        memory__max_usage_in_bytes="20000\n",
        memory__oom_control="oom_kill_disable 0\nunder_oom 0\noom_kill 1\n",
    )
    write(
        roots["blkio"] / "g",
        blkio__throttle__io_service_bytes_recursive="8:0 Read 5\n8:0 Write 6\n8:16 Read 7\n8:0 Sync 1\nTotal 18\n",
    )
    write(roots["pids"] / "g", pids__current="4\n")
    return Mounts(roots, None, frozenset(roots.values()))


@pytest.fixture
def v2(tmp_path: Path) -> Mounts:
    write(
        tmp_path / "g",
        cpu__stat="usage_usec 30\nuser_usec 20\nsystem_usec 10\nnr_periods 0\nnr_throttled 0\nthrottled_usec 5\n",
        memory__stat="anon 8192\nfile 4096\ninactive_file 1000\n",
        memory__current="13000\n",
        memory__max="max\n",
        memory__peak="20000\n",
        memory__events="low 0\nhigh 0\nmax 9\noom 2\noom_kill 2\n",
        io__stat="8:0 rbytes=5 wbytes=6 rios=1 wios=1 dbytes=0 dios=0\n8:16 rbytes=7 wbytes=0 rios=1 wios=0\n",
        pids__current="4\n",
    )
    return Mounts({}, tmp_path, frozenset((tmp_path,)))


def sampled(meter: CgroupMeter) -> Sample:
    """A reading, which must come."""
    sample = meter.read()
    assert sample is not None
    return sample


def test_mounts_of_version_1_win_over_an_empty_unified_hierarchy() -> None:
    found = mounts(V1_INFO)
    assert found.version == 1
    assert found.v1["cpuacct"] == Path("/sys/fs/cgroup/cpu,cpuacct")
    assert Path("/sys/fs/cgroup/unified") in found.hierarchies


def test_mounts_of_version_2() -> None:
    found = mounts(V2_INFO)
    assert (found.version, found.v2) == (2, Path("/sys/fs/cgroup"))


def test_no_control_groups_at_all() -> None:
    found = mounts("30 23 0:26 / / rw - ext4 /dev/vda rw\n")
    assert found.version == 0
    assert not CgroupMeter(found, "g").visible


def test_version_1(v1: Mounts) -> None:
    assert CgroupMeter(v1, "/g").read() == Sample(
        cpu_total_ns=31,  # measured; its parts are counted in ticks
        cpu_user_ns=20,
        cpu_kernel_ns=10,
        throttled_ns=777,
        mem_usage_bytes=12000,
        mem_rss_bytes=8192,
        mem_cache_bytes=4096,
        mem_limit_bytes=67108864,
        mem_peak_bytes=20000,
        disk_read_bytes=12,
        disk_write_bytes=6,
        pids=4,
    )


def test_version_2(v2: Mounts) -> None:
    assert CgroupMeter(v2, "/g").read() == Sample(
        cpu_total_ns=30_000,
        cpu_user_ns=20_000,
        cpu_kernel_ns=10_000,
        throttled_ns=5_000,
        mem_usage_bytes=12000,
        mem_rss_bytes=8192,
        mem_cache_bytes=4096,
        mem_limit_bytes=None,
        mem_peak_bytes=20000,
        disk_read_bytes=12,
        disk_write_bytes=6,
        pids=4,
    )


def test_a_kernel_without_split_cpu_counters_still_gives_the_total(v1: Mounts) -> None:
    (v1.v1["cpuacct"] / "g" / "cpuacct.usage_user").unlink()
    sample = CgroupMeter(v1, "g").read()
    assert sample is not None
    assert (sample.cpu_total_ns, sample.cpu_user_ns) == (31, None)


def test_no_limit_is_none_not_a_huge_number(v1: Mounts) -> None:
    stat = v1.v1["memory"] / "g" / "memory.stat"
    stat.write_text(stat.read_text().replace("67108864", "9223372036854771712"))
    sample = CgroupMeter(v1, "g").read()
    assert sample is not None
    assert sample.mem_limit_bytes is None


def test_files_that_are_missing_are_none_not_zero(v2: Mounts, tmp_path: Path) -> None:
    for name in ("io.stat", "memory.peak", "pids.current"):
        (tmp_path / "g" / name).unlink()
    sample = CgroupMeter(v2, "g").read()
    assert sample is not None
    assert (sample.disk_read_bytes, sample.mem_peak_bytes, sample.pids) == (None, None, None)


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_a_group_that_is_gone_reads_as_none(version: str, request: pytest.FixtureRequest) -> None:
    meter = CgroupMeter(request.getfixturevalue(version), "nosuch")
    assert meter.read() is None
    assert meter.totals() is None
    assert not meter.visible


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_totals_have_what_a_parent_keeps(version: str, request: pytest.FixtureRequest) -> None:
    totals = CgroupMeter(request.getfixturevalue(version), "g").totals()
    disk = (None, None) if version == "v1" else (12, 6)
    assert totals is not None
    assert totals.cpu_total_ns
    assert (totals.mem_peak_bytes, totals.mem_cache_bytes) == (20000, 4096)
    assert (totals.mem_usage_bytes, totals.mem_rss_bytes, totals.pids, totals.throttled_ns) == (None,) * 4
    assert (totals.disk_read_bytes, totals.disk_write_bytes) == disk


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_counters_have_no_gauges(version: str, request: pytest.FixtureRequest) -> None:
    meter = CgroupMeter(request.getfixturevalue(version), "g")
    gauges = {"mem_usage_bytes": None, "mem_rss_bytes": None, "mem_cache_bytes": None, "pids": None}
    assert meter.counters() == sampled(meter)._replace(**gauges)


def test_a_disk_that_no_row_is_of_was_not_measured(v1: Mounts) -> None:
    (v1.v1["blkio"] / "g" / "blkio.throttle.io_service_bytes_recursive").write_text("Total 0\n")
    sample = sampled(CgroupMeter(v1, "g"))
    assert (sample.disk_read_bytes, sample.disk_write_bytes) == (None, None)


def test_an_interface_may_have_any_name(v2: Mounts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = tmp_path / "dev"
    table.write_bytes(NET.encode().replace(b"eth0", b"\377\376"))
    meter = CgroupMeter(v2, "g", 1)
    monkeypatch.setattr(meter, "_net", str(table))
    sample = sampled(meter)
    assert (sample.net_rx_bytes, sample.net_tx_bytes) == (1001, 202)


def test_out_of_memory_kills_are_counted_by_the_kernel(v1: Mounts, v2: Mounts) -> None:
    assert [CgroupMeter(mounts, "g").oom_kills() for mounts in (v1, v2)] == [1, 2]
    assert CgroupMeter(v1, "nosuch").oom_kills() is None


def test_network_is_summed_without_loopback() -> None:
    assert network(NET) == (1001, 202)


def test_no_network_is_none_not_zero() -> None:
    assert network("\n".join(NET.splitlines()[:3])) == (None, None)
    assert network(None) == (None, None)


def test_only_empty_groups_of_ours_are_removed(tmp_path: Path) -> None:
    for name in ("memory", "unified"):
        (tmp_path / name / "call-1").mkdir(parents=True)
        (tmp_path / name / "other").mkdir()
    found = Mounts({}, None, frozenset((tmp_path / "memory", tmp_path / "unified")))
    found.remove("/call-1")
    found.remove("/never-there")
    assert sorted(path.name for path in tmp_path.glob("*/*")) == ["other", "other"]


def test_rates_are_percent_of_one_core_with_fractions() -> None:
    sample = with_rates(Sample(cpu_total_ns=9_000_000), 2_000_000_000, Sample(cpu_total_ns=0), 1_000_000_000)
    assert sample.cpu_total_pct == pytest.approx(0.9)


def test_no_rate_without_a_reading_before_or_with_a_counter_that_went_back() -> None:
    assert with_rates(Sample(cpu_total_ns=5), 10, None, 0).cpu_total_pct is None
    assert with_rates(Sample(cpu_total_ns=5), 10, Sample(cpu_total_ns=6), 5).cpu_total_pct is None
    assert with_rates(Sample(cpu_total_ns=5), 10, Sample(cpu_total_ns=1), 10).cpu_total_pct is None
