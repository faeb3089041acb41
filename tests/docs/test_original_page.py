"""The page for the original's users: the tests that it names for each of the original's faults are there."""

from __future__ import annotations

import re

import pytest

from tests.docs.pages import ROOT

PAGE = ROOT / "docs" / "how-to" / "come-from-the-original.md"
NAMED = re.compile(r"`(?:(tests/[\w/]+\.py)::)?(test_\w+)`")


def rows() -> list[str]:
    table = PAGE.read_text().partition("| fault | test |")[2]
    return [line for line in table.splitlines() if line.startswith("| ") and "---" not in line]


@pytest.mark.parametrize("row", rows())
def test_a_fault_has_its_test(row: str) -> None:
    file = ""
    for place, name in NAMED.findall(row):
        file = place or file
        assert f"def {name}(" in (ROOT / file).read_text()
    assert file or row.endswith("| the same |")
