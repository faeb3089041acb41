"""The OpenAI-compatible provider against a server that fails on command."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing, asynccontextmanager

import pytest

from ksi.core.errors import (
    ContextLengthError,
    KSIError,
    NotFoundError,
    ProviderAuthError,
    ProviderBugError,
    ProviderInvalidRequestError,
    ProviderOverloadedError,
    ProviderTimeoutError,
    RateLimitedError,
    StreamInterruptedError,
)
from ksi.providers.base import Finished, TextDelta, ToolCallDelta, Usage
from ksi.providers.openai import OpenAIProvider
from ksi.providers.sse import EVENT_BYTES_MAX
from ksi.providers.timeouts import Timeouts
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
    text_of,
    then,
    token,
    usage,
)


@asynccontextmanager
async def provider_of(server: FaultyServer) -> AsyncGenerator[OpenAIProvider, None]:
    async with server.running():
        provider = OpenAIProvider(base_url=server.address, api_key="the key")
        try:
            yield provider
        finally:
            await provider.aclose()


async def failure_of(reply: Reply) -> KSIError:
    async with provider_of(FaultyServer([reply])) as provider:
        with pytest.raises(KSIError) as caught:
            await collect(provider.stream(ask()))
    return caught.value


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


async def test_usage_that_the_server_keeps_to_itself_is_estimated() -> None:
    body = [token("a"), token("b", finish="stop"), event(b"[DONE]"), STREAM_END]
    async with provider_of(FaultyServer([send(STREAM_HEAD, *body)])) as provider:
        *_, last = await collect(provider.stream(ask("12345678")))
    assert isinstance(last, Finished)
    assert last.usage == Usage(input_tokens=2, output_tokens=2, estimated=True)


@pytest.mark.parametrize(("header", "seconds"), [("1.5", 1.5), ("-3", 0.0), ("soon", None), ("nan", None)])
async def test_too_many_requests_says_when_to_come_back(header: str, seconds: float | None) -> None:
    error = await failure_of(answer(429, {"error": {"message": "slow down"}}, retry_after=header))
    assert isinstance(error, RateLimitedError)
    assert error.retry_after == seconds


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


async def test_an_error_in_the_middle_of_the_stream_is_raised_behind_its_tokens() -> None:
    broken = event({"error": {"code": 503, "message": "lost a worker"}})
    async with provider_of(FaultyServer([send(STREAM_HEAD, token("a") + broken)])) as provider:
        stream = provider.stream(ask())
        assert await anext(stream) == TextDelta(text="a")
        with pytest.raises(ProviderOverloadedError, match="lost a worker"):
            await anext(stream)


@pytest.mark.parametrize("data", [b"{half", b"[1]", b'{"choices": 7}', b"[" * 100_000])
async def test_an_event_that_is_none_is_the_providers_bug(data: bytes) -> None:
    error = await failure_of(send(STREAM_HEAD, event(data), STREAM_END))
    assert isinstance(error, ProviderBugError)


async def test_an_event_without_end_is_the_providers_bug_and_no_flood() -> None:
    endless = b"10000\r\n" + b"x" * 65_536 + b"\r\n"
    error = await failure_of(send(STREAM_HEAD, *[endless] * (EVENT_BYTES_MAX // 65_536 + 1)))
    assert isinstance(error, ProviderBugError)


@pytest.mark.parametrize("end", [b"", STREAM_END], ids=["connection lost", "body ended"])
async def test_an_answer_cut_in_the_middle_keeps_its_tokens_and_says_so(end: bytes) -> None:
    async with provider_of(FaultyServer([send(STREAM_HEAD, token("a"), token("b"), end)])) as provider:
        stream = provider.stream(ask())
        assert text_of(await take(stream, 2)) == "ab"
        with pytest.raises(StreamInterruptedError):
            await anext(stream)


async def test_a_server_that_hangs_up_at_once_is_an_interrupted_stream() -> None:
    assert isinstance(await failure_of(send(b"")), StreamInterruptedError)


async def test_nobody_at_the_address_is_told_as_such() -> None:
    server = FaultyServer([])
    async with server.running():
        address = server.address
    provider = OpenAIProvider(base_url=address)
    with pytest.raises(ProviderOverloadedError, match="can not be reached"):
        await collect(provider.stream(ask()))
    await provider.aclose()


@pytest.mark.parametrize("said", [b"", STREAM_HEAD], ids=["no answer", "headers, then silence"])
async def test_silence_before_the_first_token_ends_in_time_and_closes_the_socket(said: bytes) -> None:
    server = FaultyServer([])
    server._replies.append(then(send(said), server.silence))
    async with provider_of(server) as provider:
        with pytest.raises(ProviderTimeoutError) as caught:
            await collect(provider.stream(ask(), timeouts=Timeouts(first_token=0.05)))
        async with asyncio.timeout(5):
            await server.reader_gone.wait()
    assert caught.value.seconds == 0.05


async def test_silence_between_tokens_has_its_own_limit_that_pings_do_not_extend() -> None:
    ping = b"3\r\n:\n\n\r\n"
    server = FaultyServer([])
    server._replies.append(then(send(STREAM_HEAD, token("a"), ping, ping), server.silence))
    async with provider_of(server) as provider:
        stream = provider.stream(ask(), timeouts=Timeouts(first_token=30, between_tokens=0.05))
        assert await anext(stream) == TextDelta(text="a")
        with pytest.raises(ProviderTimeoutError) as caught:
            await anext(stream)
    assert caught.value.seconds == 0.05


async def test_closing_a_stream_closes_its_socket() -> None:
    server = FaultyServer([])
    server._replies.append(then(send(STREAM_HEAD, token("a")), server.silence))
    async with provider_of(server) as provider:
        async with aclosing(provider.stream(ask())) as stream:
            await anext(stream)
        async with asyncio.timeout(5):
            await server.reader_gone.wait()


async def test_cancelling_the_task_that_waits_closes_the_socket() -> None:
    server = FaultyServer([])
    reached = asyncio.Event()

    async def reached_then_silence(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        reached.set()
        await server.silence(reader, writer)

    server._replies.append(reached_then_silence)
    async with provider_of(server) as provider, asyncio.timeout(5):
        task = asyncio.create_task(collect(provider.stream(ask())))
        await reached.wait()
        task.cancel()
        await server.reader_gone.wait()
        with pytest.raises(asyncio.CancelledError):
            await task


async def test_what_the_server_can_not_do_is_refused_before_it_is_asked() -> None:
    async with provider_of(FaultyServer([])) as provider:
        with pytest.raises(ProviderInvalidRequestError, match="continues"):
            await collect(provider.stream(ask(continue_text="Once")))


async def test_models_are_those_that_the_server_lists() -> None:
    async with provider_of(FaultyServer([answer(200, {"data": [{"id": "a"}, {"id": "b"}]})])) as provider:
        assert [model.name for model in await provider.models()] == ["a", "b"]


async def test_a_list_of_models_that_is_none_is_the_providers_bug() -> None:
    async with provider_of(FaultyServer([answer(200, ["a"])])) as provider:
        with pytest.raises(ProviderBugError):
            await provider.models()
