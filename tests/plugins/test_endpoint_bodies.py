"""What clients of providers send is read, or refused by a typed error: whatever stands where in it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest

from ksi.core.errors import UnsupportedError, ValidationError
from ksi.plugins.endpoint import anthropic, openai, responses

TEXT = {"type": "text", "text": "x"}
FUNCTION = {"name": "add", "description": "", "parameters": {"type": "object"}}
SCHEMA = {"type": "json_schema", "schema": {}, "json_schema": {"schema": {}}}
CHAT = {
    "model": "m",
    "messages": [
        {"role": "user", "content": [TEXT, {"type": "image_url", "image_url": {"url": "u"}}]},
        {"role": "assistant", "tool_calls": [{"id": "a", "function": {"name": "add", "arguments": "{}"}}]},
        {"role": "tool", "tool_call_id": "a", "content": [TEXT]},
    ],
    "tools": [{"type": "function", "function": FUNCTION}],
    "response_format": SCHEMA,
    "stream_options": {"include_usage": True},
    "stop": ["."],
}
RESPONSE = {
    "model": "m",
    "input": [
        {"role": "user", "content": [{"type": "input_text", "text": "x"}, {"type": "input_image", "image_url": "u"}]},
        {"type": "reasoning"},
        {"type": "function_call", "call_id": "a", "name": "add", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "a", "output": [{"type": "input_text", "text": "r"}]},
    ],
    "tools": [{"type": "function", **FUNCTION}],
    "text": {"format": SCHEMA},
}
MESSAGES = {
    "model": "m",
    "max_tokens": 5,
    "system": [TEXT],
    "messages": [
        {"role": "user", "content": [TEXT, {"type": "image", "source": {"type": "url", "url": "u"}}]},
        {"role": "assistant", "content": [{"type": "tool_use", "id": "a", "name": "add", "input": {}}]},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "a", "content": [TEXT]}]},
    ],
    "tools": [{"name": "add", "input_schema": {}}],
    "tool_choice": {"type": "auto"},
}
JUNK: tuple[Any, ...] = (
    None,
    True,
    5,
    -1.5,
    "",
    "x",
    [],
    [5],
    ["x"],
    [None],
    {},
    {"type": "text"},
    {"type": 5},
    [{"type": "input_text"}],
)
PROTOCOLS = {"chat": (openai, CHAT), "responses": (responses, RESPONSE), "messages": (anthropic, MESSAGES)}


def places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Each dictionary or list in it, with each of its keys."""
    keys = value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    for key in keys:
        yield value, key
        yield from places(value[key])


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_whatever_stands_at_any_place_of_a_body_is_read_or_refused_by_a_typed_error(protocol: str) -> None:
    module, whole = PROTOCOLS[protocol]
    body = json.loads(json.dumps(whole))
    assert module.wanted(json.dumps(body).encode()).messages
    for holder, key in places(body):
        held = holder[key]
        for junk in JUNK:
            holder[key] = junk
            with suppress(ValidationError, UnsupportedError):
                module.wanted(json.dumps(body).encode()).request()
        holder[key] = held


@pytest.mark.parametrize("content", [5, [5], {"type": "input_text"}], ids=["number", "numbers", "object"])
def test_a_content_that_is_neither_a_text_nor_objects_says_so(content: object) -> None:
    with pytest.raises(ValidationError, match="a content is a text or a list of objects"):
        responses.wanted(json.dumps({"model": "m", "input": [{"role": "user", "content": content}]}).encode())
