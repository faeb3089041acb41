"""Expressions over states: what they find, and how wrong ones are refused."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ksi.core.errors import ValidationError
from ksi.store.structure import MISSING, differences, parse_path, value_at
from ksi.store.where import compile_where


class Message(msgspec.Struct, frozen=True):
    parts: tuple[str, ...]

    @property
    def text(self) -> str:
        return "".join(self.parts)


STATE: dict[str, Any] = {"messages": [Message(("hi ", "Bruno")), Message(("bye",))], "a b": {"7": 3}, "n": 2}


@pytest.mark.parametrize(
    "expression",
    [
        'messages[0].text contains "Bruno"',
        "messages contains 'bye'",
        "messages.0.parts[-1] == 'Bruno' and not messages[-1].text contains 'Bruno'",
        "n >= 2 and (n < 1 or n == 2)",
        "not nothing.there and nothing == null",
        "not (n < 'text' or n > 'text')",
        "true and n != -2.5",
    ],
)
def test_an_expression_that_holds(expression: str) -> None:
    assert compile_where(expression)(STATE)


@pytest.mark.parametrize(
    "expression",
    ["", "n ==", "n 2", "(n", "n $ 2", '"open', "n == == 2", "__class__.x = 1", "f(n)", "not " * 100 + "n"],
)
def test_what_is_no_expression_is_refused(expression: str) -> None:
    with pytest.raises(ValidationError):
        compile_where(expression)


def test_private_attributes_are_not_reached() -> None:
    assert value_at(STATE, ("messages", 0, "__class__")) is MISSING
    assert value_at(STATE, parse_path("messages[0].parts[9]")) is MISSING
    assert value_at(STATE, parse_path('messages["0"]')) is MISSING


@pytest.mark.parametrize("path", ["", ".", "a..b", "a[", "a[x]", "a b"])
def test_what_is_no_path_is_refused(path: str) -> None:
    with pytest.raises(ValidationError):
        parse_path(path)


JSON: Any = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda below: st.lists(below, max_size=4) | st.dictionaries(st.text(), below, max_size=4),
    max_leaves=20,
)


@given(JSON, JSON)
def test_differences_are_none_only_between_equals_and_lead_to_what_differs(before: Any, after: Any) -> None:
    found = differences(before, after)
    assert (found == []) == (msgspec.json.encode(before) == msgspec.json.encode(after) or before == after)
    for each in found:
        path = parse_path(each.path) if each.path else ()
        for state, value in ((before, each.before), (after, each.after)):
            assert value_at(state, path) == (MISSING if value is msgspec.UNSET else value)
