"""Patterns match as a naive reference does, character by character."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ksi.core.patterns import any_matches, expand, matches

letters = "ab:/.[]\n*?"
names = st.text("ab:/.[]\n", max_size=8)
patterns = st.text(letters, max_size=6)


def reference(pattern: str, name: str) -> bool:
    if not pattern:
        return not name
    head, rest = pattern[0], pattern[1:]
    if head == "*":
        return any(reference(rest, name[at:]) for at in range(len(name) + 1))
    return bool(name) and head in ("?", name[0]) and reference(rest, name[1:])


@given(patterns, names)
def test_a_pattern_matches_what_the_reference_says(pattern: str, name: str) -> None:
    assert matches(pattern, name) is reference(expand(pattern), name)


@given(names)
def test_the_star_matches_every_name(name: str) -> None:
    assert matches("*", name)


@pytest.mark.parametrize(
    ("pattern", "name", "fits"),
    [
        ("agent:", "agent:spawn", True),
        ("agent:*", "agent:spawn", True),
        ("agent:*", "agents:spawn", False),
        ("conversation/", "conversation/c1", True),
        ("*:done", "job:done", True),
        ("job:?", "job:12", False),
        ("a.b", "axb", False),
        ("[ab]", "a", False),
        ("Agent:*", "agent:spawn", False),
    ],
)
def test_patterns_as_people_write_them(pattern: str, name: str, fits: bool) -> None:
    assert matches(pattern, name) is fits


def test_one_of_several_is_enough_and_none_matches_nothing() -> None:
    assert any_matches(("state:*", "agent:*"), "agent:spawn")
    assert not any_matches((), "agent:spawn")
