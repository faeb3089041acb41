"""What is compatible with an older description, and what is not."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ksi.codegen.catalogue import Catalogue, read
from ksi.codegen.compatibility import Change, changes
from tests.codegen.events import TEXT, Schema, event_with, structure


def seen(old: Catalogue, new: Catalogue) -> list[tuple[bool, str, str]]:
    return [(change.breaking, change.where, change.text) for change in changes(old, new)]


# ── what breaks a client ─────────────────────────────────────────────────────────────────────────────────────────────
INTEGER: Schema = {"type": "integer"}
MAP: Schema = {"type": "object", "additionalProperties": TEXT}
NOTHING: Schema = {"type": "object", "maxProperties": 0}
NULLABLE: Schema = {"anyOf": [TEXT, {"type": "null"}]}
BREAKING = [
    ("request", structure(a=TEXT), structure(), "request.a", "is gone"),
    ("request", structure(a=TEXT), structure(b=TEXT), "request.a", "is gone"),
    ("request", structure(), structure(["a"], a=TEXT), "request.a", "is required"),
    ("request", structure(a=TEXT), structure(["a"], a=TEXT), "request.a", "is required"),
    ("request", structure(a=NULLABLE), structure(a=TEXT), "request.a", "was string | null, is string"),
    ("request", structure(a=TEXT), structure(a={"enum": ["x"]}), "request.a", 'was string, is "x"'),
    ("request", structure(a={"enum": ["x", "y"]}), structure(a={"enum": ["x"]}), "request.a", 'was "x" | "y", is "x"'),
    ("request", structure(a={"type": "number"}), structure(a={"type": "integer"}),
     "request.a", "was number, is integer"),
    ("request", structure(a=TEXT), structure(a={**TEXT, "maxLength": 9}),
     "request.a", "maxLength was not limited, is 9"),
    ("request", structure(a={"type": "array", "items": NULLABLE}), structure(a={"type": "array", "items": TEXT}),
     "request.a[]", "was string | null, is string"),
    ("request", structure(a={"type": "object"}), structure(a={"type": "object", "additionalProperties": TEXT}),
     "request.a.*", "was anything, is string"),
    ("request", structure(a=INTEGER), structure(a={**INTEGER, "minimum": 0}),
     "request.a", "minimum was not limited, is 0"),
    ("request", structure(a={**INTEGER, "minimum": 0}), structure(a={**INTEGER, "exclusiveMinimum": 0}),
     "request.a", "minimum was 0, is 0 (excluded)"),
    ("request", structure(a={**INTEGER, "maximum": 9}), structure(a={**INTEGER, "maximum": 8}),
     "request.a", "maximum was 9, is 8"),
    ("request", structure(a=TEXT), structure(a={**TEXT, "minLength": 1}),
     "request.a", "minLength was not limited, is 1"),
    ("request", structure(a=TEXT), structure(a={**TEXT, "pattern": "x"}), "request.a", "pattern was not limited, is x"),
    ("request", structure(a={"enum": [1]}), structure(a={"enum": [True]}), "request.a", "was 1, is true"),
    ("request", structure(a={"enum": ["xyz"]}), structure(a={**TEXT, "maxLength": 2}),
     "request.a", 'was "xyz", is string'),
    ("request", structure(a=MAP), structure(a=structure(b=TEXT)), "request.a.*", "was object, is object"),
    ("request", structure(a=MAP), structure(a={**MAP, "properties": {"b": INTEGER}}),
     "request.a.*", "was string, is integer"),
    ("answer", structure(["a"], a=TEXT), structure(), "answer.a", "is gone"),
    ("answer", structure(["a"], a=TEXT), structure(a=TEXT), "answer.a", "may be missing"),
    ("answer", structure(["a"], a=TEXT), structure(["b"], b=TEXT), "answer.a", "is gone"),
    ("answer", structure(a=TEXT), structure(a=NULLABLE), "answer.a", "was string, is string | null"),
    ("answer", structure(a={"enum": ["x"]}), structure(a={"enum": ["x", "y"]}), "answer.a", 'was "x", is "x" | "y"'),
    ("chunk", structure(["a"], a=TEXT), structure(["a"], a={"type": "integer"}), "chunk.a", "was string, is integer"),
    ("chunk", TEXT, structure(), "chunk", "was string, is object"),
]  # fmt: skip
COMPATIBLE = [
    ("request", structure(), structure(a=TEXT), "request.a", "is new"),
    ("request", structure(["a"], a=TEXT), structure(a=TEXT), "request.a", "may be missing"),
    ("request", structure(a=TEXT), structure(a=NULLABLE), "request.a", "was string, is string | null"),
    ("answer", structure(), structure(a=TEXT), "answer.a", "is new"),
    ("answer", NOTHING, structure(["a"], a=TEXT), "answer.a", "is new"),
    ("answer", structure(a=NULLABLE), structure(a=TEXT), "answer.a", "was string | null, is string"),
    ("answer", structure(a=TEXT), structure(), "answer.a", "is gone"),
    ("chunk", structure(a=TEXT), structure(["b"], a=TEXT, b=TEXT), "chunk.b", "is new"),
]


@pytest.mark.parametrize(("part", "old", "new", "where", "text"), BREAKING)
def test_a_breaking_change_is_found_and_named(part: str, old: Schema, new: Schema, where: str, text: str) -> None:
    assert (True, where, text) in seen(event_with(**{part: old}), event_with(**{part: new}))


@pytest.mark.parametrize(("part", "old", "new", "where", "text"), COMPATIBLE)
def test_a_change_that_breaks_nobody_is_named_as_such(
    part: str, old: Schema, new: Schema, where: str, text: str
) -> None:
    assert seen(event_with(**{part: old}), event_with(**{part: new})) == [(False, where, text)]


def test_an_event_that_is_gone_breaks_and_one_that_is_new_does_not() -> None:
    old, new = event_with(), event_with(name="b:x")
    assert changes(old, new) == [
        Change("a:x", "", "is gone", breaking=True),
        Change("b:x", "", "is new", breaking=False),
    ]


@pytest.mark.parametrize(
    ("old", "new", "breaking"),
    [
        ("query", "command", True),
        ("stream", "command", True),
        ("command", "query", False),
        ("command", "stream", False),
    ],
)
def test_another_kind_breaks_where_a_way_of_asking_is_gone(old: str, new: str, breaking: bool) -> None:
    chunks = {kind: TEXT if kind == "stream" else None for kind in (old, new)}
    was, now = (event_with(kind=kind, chunk=chunks[kind]) for kind in (old, new))
    assert seen(was, now) == [(breaking, "", f"was a {old}, is a {new}")]


def test_codes_of_errors_come_and_go() -> None:
    assert seen(event_with(errors=["x"]), event_with(errors=["y"])) == [
        (False, "error", "x is gone"),
        (False, "error", "y is new"),
    ]


def test_words_and_limits_of_time_are_nobodys_break() -> None:
    assert seen(event_with(), event_with(doc="Other.", summary="Other.", timeout_s=1.0, plugin="b")) == []


def test_nothing_changed_since_now(catalogue: Catalogue) -> None:
    assert changes(catalogue, read(catalogue.saved())) == []


# ── schemas inside themselves ────────────────────────────────────────────────────────────────────────────────────────
def nested(name: str, leaf: Schema, *, steps: int) -> Schema:
    """A list that holds itself at every so many steps."""
    link: Schema = {"$ref": f"#/$defs/{name}"}
    for _ in range(steps):
        link = structure(leaf=leaf, next=link)
    return {"$ref": f"#/$defs/{name}", "$defs": {name: link}}


@given(steps=st.tuples(st.integers(1, 3), st.integers(1, 3)))
def test_recursive_schemas_that_are_unrolled_differently_are_the_same(steps: tuple[int, int]) -> None:
    old, new = (event_with(answer=nested(f"N{each}", TEXT, steps=each)) for each in steps)
    assert changes(old, new) == []


@given(steps=st.tuples(st.integers(1, 3), st.integers(1, 3)))
def test_a_change_deep_inside_them_is_found(steps: tuple[int, int]) -> None:
    old = event_with(answer=nested("N", TEXT, steps=steps[0]))
    new = event_with(answer=nested("N", NULLABLE, steps=steps[1]))
    assert any(change.breaking for change in changes(old, new))
