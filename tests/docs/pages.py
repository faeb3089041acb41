"""What stands in the documentation's fenced blocks."""

from __future__ import annotations

import re
import shlex
from itertools import takewhile
from pathlib import Path

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
PAGES = (README, *sorted((ROOT / "docs").rglob("*.md")))
_FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(page: Path, language: str) -> list[str]:
    """The blocks of ``language``, in order."""
    return [block for found, block in _FENCE.findall(page.read_text()) if found == language]


def only(page: Path, language: str, part: str) -> str:
    """The one block that ``part`` stands in."""
    (block,) = (block for block in blocks(page, language) if part in block)
    return block


def commands(console: str) -> list[list[str]]:
    """The words of each line that begins with a dollar, without its comment, up to a pipe or a file."""
    lines = (line.removeprefix("$ ") for line in console.splitlines() if line.startswith("$ "))
    return [[*takewhile(lambda word: word not in ("|", ">"), shlex.split(line, comments=True))] for line in lines]
