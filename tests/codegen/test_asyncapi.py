"""The AsyncAPI document: its structure here, the whole standard in ``test_node``."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import jsonschema

from ksi.codegen.asyncapi import document
from ksi.codegen.catalogue import Catalogue
from tests.codegen.built_in import built_in

REFERENCE = {
    "type": "object",
    "required": ["$ref"],
    "additionalProperties": False,
    "properties": {"$ref": {"type": "string"}},
}
REFERENCES = {"type": "array", "items": REFERENCE, "minItems": 1}
STRUCTURE = {
    "type": "object",
    "required": ["asyncapi", "info", "servers", "channels", "operations", "components"],
    "properties": {
        "asyncapi": {"const": "3.0.0"},
        "info": {"type": "object", "required": ["title", "version"]},
        "servers": {"type": "object", "additionalProperties": {"type": "object", "required": ["host", "protocol"]}},
        "channels": {
            "type": "object",
            "additionalProperties": {
                "type": "object",
                "required": ["address", "messages", "servers"],
                "properties": {
                    "messages": {
                        "type": "object",
                        "minProperties": 1,
                        "additionalProperties": {
                            "anyOf": [REFERENCE, {"type": "object", "required": ["payload"]}],
                        },
                    },
                    "servers": REFERENCES,
                },
            },
        },
        "operations": {
            "type": "object",
            "additionalProperties": {
                "type": "object",
                "required": ["action", "channel", "messages"],
                "properties": {
                    "action": {"enum": ["send", "receive"]},
                    "channel": REFERENCE,
                    "messages": REFERENCES,
                    "reply": {"type": "object", "properties": {"channel": REFERENCE, "messages": REFERENCES}},
                },
            },
        },
    },
}


def references(part: Any) -> Iterator[str]:
    if isinstance(part, dict):
        if isinstance(part.get("$ref"), str):
            yield part["$ref"]
        part = list(part.values())
    if isinstance(part, list):
        for each in part:
            yield from references(each)


def target(made: Any, reference: str) -> Any:
    for step in reference.removeprefix("#/").split("/"):
        made = made[step]
    return made


def test_its_parts_are_where_the_standard_wants_them(catalogue: Catalogue) -> None:
    jsonschema.validate(document(catalogue), STRUCTURE)


def test_every_reference_leads_somewhere(catalogue: Catalogue) -> None:
    made = document(catalogue)
    for reference in set(references(made)):
        assert target(made, reference)


def test_its_operations_are_the_events_of_the_registry(catalogue: Catalogue) -> None:
    operations = document(catalogue)["operations"]
    for action, wanted in (("receive", catalogue.events), ("send", [e for e in catalogue.events if e.is_stream])):
        named = [each["x-ksi-event"] for each in operations.values() if each["action"] == action]
        assert sorted(named) == sorted(event.name for event in wanted)


def test_messages_of_an_operation_are_those_of_its_channel(catalogue: Catalogue) -> None:
    for operation in document(catalogue)["operations"].values():
        for side in (operation, operation.get("reply", operation)):
            channel = side["channel"]["$ref"]
            assert all(each["$ref"].startswith(f"{channel}/messages/") for each in side["messages"])


def test_an_example_is_a_frame_that_fits_its_message() -> None:
    made = document(built_in())
    for channel in made["channels"].values():
        request = channel["messages"].get("request", {})
        for example in request.get("examples", ()):
            jsonschema.validate(example["payload"], {**request["payload"], "components": made["components"]})
