"""The table of features: what is here is shown by a test that exists, and what is not is said not to be."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
PAGE = (TESTS.parent / "docs" / "features.md").read_text(encoding="utf-8")
LINK = re.compile(r"\[(test_\w+\.py)::([\w:]+)\]\(\.\./tests/(test_\w+\.py)\)")
ROWS = [
    [cell.strip() for cell in line.strip("|").split("|")]
    for line in PAGE.splitlines()
    if line.startswith("| ") and not line.startswith("| |")
]


@cache
def names_in(file: str) -> frozenset[str]:
    """The tests of a file, as pytest names them below it."""
    found = set()
    for node in ast.parse((TESTS / file).read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ClassDef):
            found |= {f"{node.name}::{each.name}" for each in node.body if isinstance(each, ast.FunctionDef)}
        elif isinstance(node, ast.FunctionDef):
            found.add(node.name)
    return frozenset(name for name in found if name.split("::")[-1].startswith("test_"))


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0])
def test_each_feature_is_shown_by_tests_that_exist_or_is_not_here(row: list[str]) -> None:
    feature, fn, swarm, nomad, here, shown = row
    assert all((feature, fn, swarm, nomad, here))
    if here == "no" or here.startswith("no:"):
        assert shown == "–"
        return
    links = LINK.findall(shown)
    assert links
    assert LINK.sub("", shown).strip() == ""
    for file, name, target in links:
        assert file == target
        assert name in names_in(file), f"{file}::{name}"


def test_there_is_a_table() -> None:
    assert len(ROWS) > 100
    assert len({row[0] for row in ROWS}) == len(ROWS)
