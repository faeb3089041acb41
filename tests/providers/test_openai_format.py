"""What is sent for each kind of message."""

from __future__ import annotations

from typing import Any

import pytest

from ksi.core.errors import ProviderInvalidRequestError
from ksi.providers.base import (
    AnyPart,
    CompletionRequest,
    FilePart,
    Message,
    TextPart,
    Tool,
    ToolCallPart,
    ToolResultPart,
)
from ksi.providers.openai_format import body_of

TEXT = TextPart(text="hello")
CALL = ToolCallPart(id="c1", name="look", arguments={"b": 1, "a": 2})
RESULT = ToolResultPart(id="c1", content="fog")


def sent(role: str, *parts: AnyPart) -> list[dict[str, Any]]:
    request = CompletionRequest(model="m", messages=(Message(role=role, parts=parts),))  # type: ignore[arg-type]
    messages: list[dict[str, Any]] = body_of(request, provider="p")["messages"]
    return messages


def test_text_alone_is_sent_plain() -> None:
    assert sent("user", TEXT, TEXT) == [{"role": "user", "content": "hellohello"}]


def test_images_go_by_their_address_and_files_with_their_data() -> None:
    image = FilePart(uri="https://x/y.png", media_type="image/png")
    file = FilePart(uri="data:application/pdf;base64,AA==", media_type="application/pdf")
    content = sent("user", TEXT, image, file)[0]["content"]
    assert content == [
        {"type": "text", "text": "hello"},
        {"type": "image_url", "image_url": {"url": "https://x/y.png"}},
        {"type": "file", "file": {"file_data": file.uri}},
    ]


def test_a_tool_call_and_its_result_find_each_other() -> None:
    assistant = sent("assistant", CALL)[0]
    assert assistant["tool_calls"][0]["function"] == {"name": "look", "arguments": '{"a":2,"b":1}'}
    failed = ToolResultPart(id="c2", content="dark", is_error=True)
    assert sent("tool", RESULT, failed) == [
        {"role": "tool", "tool_call_id": "c1", "content": "fog"},
        {"role": "tool", "tool_call_id": "c2", "content": "Error: dark"},
    ]


@pytest.mark.parametrize(
    ("role", "part"),
    [
        ("user", CALL),
        ("user", RESULT),
        ("tool", TEXT),
        ("user", FilePart(uri="blob:7", media_type="application/pdf")),
    ],
)
def test_a_part_in_the_wrong_place_is_refused(role: str, part: AnyPart) -> None:
    with pytest.raises(ProviderInvalidRequestError):
        sent(role, part)


def test_the_answer_so_far_schema_and_tools_are_sent() -> None:
    schema = {"type": "object"}
    tool = Tool(name="look", description="Looks.", parameters=schema)
    request = CompletionRequest(
        model="m",
        messages=(Message(role="user", parts=(TEXT,)),),
        continue_text="Once",
        response_schema=schema,
        tools=(tool,),
        temperature=0.0,
    )
    body = body_of(request, provider="p")
    assert body["messages"][-1] == {"role": "assistant", "content": "Once"}
    assert body["response_format"]["json_schema"]["schema"] == schema
    function = {"name": "look", "description": "Looks.", "parameters": schema}
    assert body["tools"] == [{"type": "function", "function": function}]
    assert body["temperature"] == 0.0
