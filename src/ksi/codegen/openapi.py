"""OpenAPI 3.1: a path for each event, and for each way in which it can be asked over HTTP."""

from __future__ import annotations

from collections.abc import Mapping

from ksi.codegen.catalogue import REFERENCE, Catalogue, Event, said
from ksi.codegen.problems import FAILURE, PROBLEM, Json, Problems, StatusOf
from ksi.codegen.schemas import ANYTHING, Schema, kinds_of, name_in
from ksi.codegen.streamed import streamed

INTRODUCTION = """\
Each event is a path. `POST` asks it; a query can be asked by `GET` as well, with its fields in the query string; a
stream answers in chunks at `/v1/stream/`, as server-sent events or as a JSON object a line.

A request that is recorded may carry `Idempotency-Key` (a UUID): sent again under it, it is not done again.
CloudEvents 1.0, structured or binary, are taken as requests too, and answered in kind."""

PARAMETERS: Mapping[str, Json] = {
    "IdempotencyKey": {
        "name": "Idempotency-Key",
        "in": "header",
        "description": "The event's id. A request sent again under it gets the first answer.",
        "schema": {"type": "string", "format": "uuid"},
    },
    "Timeout": {
        "name": "Ksi-Timeout",
        "in": "header",
        "description": "Seconds after which the answer is of no use to the caller.",
        "schema": {"type": "number", "exclusiveMinimum": 0, "maximum": 1e9},
    },
    "Prefer": {
        "name": "Prefer",
        "in": "header",
        "description": "`respond-async`: answer as soon as the request is on disk, with its ids.",
        "schema": {"type": "string"},
        "example": "respond-async",
    },
    "Credit": {
        "name": "Ksi-Credit",
        "in": "header",
        "description": "How many chunks the reader is ready for; `Ksi-Reader` of the answer is where it grants more.",
        "schema": {"type": "integer", "minimum": 0, "maximum": 65_536},
    },
    "LastEventId": {
        "name": "Last-Event-ID",
        "in": "header",
        "description": "The address of the last chunk that came: go on after it.",
        "schema": {"type": "string"},
    },
}
GRANTED: Json = {
    "type": "object",
    "required": ["credit"],
    "additionalProperties": False,
    "properties": {"credit": {"type": "integer", "minimum": 0, "maximum": 1 << 53}},
}
READER: Json = {
    "name": "reader",
    "in": "path",
    "required": True,
    "description": "`Ksi-Reader` of the stream's answer.",
    "schema": {"type": "string"},
}
RECEIPT: Json = {
    "type": "object",
    "description": "The request is on disk, and runs.",
    "required": ["event_id", "correlation_id"],
    "properties": {"event_id": {"type": "string"}, "correlation_id": {"type": "string"}},
}
EVENT_ID: Json = {"description": "The id of the recorded request.", "schema": {"type": "string", "format": "uuid"}}


def document(catalogue: Catalogue, status_of: StatusOf) -> Json:
    """The OpenAPI document of all events; ``x-ksi-event`` says which one an operation asks."""
    problems = Problems(status_of)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "KSI",
            "version": catalogue.ksi,
            "description": INTRODUCTION,
            "x-ksi-hash": catalogue.hash,
        },
        "servers": [{"url": "/"}],
        "security": [{"bearer": []}],
        "tags": [{"name": name} for name in sorted({"daemon", "streams", *map(_namespace, catalogue.events)})],
        "paths": dict(sorted(_paths(catalogue, problems).items())),
        "components": {
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer", "description": "What `ksi token` prints."}
            },
            "parameters": dict(PARAMETERS),
            "responses": problems.shared(),
            "schemas": {**catalogue.schemas, "Failure": FAILURE, "Problem": PROBLEM, "Receipt": RECEIPT},
        },
    }


