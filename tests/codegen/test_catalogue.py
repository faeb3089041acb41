"""The catalogue: names, schemas, what is saved."""

from __future__ import annotations

import re
from typing import Any

import jsonschema
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ksi.codegen.catalogue import REFERENCE, Catalogue, catalogue_of, read
from ksi.codegen.described import Described, described
from ksi.codegen.naming import is_free, stems_of
from ksi.codegen.schemas import name_in, references
from ksi.core.errors import ValidationError
from ksi.kernel.declare import query
from ksi.kernel.plugin import AsyncPlugin
from tests.codegen.built_in import built_in, catalogue_from, registry_of
from tests.codegen.painting import Painting

NAMES = st.from_regex(r"[a-zA-Z0-9_.\-]{1,6}:[a-zA-Z0-9_.\-:]{1,6}", fullmatch=True)


def validated(catalogue: Catalogue, name: str, value: Any) -> None:
    """Raises jsonschema.ValidationError."""
    whole = {"$ref": f"{REFERENCE}{name}", "components": {"schemas": dict(catalogue.schemas)}}
    jsonschema.Draft202012Validator(whole).validate(value)


def test_every_event_has_schemas_of_its_own_and_none_is_empty(catalogue: Catalogue) -> None:
    for event in catalogue.events:
        parts = [event.request, event.answer, *([event.chunk] if event.is_stream else [])]
        assert all(catalogue.schemas[part] for part in parts), event.name
    assert all(catalogue.schemas.values())


def test_every_reference_leads_to_a_schema_that_is_a_schema(catalogue: Catalogue) -> None:
    for schema in catalogue.schemas.values():
        jsonschema.Draft202012Validator.check_schema(schema)
        assert {name_in(reference) for reference in references(schema)} <= catalogue.schemas.keys()


def test_examples_fit_the_schemas_of_their_events(catalogue: Catalogue) -> None:
    for event in catalogue.events:
        for example in event.described.examples:
            validated(catalogue, event.request, example)


def test_the_built_in_services_answer_no_event_with_just_anything() -> None:
    loose = [event.name for event in built_in().events if built_in().schemas[event.answer].keys() <= {"description"}]
    assert loose == []


def test_what_is_saved_is_read_back_to_the_same_catalogue(catalogue: Catalogue) -> None:
    assert read(catalogue.saved()) == catalogue


@pytest.mark.parametrize("junk", [b"", b"[]", b"{", b'{"events":[]}', b'{"openapi":"3.1.0"}'])
def test_what_is_no_saved_description_is_said_to_be_none(junk: bytes) -> None:
    with pytest.raises(ValidationError):
        read(junk)


def test_the_order_in_which_plugins_were_loaded_is_not_seen() -> None:
    specs = registry_of(Painting).find()
    forth, back = (catalogue_of(map(described, order)) for order in (specs, specs[::-1]))
    assert (forth, forth.saved()) == (back, back.saved())


def test_the_hash_changes_with_every_word() -> None:
    events = [described(spec) for spec in registry_of(Painting).find()]
    other = msgspec.structs.replace(events[0], doc=f"{events[0].doc}!")
    assert catalogue_of(events).hash != catalogue_of([other, *events[1:]]).hash


@given(st.sets(NAMES, max_size=12))
def test_no_two_events_have_the_same_stem_and_every_stem_is_an_identifier(names: set[str]) -> None:
    stems = stems_of(names)
    assert len(set(stems.values())) == len(names)
    assert all(re.fullmatch(r"[A-Za-z]\w*", stem, re.ASCII) for stem in stems.values())


# ── types that have one name ─────────────────────────────────────────────────────────────────────────────────────────
def answering(name: str, **definitions: dict[str, Any]) -> Described:
    """An event that answers with all of the definitions."""
    answer = {
        "type": "object",
        "properties": {each: {"$ref": f"#/$defs/{each}"} for each in definitions},
        "$defs": {each: {"title": each, **definition} for each, definition in definitions.items()},
    }
    empty = {"type": "object", "additionalProperties": False}
    return Described(name, "query", "", "", empty, answer, None, [], [], "none", False, None, "test", name)


