"""docs/faults.md names a test for every row of the fault matrix, and each of them is there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

HERE = Path(__file__).parent
PAGE = (HERE.parent / "docs" / "faults.md").read_text(encoding="utf-8")
ROWS = re.findall(r"^\| (\d+) \|.*\| (.*) \|$", PAGE, re.MULTILINE)


def test_every_row_is_there_in_order() -> None:
    assert [int(number) for number, _ in ROWS] == list(range(1, 48))


@pytest.mark.parametrize(("number", "tests"), ROWS)
def test_the_tests_of_a_row_are_there(number: str, tests: str) -> None:
    named = re.findall(r"`(test_\w+\.py)(?:::(test_\w+))?`", tests)
    assert named or "the same two" in tests, number
    for file, name in named:
        assert f"def {name}(" in (HERE / file).read_text(encoding="utf-8") if name else (HERE / file).exists()
