"""Drivers by name: the built-in ones, and those of distributions that are really installed, by pip, from a wheel."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import docker
import pytest
from contract import Ear
from running import calls as carry_out
from running import shown

import calls
from calls.recover import Recovery
from calls.testing import Schedule, Script, ScriptedDriver
from driver import registry
from driver.docker import DockerDriver
from driver.local import LocalDriver
from driver.protocol import Labels
from driver.pump import Pump
from machine.errors import UsageError
from machine.spec import Spec
from machine.units import SECOND

ROOT = Path(__file__).parent.parent
MINE = """
from driver.local import LocalDriver

class Mine(LocalDriver):
    name = "{name}"
"""
Install = Callable[..., Path]


@pytest.fixture
def install(tmp_path: Path) -> Install:
    """Installs a distribution of one module; -> the folder where it is."""

    def install(name: str, source: str, point: str | None = None) -> Path:
        module = f"{name}_of_a_test"
        files = {
            f"{module}.py": source,
            f"{name}-1.0.dist-info/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n",
            f"{name}-1.0.dist-info/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
            f"{name}-1.0.dist-info/entry_points.txt": f"[{registry.GROUP}]\n{point or name} = {module}:Mine\n",
            f"{name}-1.0.dist-info/RECORD": "",
        }
        wheel = tmp_path / f"{name}-1.0-py3-none-any.whl"
        with zipfile.ZipFile(wheel, "w") as archive:
            for path, text in files.items():
                archive.writestr(path, text)
        place = tmp_path / "installed"
        pip = [sys.executable, "-m", "pip", "install", "-qq", "--disable-pip-version-check", "--no-index", "--no-deps"]
        subprocess.run([*pip, "--target", str(place), str(wheel)], check=True, timeout=120)
        return place

    return install


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str, Path], object]]:
    """Makes the driver of a name, with the distributions of a folder."""
    pump = Pump()

    def make(name: str, place: Path) -> object:
        monkeypatch.syspath_prepend(str(place))
        return registry.make(name, pump, Labels("ledger", "runner"))

    yield make
    pump.close()


@pytest.mark.parametrize("driver", [DockerDriver, LocalDriver])
def test_what_is_said_of_a_built_in_driver_is_so(driver: type[DockerDriver | LocalDriver]) -> None:
    assert driver.name in registry.names()
    assert registry.takes_image(driver.name) is driver.takes_image
    pump = Pump()
    made = registry.make(driver.name, pump, Labels("ledger", "runner"))
    assert type(made) is driver
    made.close()
    pump.close()


def test_a_built_in_driver_is_made_without_a_look_at_what_is_installed() -> None:
    probe = (
        "import sys; from driver import registry; registry.takes_image('docker'); registry.takes_image('local');"
        "print([name for name in ('importlib.metadata', 'docker', 'psutil') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout == "[]\n"


def test_an_installed_driver_carries_calls_out(install: Install) -> None:
    place = str(install("mine", MINE.format(name="mine")))
    done = carry_out("run", "--driver", "mine", "--", "sh", "-c", "echo from mine; exit 3", PYTHONPATH=place)
    assert (done.status, done.out) == (3, b"from mine\n")
    assert (shown()["driver"], shown()["image"], shown()["state"]) == ("mine", None, "error")


WRAPPED = """
from driver.docker import DockerDriver

class Mine(DockerDriver):
    name = "wrapped"
    def request(self, spec, labels, parent):
        made = super().request(spec, labels, parent)
        made["HostConfig"]["CpuPeriod"], made["HostConfig"]["CpuQuota"] = 50_000, 25_000
        return made
"""


@pytest.mark.engine
def test_a_driver_that_wraps_another_may_change_what_is_asked_of_the_engine(
    install: Install, engine: docker.APIClient
) -> None:
    words = ("run", "--driver", "wrapped", "--keep", "busybox", "true")
    assert carry_out(*words, PYTHONPATH=str(install("wrapped", WRAPPED))).status == 0
    made = engine.inspect_container(shown()["id"])["HostConfig"]
    engine.remove_container(shown()["id"])
    assert (made["CpuPeriod"], made["CpuQuota"]) == (50_000, 25_000)


STRICT = """
from driver.local import LocalDriver
from machine.errors import SpecError

class Mine(LocalDriver):
    name = "strict"
    def check(self, spec):
        super().check(spec)
        if "owner" not in dict(spec.label):
            raise SpecError("label", "say whose call it is (owner=NAME)")
