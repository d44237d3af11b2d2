"""What the README shows is what happens."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from importlib.metadata import distribution
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def block(language: str) -> str:
    """The first code block of a language."""
    found = re.search(rf"```{language}\n(.*?)```", README, re.DOTALL)
    assert found
    return found[1]


def shell(line: str, folder: Path) -> subprocess.CompletedProcess[str]:
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    words = ["bash", "-c", line]
    environment = {**os.environ, "PATH": path}
    return subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True, timeout=120, check=False)


def blurred(text: str) -> str:
    """Without what is different each time: the end of an id."""
    return re.sub(r"\b[0-9a-f]{12}\b", "ID", text)


@pytest.mark.engine
def test_the_first_example(tmp_path: Path) -> None:
    """Every command is run; where output is shown, it is that output."""
    shown = re.split(r"^\$ ", block("console"), flags=re.MULTILINE)[1:]
    for command, _, expected in (entry.partition("\n") for entry in shown):
        done = shell(command, tmp_path)
        assert done.returncode in (0, 137), done.stderr
        if expected:
            assert blurred(done.stdout + done.stderr) == blurred(expected)
        else:
            assert done.stdout


@pytest.mark.engine
def test_the_python_example(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", block("python")], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[0].endswith("success exit 0")
    assert done.stdout.splitlines()[1] == "{'success'}"


def test_every_option_of_run_is_a_real_one(tmp_path: Path) -> None:
    table = README[README.index("## Running") : README.index("## Reading")]
    known = shell("calls run --help", tmp_path).stdout
    for option in set(re.findall(r"--[a-z][a-z-]+[a-z]", table)) - {"--rm"}:
        assert option in known, option


def test_every_command_is_a_real_one(tmp_path: Path) -> None:
    known = shell("calls --help", tmp_path).stdout
    for command in set(re.findall(r"`calls ([a-z]+)", README)):
        assert re.search(rf"^  {command} ", known, re.MULTILINE), command


def test_links_lead_somewhere() -> None:
    for page in (ROOT / "README.md", *ROOT.glob("docs/*.md"), *ROOT.glob("benchmarks/*.md")):
        for target in re.findall(r"\]\((?!http)([^)#]+)\)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_the_import_names_belong_to_this_distribution_alone() -> None:
    """`driver`, `ledger` and `machine` are short names: nobody else may have brought them."""
    import calls
    import driver
    import ledger
    import machine

    assert distribution("call-ledger").version
    homes = {Path(module.__file__ or "").parent.parent for module in (calls, driver, ledger, machine)}
    assert homes == {ROOT} or len(homes) == 1
