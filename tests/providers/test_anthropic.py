"""Anthropic's protocol: against a server that fails on command, and against its own package's types."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from anthropic.types import MessageCreateParams
from pydantic import TypeAdapter

from ksi.core.errors import (
    ContextLengthError,
    KSIError,
    NotFoundError,
    ProviderAuthError,
    ProviderInvalidRequestError,
    ProviderOverloadedError,
    RateLimitedError,
    StreamInterruptedError,
)
from ksi.providers.anthropic import AnthropicProvider
from ksi.providers.anthropic_format import MessageReader, body_of
from ksi.providers.base import (
    CompletionRequest,
    FilePart,
    Finished,
    Message,
    TextDelta,
    TextPart,
    Tool,
    ToolCallDelta,
    ToolCallPart,
    ToolResultPart,
    Usage,
)
from tests.providers.faulty_server import (
    STREAM_END,
    STREAM_HEAD,
    FaultyServer,
    answer,
    ask,
    collect,
    event,
    send,
)
from tests.providers.server_faults import ServerFaults, closing

SENT = TypeAdapter(MessageCreateParams)


def said(kind: str, **fields: Any) -> bytes:
    return event({"type": kind, **fields})


def begun(**usage: int) -> bytes:
    return said("message_start", message={"model": "m-1", "usage": {"input_tokens": 3, **usage}})


def delta(index: int = 0, **fields: str) -> bytes:
    return said("content_block_delta", index=index, delta=fields)


def token(text: str) -> bytes:
    return delta(type="text_delta", text=text)


def ended(reason: str, **usage: int) -> list[bytes]:
    more = {"usage": usage} if usage else {}
    return [said("message_delta", delta={"stop_reason": reason}, **more), said("message_stop"), STREAM_END]


class TestAnthropic(ServerFaults):
    def make(self, server: FaultyServer) -> AnthropicProvider:
        return AnthropicProvider(base_url=server.address.removesuffix("/v1"), api_key="the key")

    def token(self, text: str) -> bytes:
        return token(text)

    def whole(self, *texts: str) -> list[bytes]:
        return [*map(token, texts), *ended("end_turn")[:2]]

    def thought(self) -> bytes:
        return delta(type="thinking_delta", thinking="Hm")

    def overload(self) -> bytes:
        return said("error", error={"type": "overloaded_error", "message": "lost a worker"})

    async def chunks_of(self, *events: bytes, request: CompletionRequest | None = None) -> list[Any]:
        server = FaultyServer([send(STREAM_HEAD, *events)])
        async with server.running(), closing(self.make(server)) as provider:
            return await collect(provider.stream(request or ask()))

    async def test_tokens_come_as_the_server_sends_them_and_usage_counts_what_the_cache_read(self) -> None:
        block = said("content_block_start", index=0, content_block={"type": "text", "text": ""})
        tokens = [token(" one"), said("ping"), said("unheard_of", index=7), token(" two")]
        cached = begun(cache_read_input_tokens=5, cache_creation_input_tokens=2, output_tokens=1)
        chunks = await self.chunks_of(cached, block, *tokens, *ended("max_tokens", output_tokens=9))
        last = Finished(
            reason="length", usage=Usage(input_tokens=10, output_tokens=9), provider="anthropic", model="m-1"
        )
        assert chunks == [TextDelta(text=" one"), TextDelta(text=" two"), last]

    async def test_pieces_of_tool_calls_are_passed_on_behind_the_text(self) -> None:
        block = {"type": "tool_use", "id": "t1", "name": "look", "input": {}}
        call = [said("content_block_start", index=1, content_block=block)]
        call += [delta(1, type="input_json_delta", partial_json=part) for part in ("", '{"a"', ":1}")]
        chunks = await self.chunks_of(begun(), token("Hm."), *call, *ended("tool_use", output_tokens=4))
        assert chunks[1:4] == [
            ToolCallDelta(index=1, id="t1", name="look"),
            ToolCallDelta(index=1, arguments='{"a"'),
            ToolCallDelta(index=1, arguments=":1}"),
        ]
        assert chunks[-1].reason == "tool_calls"

    @pytest.mark.parametrize(
        ("said", "reason"),
        [
            ("end_turn", "stop"),
            ("stop_sequence", "stop"),
            ("pause_turn", "stop"),
            ("refusal", "content_filter"),
            ("model_context_window_exceeded", "length"),
        ],
    )
    async def test_each_reason_to_stop_is_told(self, said: str, reason: str) -> None:
        *_, last = await self.chunks_of(begun(), *ended(said, output_tokens=0))
        assert last.reason == reason

    @pytest.mark.parametrize(
        ("status", "kind", "message", "error"),
        [
            (401, "authentication_error", "invalid x-api-key the key", ProviderAuthError),
            (402, "billing_error", "pay", ProviderAuthError),
            (400, "invalid_request_error", "max_tokens: Field required", ProviderInvalidRequestError),
            (400, "invalid_request_error", "prompt is too long: 9 tokens > 8 maximum", ContextLengthError),
            (404, "not_found_error", "model: m", NotFoundError),
            (429, "rate_limit_error", "slow down", RateLimitedError),
            (500, "api_error", "Internal server error", ProviderOverloadedError),
            (529, "overloaded_error", "Overloaded", ProviderOverloadedError),
        ],
    )
    async def test_each_refusal_has_its_own_error_also_in_the_middle_of_a_stream(
        self, status: int, kind: str, message: str, error: type[KSIError]
    ) -> None:
        refused = {"type": "error", "error": {"type": kind, "message": message}}
        for reply in (answer(status, refused), send(STREAM_HEAD, begun(), event(refused))):
            raised = await self.failure_of(reply)
            assert type(raised) is error
            assert "the key" not in raised.message.replace("the key was", "")

    async def test_an_error_of_an_unknown_kind_interrupts_the_stream(self) -> None:
        error = await self.failure_of(send(STREAM_HEAD, begun(), said("error", error={"type": "new", "message": "?"})))
        assert type(error) is StreamInterruptedError


LOOK = Tool(name="look", description="Looks.", parameters={"type": "object"})
CALL = ToolCallPart(id="t1", name="look", arguments={"a": 1})
PICTURE = FilePart(uri="data:image/png;base64,AA==", media_type="image/png")
SOUND = FilePart(uri="https://x/y.wav", media_type="audio/wav")
TALK = (
    Message(role="system", parts=(TextPart(text="Be kind."),)),
    Message(role="user", parts=(TextPart(text="Look."), PICTURE)),
    Message(role="assistant", parts=(TextPart(text=""), CALL)),
    Message(role="tool", parts=(ToolResultPart(id="t1", content="nothing", is_error=True),)),
    Message(role="user", parts=(FilePart(uri="https://x/y.pdf", media_type="application/pdf"),)),
    Message(role="system", parts=(TextPart(text="Be brief."),)),
)  # fmt: skip


def test_a_request_is_one_that_the_package_would_send() -> None:
    request = CompletionRequest(
        messages=TALK, model="m", max_tokens=5, temperature=0.5, seed=1, stop=("x",), tools=(LOOK,),
        response_schema={"type": "object"},
    )  # fmt: skip
    body = body_of(request, provider="anthropic")
    SENT.validate_python({name: value for name, value in body.items() if name != "stream"})
    assert body["system"] == "Be kind.\n\nBe brief."
    assert [message["role"] for message in body["messages"]] == ["user", "assistant", "user"]
    assert body["messages"][1]["content"] == [{"type": "tool_use", "id": "t1", "name": "look", "input": {"a": 1}}]
    assert [block["type"] for block in body["messages"][2]["content"]] == ["tool_result", "document"]
    assert body["messages"][0]["content"][1]["source"] == {"type": "base64", "media_type": "image/png", "data": "AA=="}
    assert body["output_config"] == {"format": {"type": "json_schema", "schema": {"type": "object"}}}
    assert "seed" not in body


def test_only_what_is_asked_for_is_sent_and_an_answer_is_bounded() -> None:
    assert set(body_of(ask(), provider="anthropic")) == {"model", "max_tokens", "messages", "stream"}


@pytest.mark.parametrize(
    ("role", "part"), [("user", CALL), ("assistant", ToolResultPart(id="t", content="")), ("user", SOUND)]
)
def test_a_part_that_can_not_stand_there_is_refused(role: Any, part: Any) -> None:
    with pytest.raises(ProviderInvalidRequestError):
        body_of(CompletionRequest(messages=(Message(role=role, parts=(part,)),), model="m"), provider="anthropic")


@pytest.mark.parametrize("size", [1, 7, 1_000])
def test_pieces_of_any_size_give_the_same_chunks(size: int) -> None:
    events: list[Any] = [
        {"type": "content_block_delta", "delta": {"type": "text_delta", "text": text}} for text in "abc"
    ]
    events.append({"type": "message_delta", "delta": {"stop_reason": "end_turn"}})
    raw = b"".join(b"event: x\r\ndata: %b\r\n\r\n" % msgspec.json.encode(each) for each in events)
    reader = MessageReader(ask(), provider="anthropic")
    pieces = [raw[start : start + size] for start in range(0, len(raw), size)]
    assert [chunk for piece in pieces for chunk in reader.feed(piece)] == [TextDelta(text=text) for text in "abc"]