def _paths(catalogue: Catalogue, problems: Problems) -> Json:
    paths: Json = {
        "/healthz": {"get": _probe("healthz", "The daemon is there.", {})},
        "/readyz": {"get": _probe("readyz", "Commands are taken.", problems.responses(())["503"])},
        "/metrics": {"get": _text("metrics", "Prometheus metrics.", "text/plain", problems)},
        "/types.ts": {"get": _text("types", "The events as types of TypeScript.", "text/plain", problems)},
        "/openapi.json": {"get": _document("openapi", "This document.", problems)},
        "/asyncapi.json": {"get": _document("asyncapi", "The events as AsyncAPI 3.0.", problems)},
        "/v1/requests/{event_id}": {"delete": _cancel(problems)},
        "/v1/stream/{address}": {"get": _resume(problems)},
        "/v1/readers/{reader}": {"put": _grant(problems), "delete": _leave(problems)},
    }
    for event in catalogue.events:
        asked: Json = {"post": _request(event, catalogue, problems)}
        if event.is_query:
            asked["get"] = _query(event, catalogue, problems)
        paths[f"/v1/events/{event.name}"] = asked
        if event.is_stream:
            paths[f"/v1/stream/{event.name}"] = {"post": _stream(event, catalogue, problems)}
        if event.name == "event:subscribe":
            paths["/v1/subscribe"] = {"get": _subscribe(event, catalogue, problems)}
    return paths


# ── operations ───────────────────────────────────────────────────────────────────────────────────────────────────────
def _request(event: Event, catalogue: Catalogue, problems: Problems) -> Json:
    operation = _operation(event, "ask") | {
        "parameters": _headers(event),
        "requestBody": _body(event, catalogue.schemas),
        "responses": {"200": _answer(event)},
    }
    if event.described.kind == "command":
        operation["parameters"].append(_parameter("Prefer"))
        operation["responses"]["202"] = _json("On disk.", {"$ref": f"{REFERENCE}Receipt"})
    operation["responses"] |= problems.responses(event.described.errors)
    return operation


def _query(event: Event, catalogue: Catalogue, problems: Problems) -> Json:
    return _operation(event, "get") | {
        "parameters": [*_fields(event, catalogue.schemas), *_headers(event)],
        "responses": {"200": _answer(event), **problems.responses(event.described.errors)},
    }


def _stream(event: Event, catalogue: Catalogue, problems: Problems) -> Json:
    return _operation(event, "stream") | {
        "parameters": [*_headers(event), _parameter("Credit")],
        "requestBody": _body(event, catalogue.schemas),
        "responses": {"200": _chunks(event), **problems.responses(event.described.errors)},
    }


def _subscribe(event: Event, catalogue: Catalogue, problems: Problems) -> Json:
    return _operation(event, "follow") | {
        "parameters": [*_fields(event, catalogue.schemas), _parameter("LastEventId"), _parameter("Credit")],
        "responses": {"200": _chunks(event), **problems.responses(event.described.errors)},
    }


def _cancel(problems: Problems) -> Json:
    """Of any request; its own answer or end says what became of it."""
    event_id = {
        "name": "event_id",
        "in": "path",
        "required": True,
        "description": "The `Idempotency-Key` of a request or stream that is under way.",
        "schema": {"type": "string", "format": "uuid"},
    }
    return {
        "operationId": "cancelRequest",
        "summary": "Cancel what is under way.",
        "tags": ["daemon"],
        "parameters": [event_id],
        "responses": {"202": _json("It is told.", {"type": "object"}), **problems.responses(["not_found"])},
    }


def _resume(problems: Problems) -> Json:
    """Of any stream: its chunks are those of the event that began it."""
    address = {
        "name": "address",
        "in": "path",
        "required": True,
        "description": "A stream, or a chunk of it: the chunks after it follow.",
        "schema": {"type": "string"},
        "example": "completion/01975f0c-3b1a-7c7e-9c55-6f8a54f0a8a3@17",
    }
    after = {
        "name": "after",
        "in": "query",
        "schema": {"type": "string"},
        "description": "The same, beside the stream.",
    }
    return {
        "operationId": "resumeStream",
        "summary": "Go on with a stream after a chunk: never a second run.",
        "tags": ["streams"],
        "parameters": [address, after, _parameter("LastEventId"), _parameter("Credit")],
        "responses": {
            "200": streamed("The chunks after the address.", ANYTHING, ANYTHING),
            **problems.responses(["not_found"]),
        },
    }


def _grant(problems: Problems) -> Json:
    """To any stream that was begun with ``Ksi-Credit``."""
    return {
        "operationId": "grantCredit",
        "summary": "Let a stream go on: how many chunks its reader is ready for since it began.",
        "tags": ["streams"],
        "parameters": [READER],
        "requestBody": {"required": True, "content": {"application/json": {"schema": GRANTED}}},
        "responses": {"202": _json("It is told.", {"type": "object"}), **problems.responses(["not_found"])},
    }


