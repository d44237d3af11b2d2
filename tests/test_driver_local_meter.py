"""What a local process used: samples while it lives, and exact totals at its end."""

from __future__ import annotations

import queue
import sys
from collections.abc import Callable, Iterator

import psutil
import pytest
from contract import LIMIT, STAYS, SUCCEEDS, local
from processes import MIB, Prepare, known, preparing, starting

from driver.local import LocalDriver
from driver.local.meter import ProcessMeter, own_peak
from driver.protocol import STDOUT, Died, Meter, Sink
from driver.sampler import Sampler
from machine.samples import METRICS, Sample
from machine.units import SECOND

BURNS = "import time\nwhile time.process_time() < 0.3: pass\n"


@pytest.fixture
def prepare() -> Iterator[Prepare]:
    """Prepare a command with options; -> its container, and the ear that hears of it."""
    with local() as stage:
        assert isinstance(stage.driver, LocalDriver)
        with preparing(stage.driver) as prepare:
            yield prepare


@pytest.fixture
def start(prepare: Prepare) -> Prepare:
    """As `prepare`, and started."""
    return starting(prepare)


def test_cpu_time_is_exact(start: Prepare) -> None:
    """Even of `true`, which no sampler ever saw; with the children that were waited for."""
    short, short_ear = start(*SUCCEEDS)
    family, family_ear = start("sh", "-c", f"{sys.executable} -c '{BURNS}'; true")
    short_ear.until(Died)
    family_ear.until(Died)
    totals = short.totals()
    assert totals is not None
    assert 0 < known(totals.cpu_total_ns) < SECOND
    assert totals.cpu_total_ns == known(totals.cpu_user_ns) + known(totals.cpu_kernel_ns)
    assert known((family.totals() or Sample()).cpu_total_ns) >= 0.3 * SECOND


def test_peak_memory_is_known_when_it_exceeds_ours(start: Prepare) -> None:
    """A process starts out in the memory of its parent: up to that, its peak says nothing."""
    large = own_peak() + 64 * MIB
    container, ear = start(sys.executable, "-c", f"b'x' * {large}")
    small, small_ear = start(*SUCCEEDS)
    ear.until(Died)
    small_ear.until(Died)
    assert known((container.totals() or Sample()).mem_peak_bytes) >= large
    assert (small.totals() or Sample(mem_peak_bytes=0)).mem_peak_bytes is None


def test_samples_come_from_the_sampler(start: Prepare) -> None:
    """One at once, then with rates; what is not measured is None; totals end them."""
    sampler, samples = Sampler(), queue.SimpleQueue[Sample]()
    container, _ = start(*STAYS)
    container.observe(sampler, SECOND // 10, lambda _, sample: samples.put(sample))
    first, second = (samples.get(timeout=LIMIT / SECOND) for _ in range(2))
    container.totals()
    sampler.close()
    measured = {name for name in METRICS if getattr(first, name) is not None}
    assert measured == {
        *("cpu_total_ns", "cpu_user_ns", "cpu_kernel_ns", "mem_usage_bytes", "mem_rss_bytes"),
        *("disk_read_bytes", "disk_write_bytes", "pids"),
    }
    assert first.cpu_total_pct is None
    assert second.cpu_total_pct is not None


class NoSampling:
    """A Sampling that nobody may use."""

    def add(self, meter: Meter, interval: int, sink: Sink) -> Callable[[], None]:
        """Fail."""
        pytest.fail(f"{meter} for {sink} each {interval} ns")


def test_what_does_not_run_is_not_sampled(prepare: Prepare) -> None:
    """Neither before its start nor after its end, and that is no error."""
    container, ear = prepare(*SUCCEEDS)
    container.observe(NoSampling(), SECOND, lambda *_: None)
    container.start()
    ear.until(Died)
    container.observe(NoSampling(), SECOND, lambda *_: None)


def test_counters_never_go_backwards(start: Prepare) -> None:
    """Not even when a child ends that nobody waits for, and takes its share with it."""
    keeps = f"{BURNS}kept = b'x' * {32 * MIB}\nprint(flush=True)\ntime.sleep(600)"
    spawns = "import signal, subprocess, sys, time\nsignal.signal(signal.SIGCHLD, signal.SIG_IGN)\n"
    spawns += "subprocess.Popen([sys.executable, '-c', sys.argv[1]])\ntime.sleep(600)"
    container, ear = start(sys.executable, "-c", spawns, keeps)
    ear.until_said(STDOUT, b"\n")
    pid = known(container.inspect().pid)
    meter = ProcessMeter(pid)
    before = meter.read()
    assert before is not None
    assert known(before.cpu_total_ns) >= 0.25 * SECOND
    assert known(before.pids) >= 2
    child = psutil.Process(pid).children()[0]
    child.kill()
    child.wait(LIMIT / SECOND)
    after = meter.read()
    assert after is not None
    assert known(after.cpu_total_ns) >= known(before.cpu_total_ns)
    assert known(before.mem_rss_bytes) - known(after.mem_rss_bytes) >= 32 * MIB
    container.signal("KILL")
    ear.until(Died)
    assert meter.read() is None


def test_totals_know_what_the_samples_knew(start: Prepare) -> None:
    """A child that was never waited for is not in the kernel's account, but it was seen."""
    container, ear = start("sh", "-c", f"{sys.executable} -c '{BURNS}print(flush=True);time.sleep(600)' & wait")
    sampler, samples = Sampler(), queue.SimpleQueue[Sample]()
    ear.until_said(STDOUT, b"\n")
    container.observe(sampler, SECOND, lambda _, sample: samples.put(sample))
    seen = samples.get(timeout=LIMIT / SECOND)
    container.signal("KILL")
    ear.until(Died)
    totals = container.totals()
    sampler.close()
    assert totals is not None
    assert known(totals.cpu_total_ns) >= known(seen.cpu_total_ns) >= 0.25 * SECOND
    assert known(totals.mem_peak_bytes) >= known(seen.mem_usage_bytes)
