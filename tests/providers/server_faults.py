"""How each provider that asks a server over HTTP bears what the server does to it: written once, inherited by each."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator
from contextlib import aclosing, asynccontextmanager

import pytest

from ksi.core.errors import (
    KSIError,
    ProviderBugError,
    ProviderOverloadedError,
    ProviderTimeoutError,
    RateLimitedError,
    StreamInterruptedError,
)
from ksi.providers.base import Finished, Provider, TextDelta
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
)

PING = b"3\r\n:\n\n\r\n"


@asynccontextmanager
async def closing(provider: Provider) -> AsyncGenerator[Provider, None]:
    try:
        yield provider
    finally:
        await provider.aclose()


class ServerFaults(ABC):
    """What a server does to a provider, in the words of ``make``'s protocol."""

    @abstractmethod
    def make(self, server: FaultyServer) -> Provider:
        """The provider, with the key ``the key``."""

    @abstractmethod
    def token(self, text: str) -> bytes:
        """An event with a piece of text."""

    @abstractmethod
    def whole(self, *texts: str) -> list[bytes]:
        """All events of an answer without usage."""

    @abstractmethod
    def thought(self) -> bytes:
        """An event of a model that thinks before it speaks."""

    @abstractmethod
    def overload(self) -> bytes:
        """The event of a server that has lost a worker."""

    async def failure_of(self, reply: Reply) -> KSIError:
        server = FaultyServer([reply])
        async with server.running(), closing(self.make(server)) as provider:
            with pytest.raises(KSIError) as caught:
                await collect(provider.stream(ask()))
        assert len(server.heads) == 1  # nobody retries here
        return caught.value

    async def test_usage_that_the_server_keeps_to_itself_is_estimated(self) -> None:
        server = FaultyServer([send(STREAM_HEAD, *self.whole("a", "b"), STREAM_END)])
        async with server.running(), closing(self.make(server)) as provider:
            *said, last = await collect(provider.stream(ask("12345678")))
        assert isinstance(last, Finished)
        assert text_of(said) == "ab"
        assert (last.usage.input_tokens, last.usage.output_tokens, last.usage.estimated) == (2, 2, True)

    @pytest.mark.parametrize(("status", "kind"), [(429, RateLimitedError), (529, ProviderOverloadedError)])
    @pytest.mark.parametrize(("header", "seconds"), [("1.5", 1.5), ("-3", 0.0), ("soon", None), ("nan", None)])
    async def test_who_has_no_room_says_when_to_come_back(
        self, status: int, kind: type[RateLimitedError], header: str, seconds: float | None
    ) -> None:
        error = await self.failure_of(answer(status, {"error": {"message": "slow down"}}, retry_after=header))
        assert isinstance(error, kind)
        assert error.retry_after == seconds

    async def test_an_error_in_the_middle_of_the_stream_is_raised_behind_its_tokens(self) -> None:
        server = FaultyServer([send(STREAM_HEAD, self.token("a") + self.overload())])
        async with server.running(), closing(self.make(server)) as provider:
            stream = provider.stream(ask())
            assert await anext(stream) == TextDelta(text="a")
            with pytest.raises(ProviderOverloadedError, match="lost a worker"):
                await anext(stream)

    @pytest.mark.parametrize("data", [b"{half", b"[1]", b'{"choices": 7, "type": 7}', b"[" * 100_000])
    async def test_an_event_that_is_none_is_the_providers_bug(self, data: bytes) -> None:
        assert isinstance(await self.failure_of(send(STREAM_HEAD, event(data), STREAM_END)), ProviderBugError)

    async def test_an_event_without_end_is_the_providers_bug_and_no_flood(self) -> None:
        endless = b"10000\r\n" + b"x" * 65_536 + b"\r\n"
        error = await self.failure_of(send(STREAM_HEAD, *[endless] * (EVENT_BYTES_MAX // 65_536 + 1)))
        assert isinstance(error, ProviderBugError)

    @pytest.mark.parametrize("end", [b"", STREAM_END], ids=["connection lost", "body ended"])
    async def test_an_answer_cut_in_the_middle_keeps_its_tokens_and_says_so(self, end: bytes) -> None:
        server = FaultyServer([send(STREAM_HEAD, self.token("a"), self.token("b"), end)])
        async with server.running(), closing(self.make(server)) as provider:
            stream = provider.stream(ask())
            assert text_of(await take(stream, 2)) == "ab"
            with pytest.raises(StreamInterruptedError):
                await anext(stream)

    async def test_a_server_that_hangs_up_at_once_is_an_interrupted_stream(self) -> None:
        assert isinstance(await self.failure_of(send(b"")), StreamInterruptedError)

    async def test_nobody_at_the_address_is_told_as_such(self) -> None:
        server = FaultyServer([])
        async with server.running():
            provider = self.make(server)
        with pytest.raises(ProviderOverloadedError, match="can not be reached"):
            await collect(provider.stream(ask()))
        await provider.aclose()

    @pytest.mark.parametrize("said", [b"", STREAM_HEAD], ids=["no answer", "headers, then silence"])
    async def test_silence_before_the_first_token_ends_in_time_and_closes_the_socket(self, said: bytes) -> None:
        server = FaultyServer([])
        server.replies.append(then(send(said), server.silence))
        async with server.running(), closing(self.make(server)) as provider:
            with pytest.raises(ProviderTimeoutError) as caught:
                await collect(provider.stream(ask(), timeouts=Timeouts(first_token=0.05)))
            async with asyncio.timeout(5):
                await server.reader_gone.wait()
        assert caught.value.seconds == 0.05

    async def test_silence_between_tokens_has_its_own_limit_that_pings_do_not_extend(self) -> None:
        server = FaultyServer([])
        server.replies.append(then(send(STREAM_HEAD, self.token("a"), PING, PING), server.silence))
        async with server.running(), closing(self.make(server)) as provider:
            stream = provider.stream(ask(), timeouts=Timeouts(first_token=30, between_tokens=0.05))
            assert await anext(stream) == TextDelta(text="a")
            with pytest.raises(ProviderTimeoutError) as caught:
                await anext(stream)
        assert caught.value.seconds == 0.05

    async def test_thoughts_are_not_said_and_count_among_what_was_written(self) -> None:
        server = FaultyServer([send(STREAM_HEAD, self.thought(), self.thought(), *self.whole("a"), STREAM_END)])
        async with server.running(), closing(self.make(server)) as provider:
            *said, last = await collect(provider.stream(ask()))
        assert isinstance(last, Finished)
        assert (text_of(said), len(said), last.usage.output_tokens) == ("a", 1, 3)

    async def test_closing_a_stream_closes_its_socket(self) -> None:
        server = FaultyServer([])
        server.replies.append(then(send(STREAM_HEAD, self.token("a")), server.silence))
        async with server.running(), closing(self.make(server)) as provider:
            async with aclosing(provider.stream(ask())) as stream:
                await anext(stream)
            async with asyncio.timeout(5):
                await server.reader_gone.wait()

    async def test_cancelling_the_task_that_waits_closes_the_socket(self) -> None:
        server = FaultyServer([])
        reached = asyncio.Event()

        async def reached_then_silence(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            reached.set()
            await server.silence(reader, writer)

        server.replies.append(reached_then_silence)
        async with server.running(), closing(self.make(server)) as provider, asyncio.timeout(5):
            task = asyncio.create_task(collect(provider.stream(ask())))
            await reached.wait()
            task.cancel()
            await server.reader_gone.wait()
            with pytest.raises(asyncio.CancelledError):
                await task

    async def test_models_are_those_that_the_server_lists(self) -> None:
        server = FaultyServer([answer(200, {"data": [{"id": "a"}, {"id": "b"}]}), answer(200, {"data": [1]})])
        async with server.running(), closing(self.make(server)) as provider:
            assert [model.name for model in await provider.models()] == ["a", "b"]
            with pytest.raises(ProviderBugError):
                await provider.models()
