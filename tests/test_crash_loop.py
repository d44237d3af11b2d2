"""The crash loop of benchmarks/crash.py, a short one, and the soak, for as long as it takes to break a few things."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"
DRIVERS = ["local", pytest.param("docker", marks=pytest.mark.engine)]


def carried_out(script: str, *words: str) -> dict[str, object]:
    """What the script says at its end; its exit status is 0 only if nothing was wrong."""
    done = subprocess.run([sys.executable, BENCHMARKS / script, *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    told: dict[str, object] = json.loads(done.stdout.splitlines()[0])
    return told


@pytest.mark.parametrize("driver", DRIVERS)
def test_row_12_a_runner_may_be_killed_at_any_moment(driver: str) -> None:
    told = carried_out("crash.py", "--rounds", "8", "--driver", driver)
    assert told["rounds"] == 8
    assert told["calls"] != 0
    assert told["acknowledged"] != 0


def test_row_47_a_soak_of_a_few_seconds() -> None:
    told = carried_out("soak.py", "--minutes", "0.2", "--runners", "3", "--driver", "local")
    assert told["calls"] != 0
