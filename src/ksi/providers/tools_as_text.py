"""Tools for models whose provider knows none: they are told of them in words, and answer in a form made for it.

The form is ``{"tool": …, "arguments": …}`` or ``{"answer": …}``, held by a JSON schema, so it needs
``capabilities.structured``. The answer's text comes in one piece, when it is whole.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import aclosing
from typing import Any

import msgspec

from ksi.core import canonical
from ksi.providers.base import (
    AnyChunk,
    AnyPart,
    Capabilities,
    CompletionRequest,
    Counted,
    Finished,
    Message,
    Provider,
    TextDelta,
    TextPart,
    Tool,
    ToolCallDelta,
    ToolCallPart,
    ToolResultPart,
)
from ksi.providers.timeouts import Timeouts

INTRODUCTION = (
    'Answer with {"answer": "…"}. Where you need one of these tools first, answer with {"tool": "…", "arguments": {…}}'
)
CALL = "call-0"


def stream(provider: Provider, request: CompletionRequest, timeouts: Timeouts) -> AsyncGenerator[AnyChunk, None]:
    """What ``provider`` answers: natively, where it can call tools or none are spoken of."""
    if provider.capabilities.tools or not _speaks_of_tools(request):
        return provider.stream(request, timeouts=timeouts)
    told = in_words(request, provider.capabilities)
    chunks = provider.stream(told, timeouts=timeouts)
    return chunks if told.response_schema is request.response_schema else _heard(chunks)


def _speaks_of_tools(request: CompletionRequest) -> bool:
    parts = [part for message in request.messages for part in message.parts]
    return bool(request.tools) or any(isinstance(part, ToolCallPart | ToolResultPart) for part in parts)


def in_words(request: CompletionRequest, capabilities: Capabilities) -> CompletionRequest:
    """``request`` without parts of tools.

    Where a form can not be asked for, ``tools`` stay, for the provider to refuse; inside an answer none are offered.
    """
    messages = tuple(Message(role=_role(message), parts=tuple(_words(message))) for message in request.messages)
    if not request.tools or request.continue_text is not None:
        return msgspec.structs.replace(request, messages=messages, tools=())
    if not capabilities.structured or request.response_schema is not None:
        return msgspec.structs.replace(request, messages=messages)
    told = Message(role="system", parts=(TextPart(text=_introduction(request.tools)),))
    return msgspec.structs.replace(request, messages=(told, *messages), tools=(), response_schema=_form(request.tools))


def _role(message: Message) -> Any:
    return "user" if message.role == "tool" else message.role


def _words(message: Message) -> Iterator[AnyPart]:
    for part in message.parts:
        match part:
            case ToolCallPart():
                said = canonical.encode({"tool": part.name, "arguments": part.arguments}).decode()
                yield TextPart(text=said)
            case ToolResultPart():
                yield TextPart(text=f"{'Error' if part.is_error else 'Result'} of the tool: {part.content}\n")
            case _:
                yield part


def _introduction(tools: Sequence[Tool]) -> str:
    lines = [f"{tool.name}: {tool.description.partition(chr(10))[0]}" for tool in tools]
    return "\n".join([INTRODUCTION, *lines])


def _form(tools: Sequence[Tool]) -> dict[str, Any]:
    calls = [_object({"tool": {"const": tool.name}, "arguments": _schema(tool)}) for tool in tools]
    form: dict[str, Any] = {"anyOf": [*calls, _object({"answer": {"type": "string"}})]}
    definitions = {name: schema for tool in tools for name, schema in _definitions(tool).items()}
    return form | ({"$defs": definitions} if definitions else {})


def _object(properties: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}


def _schema(tool: Tool) -> dict[str, Any]:
    return {name: value for name, value in _own(tool).items() if name != "$defs"}


def _definitions(tool: Tool) -> dict[str, Any]:
    """Its definitions, under names that no other tool's have: they stand at the root of the form."""
    return {f"{tool.name}.{name}": schema for name, schema in _own(tool).get("$defs", {}).items()}


def _own(tool: Tool) -> dict[str, Any]:
    text = canonical.encode(tool.parameters).replace(b'"#/$defs/', f'"#/$defs/{tool.name}.'.encode())
    parameters: dict[str, Any] = canonical.decode(text)
    return parameters


async def _heard(chunks: AsyncGenerator[AnyChunk, None]) -> AsyncGenerator[AnyChunk, None]:
    """Text or a tool call, out of the form; what does not keep to it comes as the text that it is."""
    written = ""
    async with aclosing(chunks):
        async for chunk in chunks:
            match chunk:
                case TextDelta(text=text):
                    written += text
                case Counted():
                    yield chunk
                case Finished():
                    said = _said(written)
                    yield said
                    is_call = isinstance(said, ToolCallDelta)
                    yield msgspec.structs.replace(chunk, reason="tool_calls") if is_call else chunk


def _said(written: str) -> AnyChunk:
    try:
        said = msgspec.json.decode(written)
    except (ValueError, RecursionError):
        return TextDelta(text=written)
    match said:
        case {"tool": str(name), "arguments": dict(arguments)}:
            return ToolCallDelta(index=0, id=CALL, name=name, arguments=canonical.encode(arguments).decode())
        case {"answer": str(answer)}:
            return TextDelta(text=answer)
    return TextDelta(text=written)
