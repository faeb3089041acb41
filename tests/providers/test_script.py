"""Declared answers, held at any token."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ksi.core.errors import NotFoundError, ProviderOverloadedError, ProviderTimeoutError
from ksi.providers.base import CompletionRequest, Finished, Provider, TextDelta, TextPart, ToolCallDelta
from ksi.providers.script import Hold, ScriptProvider, _words
from ksi.providers.timeouts import Timeouts
from tests.providers.faulty_server import ask, collect, take, text_of


@given(st.text())
def test_words_together_are_the_text(text: str) -> None:
    assert "".join(_words(text)) == text


async def test_each_request_gets_the_next_answer_labelled_as_a_script() -> None:
    provider: Provider = ScriptProvider(["one two three", ["a", "b"]], models=["m"])
    first = await collect(provider.stream(ask()))
    assert [chunk.text for chunk in first if isinstance(chunk, TextDelta)] == ["one", " two", " three"]
    last = first[-1]
    assert isinstance(last, Finished)
    assert (last.provider, last.reason, last.usage.output_tokens) == ("script", "stop", 3)
    assert text_of(await collect(provider.stream(ask()))) == "ab"
    with pytest.raises(NotFoundError):
        await collect(provider.stream(ask()))


async def test_an_answer_can_be_a_function_of_the_request() -> None:
    def echo(request: CompletionRequest) -> str:
        part = request.messages[-1].parts[0]
        assert isinstance(part, TextPart)
        return part.text.upper()

    assert text_of(await collect(ScriptProvider(echo, models=["m"]).stream(ask("hi")))) == "HI"


async def test_a_stream_waits_at_the_token_where_it_is_held() -> None:
    hold = Hold(at=2)
    stream = ScriptProvider(["a b c d"], before_token=hold, models=["m"]).stream(ask())
    assert text_of(await take(stream, 2)) == "a b"
    third = asyncio.create_task(take(stream, 1))
    await hold.reached.wait()
    assert not third.done()
    hold.release()
    assert text_of(await third) == " c"
    assert text_of(await collect(stream)) == " d"


async def test_a_cancel_reaches_the_provider() -> None:
    hold = Hold(at=1)
    provider = ScriptProvider(["a b"], before_token=hold, models=["m"])
    reading = asyncio.create_task(collect(provider.stream(ask())))
    await hold.reached.wait()
    assert provider.streams_open == 1
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading
    assert provider.streams_open == 0


async def test_it_fails_on_command_behind_its_tokens() -> None:
    provider = ScriptProvider([["a", ProviderOverloadedError("full", provider="script")]], models=["m"])
    stream = provider.stream(ask())
    assert text_of(await take(stream, 1)) == "a"
    with pytest.raises(ProviderOverloadedError):
        await anext(stream)


async def test_it_goes_on_behind_the_answer_so_far() -> None:
    provider = ScriptProvider(lambda request: "once upon a time", models=["m"])
    assert text_of(await collect(provider.stream(ask(continue_text="once upon")))) == " a time"


async def test_max_tokens_and_tool_calls_show_in_the_reason() -> None:
    provider = ScriptProvider(["a b c", [ToolCallDelta(index=0, id="1", name="look")]], models=["m"])
    cut = await collect(provider.stream(ask(max_tokens=2)))
    called = await collect(provider.stream(ask()))
    assert [chunks[-1].reason for chunks in (cut, called) if isinstance(chunks[-1], Finished)] == [
        "length",
        "tool_calls",
    ]


async def test_a_held_token_runs_into_the_limit_between_tokens() -> None:
    provider = ScriptProvider(["a b"], before_token=Hold(at=1), models=["m"])
    with pytest.raises(ProviderTimeoutError):
        await collect(provider.stream(ask(), timeouts=Timeouts(between_tokens=0.02)))
    assert provider.streams_open == 0


async def test_a_model_that_it_does_not_play_is_not_found() -> None:
    with pytest.raises(NotFoundError):
        await collect(ScriptProvider(["a"]).stream(ask()))