def _leave(problems: Problems) -> Json:
    """From any stream; its own end says what became of it."""
    return {
        "operationId": "cancelReader",
        "summary": "Cancel a stream in the name of one of its readers.",
        "tags": ["streams"],
        "parameters": [READER],
        "responses": {"202": _json("It is told.", {"type": "object"}), **problems.responses(["not_found"])},
    }


def _probe(name: str, summary: str, refused: Json) -> Json:
    schema = {"type": "object", "required": ["status"], "properties": {"status": {"type": "string"}}}
    answers = {"200": _json(summary, schema)} | ({"503": refused} if refused else {})
    return _fixed(name, summary) | {"security": [], "responses": answers}


def _document(name: str, summary: str, problems: Problems) -> Json:
    answer = _json(summary, {"type": "object"})
    return _fixed(name, summary) | {"responses": {"200": answer, **problems.responses(())}}


def _text(name: str, summary: str, media: str, problems: Problems) -> Json:
    answer = {"description": summary, "content": {media: {"schema": {"type": "string"}}}}
    return _fixed(name, summary) | {"responses": {"200": answer, **problems.responses(())}}


def _fixed(name: str, summary: str) -> Json:
    return {"operationId": name, "summary": summary, "tags": ["daemon"]}


def _operation(event: Event, verb: str) -> Json:
    return {
        "operationId": f"{verb}{event.stem}",
        **said(event),
        "tags": [_namespace(event)],
        "x-ksi-event": event.name,
        "x-ksi-kind": event.described.kind,
    }


def _namespace(event: Event) -> str:
    return event.name.partition(":")[0]


# ── what goes in ─────────────────────────────────────────────────────────────────────────────────────────────────────
def _body(event: Event, schemas: Mapping[str, Schema]) -> Json:
    """No body is ``{}``."""
    content: Json = {"schema": {"$ref": f"{REFERENCE}{event.request}"}}
    if event.described.examples:
        content["examples"] = {str(n): {"value": data} for n, data in enumerate(event.described.examples, 1)}
    required = bool(schemas[event.request].get("required"))
    return {"required": required, "content": {"application/json": content}}


def _headers(event: Event) -> list[Json]:
    return [_parameter("IdempotencyKey"), _parameter("Timeout")] if event.is_recorded else [_parameter("Timeout")]


def _parameter(name: str) -> Json:
    return {"$ref": f"#/components/parameters/{name}"}


def _fields(event: Event, schemas: Mapping[str, Schema]) -> list[Json]:
    request = schemas[event.request]
    required = request.get("required", ())
    return [
        _field(name, schema, schemas) | ({"required": True} if name in required else {})
        for name, schema in request.get("properties", {}).items()
    ]


def _field(name: str, schema: Schema, schemas: Mapping[str, Schema]) -> Json:
    """An object, or what may be one, stands in a query string as JSON; lists repeat their name."""
    shape = {key: value for key, value in schema.items() if key != "description"}
    described = {"name": name, "in": "query"} | {key: schema[key] for key in ("description",) if key in schema}
    if _has_objects(schema, schemas):
        return described | {"content": {"application/json": {"schema": shape}}}
    return described | {"schema": shape}


def _has_objects(schema: Schema, schemas: Mapping[str, Schema]) -> bool:
    if "$ref" in schema:
        return _has_objects(schemas[name_in(schema["$ref"])], schemas)
    parts = [*schema.get("anyOf", ()), *schema.get("oneOf", ())]
    says_nothing = not {"type", "enum", "const"} & schema.keys() and not parts
    return says_nothing or "object" in kinds_of(schema) or any(_has_objects(part, schemas) for part in parts)


# ── what comes out ───────────────────────────────────────────────────────────────────────────────────────────────────
def _answer(event: Event) -> Json:
    answer = _json("The answer.", {"$ref": f"{REFERENCE}{event.answer}"})
    return answer | {"headers": {"Ksi-Event-Id": EVENT_ID}} if event.is_recorded else answer


def _json(description: str, schema: Schema) -> Json:
    return {"description": description, "content": {"application/json": {"schema": schema}}}


def _chunks(event: Event) -> Json:
    chunk, answer = {"$ref": f"{REFERENCE}{event.chunk}"}, {"$ref": f"{REFERENCE}{event.answer}"}
    return streamed("Chunks, then the end.", chunk, answer)