"""


def test_a_driver_may_refuse_a_call_before_anything_is_written(install: Install) -> None:
    place = str(install("strict", STRICT))
    done = carry_out("run", "--driver", "strict", "--", "true", PYTHONPATH=place)
    assert done == (125, b"", b"calls: --label: say whose call it is (owner=NAME)\n")
    assert carry_out("ps", "-aq").out == b""
    assert carry_out("run", "--driver", "strict", "--label", "owner=me", "--", "true", PYTHONPATH=place).status == 0


def test_an_installed_driver_may_take_an_image(install: Install) -> None:
    source = "from driver.local import LocalDriver\n\ndef Mine(pump, labels):\n    return Imaged(pump, labels)\n\n"
    source += 'class Imaged(LocalDriver):\n    name = "imaged"\n    def check(self, spec):\n        assert spec.image\n'
    done = carry_out("run", "--driver", "imaged", "some:image", "echo", "hi", PYTHONPATH=str(install("imaged", source)))
    assert (done.status, done.out, shown()["image"]) == (0, b"hi\n", "some:image")


def test_a_name_that_there_is_not_is_answered_with_those_that_there_are(install: Install) -> None:
    place = install("mine", MINE.format(name="mine"))
    done = carry_out("run", "--driver", "minx", "busybox", PYTHONPATH=str(place))
    assert done == (125, b"", b"calls: --driver: there is no driver 'minx' (there are docker, local, mine)\n")


def test_doctor_names_the_drivers_and_what_is_wrong_with_them(install: Install) -> None:
    install("mine", MINE.format(name="mine"))
    place = install("broken", "import nosuch_module")
    done = carry_out("doctor", "--json", PYTHONPATH=str(place))
    (row,) = [row for row in json.loads(done.out) if row["check"] == "drivers"]
    assert done.status == 1
    assert row["verdict"] == "bad"
    assert row["detail"] == (
        "docker, local, mine; --driver: the driver 'broken' cannot be used, broken_of_a_test:Mine of broken 1.0: "
        "ModuleNotFoundError: No module named 'nosuch_module'"
    )


def test_a_broken_driver_is_one_line_and_others_are_not_affected(install: Install) -> None:
    place = str(install("broken", "raise RuntimeError('two\\nlines')"))
    done = carry_out("run", "--driver", "broken", "--", "true", PYTHONPATH=place)
    why = "the driver 'broken' cannot be used, broken_of_a_test:Mine of broken 1.0: RuntimeError: two lines"
    assert done == (125, b"", f"calls: --driver: {why}\n".encode())
    assert carry_out("run", "--driver", "local", "--", "true", PYTHONPATH=place).status == 0


@pytest.mark.parametrize(
    ("name", "source", "why"),
    [
        ("text", "Mine = 'mine'", "it is nothing that makes a driver"),
        ("fails", "def Mine(pump, labels): return 1 / 0", "ZeroDivisionError: division by zero"),
        (
            "little",
            "class Mine:\n    name = 'little'\n    def __init__(self, *_): ...",
            "what it makes has no takes_image, ",
        ),
        ("another", MINE.format(name="mine"), "what it makes is named 'mine'"),
        ("nothing", "", "AttributeError: module 'nothing_of_a_test' has no attribute 'Mine'"),
    ],
)
def test_what_is_no_driver(
    install: Install, made: Callable[[str, Path], object], name: str, source: str, why: str
) -> None:
    with pytest.raises(UsageError, match=re.escape(f"{name} 1.0: {why}")):
        made(name, install(name, source))


def test_two_drivers_of_one_name_are_none(install: Install, made: Callable[[str, Path], object]) -> None:
    install("mine", MINE.format(name="mine"))
    place = install("ours", MINE.format(name="mine"), point="mine")
    with pytest.raises(UsageError, match=r"there are several drivers 'mine': (mine|ours)_of_a_test:Mine of "):
        made("mine", place)


def test_a_built_in_name_is_taken(install: Install, made: Callable[[str, Path], object]) -> None:
    assert type(made("local", install("mine", MINE.format(name="local"), point="local"))) is LocalDriver
    assert registry.names() == ["docker", "local"]


def test_a_docker_call_needs_an_image() -> None:
    pump = Pump()
    driver = DockerDriver(pump, Labels("ledger", "runner"))
    with pytest.raises(calls.SpecError, match="IMAGE: no image given"):
        driver.check(Spec.parse(command=["true"]))
    pump.close()


def test_what_any_driver_of_the_runner_has_left_is_reaped(ledger: Path) -> None:
    clock = Schedule()
    driver = ScriptedDriver(clock, Script(), name="of-a-test")
    with calls.Runner(ledger, drivers=[driver], clock=clock, recover=False) as runner:
        driver.labels = driver.labels._replace(ledger=runner.ledger.id)
        container = driver.prepare("nobody's", Spec.parse(driver="of-a-test"), Ear(clock))
        clock.advance(600 * SECOND)
        assert [(told.id, told.action) for told in Recovery(runner).reap()] == [("nobody's", "reaped")]
        assert container.inspect().status == "gone"


def test_the_example_of_the_docs(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "drivers.md").read_text(encoding="utf-8")
    found = re.search(r"```python\n(.*?)```\n\n```\n(.*?)```", page, re.DOTALL)
    assert found
    done = subprocess.run([sys.executable, "-c", found[1]], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == (found[2], "")