TEXT, NUMBER = {"type": "string"}, {"type": "number"}


def test_a_type_that_many_events_share_is_one_type() -> None:
    schemas = catalogue_of([answering("a:x", Part=TEXT), answering("b:x", Part=TEXT)]).schemas
    assert sorted(schemas) == ["AXAnswer", "AXRequest", "BXAnswer", "BXRequest", "Part"]


def test_types_of_one_name_that_differ_are_told_apart_by_their_namespaces() -> None:
    schemas = catalogue_of([answering("a:x", Part=TEXT), answering("b:x", Part=NUMBER)]).schemas
    assert (schemas["APart"], schemas["BPart"]) == (TEXT, NUMBER)
    assert schemas["AXAnswer"]["properties"]["Part"] == {"$ref": f"{REFERENCE}APart"}


def test_types_of_one_name_in_one_namespace_are_told_apart_by_a_digest_whatever_else_is_there() -> None:
    text, number = answering("b:x", Part=TEXT), answering("b:y", Part=NUMBER)
    schemas = catalogue_of([text, number]).schemas
    named = {name: schema for name, schema in schemas.items() if name.startswith("BPart_")}
    assert sorted(map(str, named.values())) == sorted(map(str, (TEXT, NUMBER)))
    assert named.items() <= catalogue_of([answering("a:x", Part={"type": "null"}), number, text]).schemas.items()


def test_types_that_differ_only_in_what_they_refer_to_differ() -> None:
    outer = {"type": "array", "items": {"$ref": "#/$defs/Part"}}
    catalogue = catalogue_of([answering("a:x", Parts=outer, Part=TEXT), answering("b:x", Parts=outer, Part=NUMBER)])
    validated(catalogue, "AXAnswer", {"Parts": ["one"]})
    validated(catalogue, "BXAnswer", {"Parts": [1]})
    with pytest.raises(jsonschema.ValidationError):
        validated(catalogue, "BXAnswer", {"Parts": ["one"]})


def test_a_type_whose_name_the_generated_code_needs_gets_its_namespace() -> None:
    schemas = catalogue_from(Painting).schemas
    assert "PaintingPromise" in schemas
    assert all(map(is_free, schemas))


@given(
    st.lists(st.tuples(NAMES, st.sampled_from(["Part", "AXAnswer", "any", "G[int]"]), st.integers(0, 2)), max_size=8)
)
def test_whatever_the_names_each_event_keeps_its_own_type(told: list[tuple[str, str, int]]) -> None:
    events = {name: (part, number) for name, part, number in told}
    catalogue = catalogue_of(answering(name, **{part: {"const": n}}) for name, (part, n) in events.items())
    for event in catalogue.events:
        part, number = events[event.name]
        validated(catalogue, event.answer, {part: number})
        with pytest.raises(jsonschema.ValidationError):
            validated(catalogue, event.answer, {part: number + 1})


# ── what the schemas say ─────────────────────────────────────────────────────────────────────────────────────────────
def test_a_stream_without_an_end_value_ends_with_null() -> None:
    assert catalogue_from(Painting).schemas["PaintingSmellAnswer"] == {"type": "null"}


def test_a_request_says_that_unknown_fields_are_refused_also_where_a_model_does_not() -> None:
    assert catalogue_from(Painting).schemas["PaintingMixRequest"]["additionalProperties"] is False
    assert "additionalProperties" not in catalogue_from(Painting).schemas["PaintingMixAnswer"]


def test_an_event_that_gives_all_answers_gives_a_list_of_them() -> None:
    class Votes(AsyncPlugin):
        name = "votes"

        @query("votes:cast", inline=True, shared=True, answers="all")
        def cast(self) -> int:
            return 1

    assert catalogue_from(Votes).schemas["VotesCastAnswer"] == {"type": "array", "items": {"type": "integer"}}
