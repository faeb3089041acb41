"""Answers in parts, as HTTP writes them: server-sent events, or a JSON object a line."""

from __future__ import annotations

from ksi.codegen.catalogue import REFERENCE
from ksi.codegen.problems import Json
from ksi.codegen.schemas import Schema

OPENING: Json = {"type": "object", "required": ["at"], "properties": {"at": {"type": "string"}}}
"""The stream's address, said before there is anything else."""


def streamed(description: str, chunk: Schema, answer: Schema) -> Json:
    """A response in parts.

    OpenAPI 3.1 has no word for it; its readers take the schema of such a medium for that of each part.
    """
    return {
        "description": f"{description} Schemas of each event, and of each line.",
        "content": {
            "text/event-stream": {"schema": {"anyOf": _server_sent(chunk, answer)}},
            "application/x-ndjson": {"schema": {"anyOf": _lines(chunk, answer)}},
        },
    }


def _server_sent(chunk: Schema, answer: Schema) -> list[Json]:
    """Events; the ``id`` of a chunk is its address."""
    named = {"open": OPENING, "gap": {"type": "object"}, "end": answer, "failure": {"$ref": f"{REFERENCE}Failure"}}
    return [
        _object(["data"], event={"const": "message"}, id={"type": "string"}, data=_json_text(chunk)),
        *(
            _object(["event", "data"], event={"const": name}, id={"type": "string"}, data=_json_text(data))
            for name, data in named.items()
        ),
    ]


def _lines(chunk: Schema, answer: Schema) -> list[Json]:
    end, failure = {"const": True}, {"$ref": f"{REFERENCE}Failure"}
    return [
        _object(["at"], at={"type": "string"}),
        _object(["data"], at={"type": "string"}, data=chunk),
        _object(["gap"], gap={"type": "object"}),
        _object(["end", "data"], end=end, data=answer),
        _object(["end", "error"], end=end, error=failure),
    ]


def _object(required: list[str], **fields: Schema) -> Json:
    return {"type": "object", "required": required, "properties": fields, "additionalProperties": False}


def _json_text(schema: Schema) -> Json:
    return {"type": "string", "contentMediaType": "application/json", "contentSchema": schema}
