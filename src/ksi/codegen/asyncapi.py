"""AsyncAPI 3.0: the events as frames of a WebSocket, and the streams as server-sent events too.

Written from the daemon's side, as the standard wants it: it receives requests and sends answers.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ksi.codegen.catalogue import REFERENCE, Catalogue, Event, said
from ksi.codegen.problems import FAILURE, Json
from ksi.codegen.schemas import Schema

ADDRESS = "127.0.0.1:7474"
"""Where the daemon listens unless its configuration says something else."""
FRAME_ID: Json = {"description": "Chosen by the client; its answers carry it.", "type": ["integer", "string"]}
GAP: Json = {
    "type": "object",
    "description": "Chunks were dropped here: the reader was slow and had chosen that.",
    "required": ["id", "gap"],
    "properties": {"id": FRAME_ID, "gap": {"type": "object"}},
}
CREDIT: Json = {
    "type": "object",
    "description": "The reader is ready for so many more chunks.",
    "required": ["id", "credit"],
    "properties": {"id": FRAME_ID, "credit": {"type": "integer", "minimum": 0}},
}
CANCEL: Json = {
    "type": "object",
    "description": "Stop it. Its last frame still comes.",
    "required": ["id", "cancel"],
    "properties": {"id": FRAME_ID, "cancel": {"const": True}},
}
OPENING: Json = {
    "type": "object",
    "description": "The address of the stream, said before there is anything else.",
    "required": ["at"],
    "properties": {"at": {"type": "string"}},
}
FRAME: Json = {
    "type": "object",
    "description": "What any request may say beside its data.",
    "required": ["id", "event"],
    "properties": {
        "id": FRAME_ID,
        "event": {"type": "string"},
        "data": {"type": "object"},
        "event_id": {"type": "string"},
        "correlation_id": {"type": "string"},
        "causation_id": {"type": "string"},
        "branch": {"type": "string"},
        "priority": {"type": "integer"},
        "timeout": {"type": "number", "exclusiveMinimum": 0, "description": "seconds"},
        "traceparent": {"type": "string"},
        "stream": {"type": "boolean"},
        "credit": {"type": "integer", "minimum": 0},
    },
}
SHARED: Mapping[str, Json] = {
    "Cancel": CANCEL,
    "Credit": CREDIT,
    "Failure": FAILURE,
    "Frame": FRAME,
    "Gap": GAP,
    "Opening": OPENING,
}


def document(catalogue: Catalogue) -> Json:
    """The AsyncAPI document of all events; ``x-ksi-event`` says which one an operation is about."""
    channels: Json = {}
    operations: Json = {}
    for event in catalogue.events:
        channels[event.stem] = _channel(event)
        operations[f"ask{event.stem}"] = _ask(event)
        if event.is_stream:
            channels[f"{event.stem}Events"] = _sse_channel(event)
            operations[f"stream{event.stem}"] = _send(event)
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "KSI",
            "version": catalogue.ksi,
            "description": "Frames of the WebSocket at /v1/ws, and streams as server-sent events.",
            "x-ksi-hash": catalogue.hash,
        },
        "defaultContentType": "application/json",
        "servers": {
            "websocket": _server("ws", "/v1/ws", "One JSON object a frame; the first one may be a hello with a token."),
            "http": _server("http", "/", "Server-sent events."),
        },
        "channels": dict(sorted(channels.items())),
        "operations": dict(sorted(operations.items())),
        "components": {
            "messages": _shared_messages(),
            "schemas": {**catalogue.schemas, **SHARED},
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer", "description": "What `ksi token` prints."}
            },
        },
    }


def _server(protocol: str, path: str, description: str) -> Json:
    return {
        "host": "{address}",
        "pathname": path,
        "protocol": protocol,
        "description": description,
        "variables": {"address": {"default": ADDRESS}},
        "security": [_reference("#/components/securitySchemes/bearer")],
    }


# ── over the WebSocket ───────────────────────────────────────────────────────────────────────────────────────────────
def _channel(event: Event) -> Json:
    messages = {"request": _requested(event), "answer": _answered(event), "failure": _shared("failure")}
    if event.is_stream:
        messages |= {
            "chunk": _message(
                "A chunk.", _frame(seq={"type": "integer"}, at={"type": "string"}, data=_type(event.chunk))
            ),
            "end": _message("The end.", _frame(end={"const": True}, data=_type(event.answer))),
            **{name: _shared(name) for name in ("broken", "gap", "credit", "cancel")},
        }
    return {
        "address": event.name,
        "title": event.name,
        **said(event),
        "servers": [_reference("#/servers/websocket")],
        "messages": messages,
    }


def _ask(event: Event) -> Json:
    answers = ["answer", "failure", *(["chunk", "gap", "end", "broken"] if event.is_stream else [])]
    asks = ["request", *(["credit", "cancel"] if event.is_stream else [])]
    return _operation(event, event.stem, "receive", asks) | {
        "reply": {
            "channel": _reference(f"#/channels/{event.stem}"),
            "messages": _messages(event.stem, answers),
        }
    }


def _requested(event: Event) -> Json:
    said = {"event": {"const": event.name}, "data": _type(event.request)}
    payload = {"allOf": [_type("Frame"), {"type": "object", "properties": said}]}
    examples = [
        {"payload": {"id": number, "event": event.name, "data": data}}
        for number, data in enumerate(event.described.examples, 1)
    ]
    return _message("The request.", payload) | ({"examples": examples} if examples else {})


def _answered(event: Event) -> Json:
    return _message("The answer.", _frame(ok={"const": True}, data=_type(event.answer)))


def _shared(name: str) -> Json:
    return _reference(f"#/components/messages/{name}")


def _shared_messages() -> Json:
    """Those that are the same for every event."""
    error = _type("Failure")
    return {
        "broken": _message("The end, where something went wrong.", _frame(end={"const": True}, error=error)),
        "cancel": _message("No more.", _type("Cancel")),
        "credit": _message("More, please.", _type("Credit")),
        "failure": _message("The answer, where something went wrong.", _frame(ok={"const": False}, error=error)),
        "gap": _message("Chunks were dropped.", _type("Gap")),
    }


def _frame(**fields: Schema) -> Json:
    """A frame of the daemon; an address is there only where the stream is recorded."""
    required = ["id", *(name for name in fields if name != "at")]
    return {"type": "object", "required": required, "properties": {"id": FRAME_ID, **fields}}


# ── server-sent events ───────────────────────────────────────────────────────────────────────────────────────────────
def _sse_channel(event: Event) -> Json:
    return {
        "address": "/v1/subscribe" if event.name == "event:subscribe" else f"/v1/stream/{event.name}",
        "title": event.name,
        "summary": said(event)["summary"],
        "servers": [_reference("#/servers/http")],
        "messages": {
            "open": _event("open", "The stream's address.", _type("Opening")),
            "chunk": _event("message", "A chunk; its id is its address.", _type(event.chunk)),
            "gap": _event("gap", "Chunks were dropped.", {"type": "object"}),
            "end": _event("end", "The end.", _type(event.answer)),
            "failure": _event("failure", "The end, where something went wrong.", _type("Failure")),
        },
    }


def _send(event: Event) -> Json:
    return _operation(event, f"{event.stem}Events", "send", ["open", "chunk", "gap", "end", "failure"])


def _event(name: str, summary: str, payload: Schema) -> Json:
    """One of the event stream; its data is ``payload``."""
    return {"name": name, "summary": summary, "payload": payload}


# ── both ─────────────────────────────────────────────────────────────────────────────────────────────────────────────
def _operation(event: Event, channel: str, action: str, messages: list[str]) -> Json:
    return {
        "action": action,
        "channel": _reference(f"#/channels/{channel}"),
        "summary": said(event)["summary"],
        "tags": [{"name": event.name.partition(":")[0]}],
        "messages": _messages(channel, messages),
        "x-ksi-event": event.name,
        "x-ksi-kind": event.described.kind,
    }


def _message(summary: str, payload: Schema) -> Json:
    return {"summary": summary, "correlationId": {"location": "$message.payload#/id"}, "payload": payload}


def _messages(channel: str, names: list[str]) -> list[Any]:
    return [_reference(f"#/channels/{channel}/messages/{name}") for name in names]


def _type(name: str) -> Json:
    return _reference(f"{REFERENCE}{name}")


def _reference(target: str) -> Json:
    return {"$ref": target}
