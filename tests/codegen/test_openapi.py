"""The OpenAPI document."""

from __future__ import annotations

from typing import Any

import jsonschema
import msgspec
from openapi_spec_validator import OpenAPIV31SpecValidator

from ksi.codegen.catalogue import Catalogue
from ksi.codegen.openapi import document
from ksi.codegen.problems import COMMON
from ksi.core.errors import NotFoundError, RemoteError, from_wire
from ksi.transport.http.problems import problem_json, status_of
from ksi.wire.splitter import FRAME_BYTES_MAX
from tests.codegen.built_in import built_in, catalogue_from
from tests.codegen.painting import Painting

PAINTING = document(catalogue_from(Painting), status_of)


def operations(made: dict[str, Any]) -> dict[tuple[str, str], Any]:
    return {(method, path): each for path, methods in made["paths"].items() for method, each in methods.items()}


def test_the_document_is_valid(catalogue: Catalogue) -> None:
    assert list(OpenAPIV31SpecValidator(document(catalogue, status_of)).iter_errors()) == []


def test_its_operations_are_the_events_of_the_registry(catalogue: Catalogue) -> None:
    made = operations(document(catalogue, status_of))
    asked = {path.removeprefix("/v1/events/") for method, path in made if method == "post" and "/events/" in path}
    read = {path.removeprefix("/v1/events/") for method, path in made if method == "get" and "/events/" in path}
    streamed = {path.removeprefix("/v1/stream/") for method, path in made if method == "post" and "/stream/" in path}
    assert asked == {event.name for event in catalogue.events}
    assert read == {event.name for event in catalogue.events if event.is_query}
    assert streamed == {event.name for event in catalogue.events if event.is_stream}


def test_each_operation_has_an_id_of_its_own(catalogue: Catalogue) -> None:
    made = operations(document(catalogue, status_of))
    assert len({operation["operationId"] for operation in made.values()}) == len(made)


def test_the_document_of_the_built_in_services_fits_into_an_answer_with_room_for_plugins() -> None:
    assert len(msgspec.json.encode(document(built_in(), status_of))) < FRAME_BYTES_MAX // 2


def test_everything_wants_a_token_but_the_probes() -> None:
    made = document(built_in(), status_of)
    assert made["security"] == [{"bearer": []}]
    public = {path for (_, path), each in operations(made).items() if "security" in each}
    assert public == {"/healthz", "/readyz"}


def test_a_field_of_a_query_is_a_parameter_and_one_that_may_be_an_object_is_json() -> None:
    fields = {
        field["name"]: field for field in PAINTING["paths"]["/v1/events/painting:count"]["get"]["parameters"][:-1]
    }
    assert fields["tags"]["schema"]["anyOf"][0] == {"type": "array", "items": {"type": "string"}}
    assert "schema" in fields["near"]["content"]["application/json"]


def test_what_is_recorded_takes_an_idempotency_key_and_a_command_may_be_answered_at_once() -> None:
    painting, counting = (PAINTING["paths"][f"/v1/events/painting:{verb}"]["post"] for verb in ("paint", "count"))
    names = [each["$ref"].rpartition("/")[2] for each in painting["parameters"]]
    assert names == ["IdempotencyKey", "Timeout", "Prefer"]
    assert "202" in painting["responses"]
    assert [each["$ref"].rpartition("/")[2] for each in counting["parameters"]] == ["Timeout"]


def codes_of(response: dict[str, str]) -> list[str]:
    """The codes that a response may stand for; events that declare the same errors share it."""
    named = PAINTING["components"]["responses"][response["$ref"].rpartition("/")[2]]
    codes: list[str] = named["content"]["application/problem+json"]["schema"]["allOf"][1]["properties"]["code"]["enum"]
    return codes


def test_a_declared_error_stands_with_its_status_beside_those_that_any_event_has() -> None:
    responses = PAINTING["paths"]["/v1/events/painting:paint"]["post"]["responses"]
    assert codes_of(responses["404"]) == ["no_answer", "not_found", "unknown_event"]
    assert "too_wet" in codes_of(responses["500"])
    assert responses["403"] == {"$ref": "#/components/responses/Problem403"}


def test_every_code_that_any_event_has_is_one_of_this_version() -> None:
    assert [code for code in COMMON if isinstance(from_wire(code, ""), RemoteError)] == []


def test_a_problem_as_it_is_sent_fits_its_schema() -> None:
    sent = msgspec.json.decode(problem_json(NotFoundError("page", "x"), 404))
    jsonschema.validate(sent, PAINTING["components"]["schemas"]["Problem"])
