"""The OpenAI-compatible provider against a server that fails on command."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import pytest

from ksi.core.errors import (
    ContextLengthError,
    KSIError,
    NotFoundError,
    ProviderAuthError,
    ProviderBugError,
    ProviderInvalidRequestError,
    ProviderOverloadedError,
    RateLimitedError,
)
from ksi.providers.base import AnyChunk, Counted, Finished, TextDelta, ToolCallDelta, Usage
from ksi.providers.drained import drained
from ksi.providers.openai import OpenAIProvider
from tests.providers.faulty_server import (
    STREAM_END,
    STREAM_HEAD,
    FaultyServer,
    Reply,
    answer,
    ask,
    collect,
    event,
    send,
    take,
    then,
    token,
    usage,
)
from tests.providers.server_faults import ServerFaults, closing


class TestOpenAI(ServerFaults):
    def make(self, server: FaultyServer) -> OpenAIProvider:
        return OpenAIProvider(base_url=server.address, api_key="the key")

    def token(self, text: str) -> bytes:
        return token(text)

    def whole(self, *texts: str) -> list[bytes]:
        return [*map(token, texts), token("", finish="stop"), event(b"[DONE]")]

    def thought(self) -> bytes:
        return event({"choices": [{"index": 0, "delta": {"content": "", "reasoning": "Hm"}, "finish_reason": None}]})

    def overload(self) -> bytes:
        return event({"error": {"code": 503, "message": "lost a worker"}})


@asynccontextmanager
async def provider_of(server: FaultyServer) -> AsyncGenerator[OpenAIProvider, None]:
    async with server.running():
        provider = TestOpenAI().make(server)
        async with closing(provider):
            yield provider


async def failure_of(reply: Reply) -> KSIError:
    return await TestOpenAI().failure_of(reply)


async def test_tokens_come_as_the_server_sends_them_and_usage_comes_last() -> None:
    body = [token(" one"), token(" two"), token("", finish="length"), usage(7, 2), event(b"[DONE]"), STREAM_END]
    server = FaultyServer([send(STREAM_HEAD, *body)])
    async with provider_of(server) as provider:
        chunks = await collect(provider.stream(ask(max_tokens=2, stop=("x",))))
    last = Finished(reason="length", usage=Usage(input_tokens=7, output_tokens=2), provider="openai", model="m")
    assert chunks == [TextDelta(text=" one"), TextDelta(text=" two"), last]
    assert server.bodies[0]["stream_options"] == {"include_usage": True}
    assert server.bodies[0]["stop"] == ["x"]
    assert "seed" not in server.bodies[0]
    assert "authorization: Bearer the key" in server.heads[0]


async def test_of_a_reader_that_leaves_all_that_was_written_is_counted() -> None:
    def timed(text: str, written: int) -> bytes:
        choices = [{"index": 0, "delta": {"content": text}, "finish_reason": None}]
        return event({"choices": choices, "timings": {"cache_n": 5, "prompt_n": 2, "predicted_n": written}})

    server = FaultyServer([])
    server.replies.append(then(send(STREAM_HEAD, *(timed(f" {n}", n) for n in range(1, 33))), server.silence))
    unread: list[AnyChunk] = []
    async with provider_of(server) as provider:
        stream = drained(provider.stream(ask()), unread.append)
        seen = await take(stream, 20)
        await stream.aclose()
        async with asyncio.timeout(5):
            await server.reader_gone.wait()
    assert seen[-1] == Counted(usage=Usage(input_tokens=7, output_tokens=10))
    assert unread[-1] == Counted(usage=Usage(input_tokens=7, output_tokens=32))


async def test_pieces_of_a_tool_call_are_passed_on() -> None:
    def call(**fields: object) -> bytes:
        return event({"choices": [{"delta": {"tool_calls": [{"index": 0, **fields}]}, "finish_reason": None}]})

    end = event({"choices": [{"delta": {}, "finish_reason": "tool_calls"}]})
    body = [call(id="c1", function={"name": "look"}), call(function={"arguments": "{}"}), end, event(b"[DONE]")]
    async with provider_of(FaultyServer([send(STREAM_HEAD, *body, STREAM_END)])) as provider:
        first, second, last = await collect(provider.stream(ask()))
    assert first == ToolCallDelta(index=0, id="c1", name="look")
    assert second == ToolCallDelta(index=0, arguments="{}")
    assert isinstance(last, Finished)
    assert last.reason == "tool_calls"


async def test_a_date_to_come_back_at_is_measured_against_the_servers_own_clock() -> None:
    then_, now = "Wed, 21 Oct 2015 07:28:30 GMT", "Wed, 21 Oct 2015 07:28:00 GMT"
    error = await failure_of(answer(429, {}, retry_after=then_, date=now))
    assert isinstance(error, RateLimitedError)
    assert error.retry_after == 30.0


@pytest.mark.parametrize(
    ("status", "error", "kind"),
    [
        (401, {"message": "bad key the key"}, ProviderAuthError),
        (429, {"message": "pay", "code": "insufficient_quota"}, ProviderAuthError),
        (400, {"message": "no such field"}, ProviderInvalidRequestError),
        (400, {"message": "too long", "code": "context_length_exceeded"}, ContextLengthError),
        (400, {"message": "exceeds", "type": "exceed_context_size_error", "code": 400}, ContextLengthError),
        (400, {"message": "This model's maximum context length is 8 tokens"}, ContextLengthError),
        (404, {"message": "The model `m` does not exist"}, NotFoundError),
        (404, "no such path", ProviderInvalidRequestError),
        (500, {"message": None}, ProviderOverloadedError),
        (529, {"message": "overloaded"}, ProviderOverloadedError),
        (302, {}, ProviderBugError),
    ],
)
async def test_each_refusal_has_its_own_error(status: int, error: object, kind: type[KSIError]) -> None:
    raised = await failure_of(answer(status, {"error": error}))
    assert type(raised) is kind
    assert "the key" not in raised.message.replace("the key was", "")


async def test_what_the_server_can_not_do_is_refused_before_it_is_asked() -> None:
    async with provider_of(FaultyServer([])) as provider:
        with pytest.raises(ProviderInvalidRequestError, match="continues"):
            await collect(provider.stream(ask(continue_text="Once")))
