"""JSON schemas for models whose provider holds no answer to one: they are told of it, and nobody holds them to it."""

from __future__ import annotations

import msgspec

from ksi.core import canonical
from ksi.providers.base import Capabilities, CompletionRequest, Message, TextPart

INTRODUCTION = (
    "Answer with one JSON value and nothing else: no explanation, no code fence. It must fit this JSON schema: "
)


def in_words(request: CompletionRequest, capabilities: Capabilities) -> CompletionRequest:
    """``request`` as the provider takes it; inside an answer nothing is said again."""
    schema = request.response_schema
    if schema is None or capabilities.structured:
        return request
    if request.continue_text is not None:
        return msgspec.structs.replace(request, response_schema=None)
    told = Message(role="system", parts=(TextPart(text=f"{INTRODUCTION}{canonical.encode(schema).decode()}"),))
    return msgspec.structs.replace(request, messages=(told, *request.messages), response_schema=None)
