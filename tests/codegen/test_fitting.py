"""Properties of the comparison of schemas."""

from __future__ import annotations

from typing import Any

import jsonschema
from hypothesis import given, settings
from hypothesis import strategies as st

from ksi.codegen.compatibility import changes
from ksi.codegen.fitting import Fitting
from tests.codegen.events import Schema, event_with, structure
from tests.codegen.strategies import SCHEMAS, edited, value_of

Case = tuple[Schema, Schema, list[Any]]


def values_of(schema: Schema) -> st.SearchStrategy[list[Any]]:
    return st.lists(value_of(schema), min_size=1, max_size=6)


CASES = SCHEMAS.flatmap(lambda old: st.tuples(st.just(old), edited(old), values_of(old)))


@settings(max_examples=400)
@given(CASES)
def test_what_fits_the_old_request_fits_the_new_one_unless_a_break_is_told(case: Case) -> None:
    old, new, values = case
    if not Fitting({}, {}, inner_is_old=True).misfits(old, new):
        jsonschema.validate(values, {"items": new})


@given(CASES)
def test_the_strategy_of_values_keeps_its_word(case: Case) -> None:
    old, _, values = case
    jsonschema.validate(values, {"items": old})


@given(SCHEMAS)
def test_every_schema_fits_itself(schema: Schema) -> None:
    assert Fitting({}, {}, inner_is_old=True).misfits(schema, schema) == []


@given(SCHEMAS, SCHEMAS)
def test_an_alternative_more_never_breaks_a_request_and_one_less_never_an_answer(one: Schema, other: Schema) -> None:
    few, many = structure(a=one), structure(a={"anyOf": [one, other]})
    assert not any(change.breaking for change in changes(event_with(request=few), event_with(request=many)))
    assert not any(change.breaking for change in changes(event_with(answer=many), event_with(answer=few)))


@given(st.dictionaries(st.sampled_from("abc"), SCHEMAS), st.sampled_from("def"), SCHEMAS)
def test_a_new_field_breaks_only_where_a_request_must_have_it(fields: Schema, name: str, part: Schema) -> None:
    old, more, must = (
        structure(**fields),
        structure(**fields, **{name: part}),
        structure([name], **fields, **{name: part}),
    )
    for kind, new, breaks in (("request", more, False), ("request", must, True), ("answer", must, False)):
        found = changes(event_with(**{kind: old}), event_with(**{kind: new}))
        assert [change.where for change in found] == [f"{kind}.{name}"]
        assert found[0].breaking is breaks
