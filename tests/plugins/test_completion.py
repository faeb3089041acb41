"""completion:create and completion:cancel, on declared answers."""

from __future__ import annotations

import pytest

from ksi.core.errors import (
    AmbiguousError,
    CancelledError,
    ConflictError,
    NotFoundError,
    ProviderTimeoutError,
    StreamInterruptedError,
    ValidationError,
)
from ksi.providers.timeouts import Timeouts
from tests.plugins.scripted import STORY, Gate, chunks_of, harness, rest, script, take, until_queued

pytestmark = pytest.mark.leakcheck


async def test_an_answer_comes_in_chunks_that_are_in_the_log_under_their_addresses() -> None:
    async with harness(script([STORY])) as ksi:
        stream = ksi.stream("completion:create", {"prompt": "Tell me a story."})
        assert await rest(stream) == STORY
        completion = stream.answer["completion"]
        assert "".join(await chunks_of(ksi, completion)) == STORY
        recorded = [
            event.address async for event in ksi.log.read_stream(f"completion/{completion}") if event.kind == "chunk"
        ]
        assert stream.addresses == recorded


async def test_the_end_says_what_it_was_and_what_it_cost() -> None:
    async with harness(script(["Yes, it is."])) as ksi:
        end = await ksi.request("completion:create", {"prompt": "Is it?"})
    assert (end["text"], end["finish_reason"], end["provider"], end["model"]) == ("Yes, it is.", "stop") + (
        "script",
    ) * 2
    assert end["usage"] == {"input_tokens": 2, "output_tokens": 3, "estimated": False}
    assert end["run"] == end["completion"]
    assert end["resumed_from"] is None
    assert end["duration_ms"] >= end["first_token_ms"] >= 0


async def test_requested_and_not_streamed_it_answers_the_whole_text() -> None:
    async with harness(script()) as ksi:
        texts = {(await ksi.request("completion:create", {"prompt": prompt}))["text"] for prompt in ("one", "two")}
    assert texts == {"You said: one", "You said: two"}


async def test_what_the_provider_is_sent_is_on_disk_before_it_is_called_and_its_usage_after_it() -> None:
    gate = Gate()
    async with harness(script([STORY], gate=gate)) as ksi:
        stream = ksi.stream("completion:create", {"prompt": "Go.", "system": "Be brief.", "seed": 7})
        await gate.reached.wait()
        begun = [event async for event in ksi.log.read_stream("$effects") if event.name != "effect:observed"]
        gate.open()
        await rest(stream)
        *_, ended = [event async for event in ksi.log.read_stream("$effects") if event.name != "effect:observed"]
    assert [event.name for event in begun] == ["effect:requested"]
    request = begun[0].data["request"]["request"]
    assert [message["role"] for message in request["messages"]] == ["system", "user"]
    assert (request["seed"], request["model"], begun[0].data["request"]["provider"]) == (7, "script", "script")
    assert ended.name == "effect:completed"
    assert ended.data["value"]["usage"]["output_tokens"] == len(STORY.split())
    assert STORY[:9] not in ended.raw.decode()


@pytest.mark.parametrize(
    "data",
    [
        {},
        {"prompt": "a", "messages": [{"text": "b"}]},
        {"messages": [{"role": "user"}]},
        {"prompt": "a", "max_tokens": 0},
        {"prompt": "a", "conversation": "a/b"},
    ],
)
async def test_what_is_no_question_is_refused_and_not_recorded(data: dict[str, object]) -> None:
    async with harness(script()) as ksi:
        with pytest.raises(ValidationError):
            await ksi.request("completion:create", data)
        assert await ksi.log.head() is None


@pytest.mark.parametrize(
    ("wrong", "what", "suggested"),
    [({"provider": "scripd"}, "provider", "script"), ({"model": "scribt"}, "model", "script")],
)
async def test_who_is_not_there_is_not_found_and_the_like_are_named(
    wrong: dict[str, str], what: str, suggested: str
) -> None:
    async with harness(script()) as ksi:
        with pytest.raises(NotFoundError) as caught:
            await ksi.request("completion:create", {"prompt": "a", **wrong})
    assert caught.value.what == what
    assert caught.value.suggestions == [suggested]


async def test_a_cancel_stops_the_provider_and_leaves_the_partial_text_and_its_usage() -> None:
    gate = Gate(passing=5)
    provider = script([STORY], gate=gate)
    async with harness(provider) as ksi:
        stream = ksi.stream("completion:create", {"prompt": "Go."})
        seen = await take(stream, 5)
        await gate.reached.wait()
        stopped = await ksi.request("completion:cancel", {"run": "last"})
        with pytest.raises(CancelledError) as caught:
            await rest(stream)
        facts = await ksi.facts("completion:*")
        status = await ksi.request("completion:status", {"run": stopped["run"]})
    assert seen == "Once upon a time there"
    assert provider.streams_open == 0
    assert caught.value.partial["text"] == stopped["text"] == seen
    assert caught.value.partial["finish_reason"] == "cancelled"
    assert stopped["usage"] == {"input_tokens": 1, "output_tokens": 5, "estimated": True}
    assert facts[-1].name == "completion:interrupted"
    assert facts[-1].data["usage"] == stopped["usage"]
    assert status["completions"][0] | {"duration_ms": 0} == {
        "completion": stopped["completion"],
        "run": stopped["run"],
        "status": "cancelled",
        "provider": "script",
        "model": "script",
        "conversation": None,
        "resumes": None,
        "finish_reason": "cancelled",
        "usage": stopped["usage"],
        "cost": 0.0,
        "duration_ms": 0,
        "text": seen,
    }


async def test_a_cancel_reaches_one_that_waits_in_the_queue() -> None:
    gate = Gate()
    provider = script(gate=gate)
    async with harness(provider, concurrent=1) as ksi:
        first = ksi.stream("completion:create", {"prompt": "first"})
        await gate.reached.wait()
        second = ksi.stream("completion:create", {"prompt": "second"})
        third = ksi.stream("completion:create", {"prompt": "third"})
        waiting = await until_queued(ksi, 2)
        stopped = await ksi.request("completion:cancel", {"run": waiting[0]})
        with pytest.raises(CancelledError):
            await rest(second)
        gate.open()
        assert await rest(first) == "You said: first"
        assert await rest(third) == "You said: third"
    assert (stopped["status"], stopped["text"]) == ("cancelled", "")
    assert len(provider.requests) == 2


async def test_a_reader_that_is_gone_stops_the_provider() -> None:
    gate = Gate(passing=2)
    provider = script([STORY], gate=gate)
    async with harness(provider) as ksi:
        stream = ksi.stream("completion:create", {"prompt": "Go."})
        await gate.reached.wait()
        stream.disconnect()
        stopped = await ksi.request("completion:cancel", {"run": "last"})
    assert stopped["text"] == "Once upon"
    assert provider.streams_open == 0


async def test_a_cancel_names_a_completion_by_the_beginning_of_its_id_and_must_mean_one() -> None:
    gate = Gate()
    async with harness(script(gate=gate)) as ksi:
        one = ksi.stream("completion:create", {"prompt": "a"}, event_id="01a00000-0000-7000-8000-000000000001")
        two = ksi.stream("completion:create", {"prompt": "b"}, event_id="01a00000-0000-7000-9000-000000000002")
        await gate.reached.wait()
        with pytest.raises(AmbiguousError):
            await ksi.request("completion:cancel", {"run": "01a0"})
        await ksi.request("completion:cancel", {"run": "01a00000-0000-7000-8"})
        gate.open()
        with pytest.raises(CancelledError):
            await rest(one)
        assert await rest(two) == "You said: b"


async def test_what_has_ended_or_never_was_is_not_cancelled() -> None:
    async with harness(script()) as ksi:
        with pytest.raises(NotFoundError):
            await ksi.request("completion:cancel", {"run": "last"})
        end = await ksi.request("completion:create", {"prompt": "a"})
        with pytest.raises(ConflictError) as caught:
            await ksi.request("completion:cancel", {"run": end["run"]})
    assert caught.value.completion == end["completion"]  # type: ignore[attr-defined]  # a fact of this error


async def test_a_provider_that_breaks_off_is_an_error_and_its_tokens_and_usage_stand() -> None:
    provider = script([["Once", " upon", StreamInterruptedError("gone", provider="script")]])
    async with harness(provider) as ksi:
        stream = ksi.stream("completion:create", {"prompt": "Go."})
        with pytest.raises(StreamInterruptedError):
            await rest(stream)
        fact = (await ksi.facts("completion:interrupted"))[0]
        status = await ksi.request("completion:status", {"run": fact.data["completion"]})
    assert fact.data["reason"] == "stream_interrupted"
    assert fact.data["usage"]["output_tokens"] == 2
    assert status["completions"][0]["status"] == "failed"
    assert status["completions"][0]["text"] == "Once upon"


@pytest.mark.virtual
async def test_a_provider_that_falls_silent_is_given_up() -> None:
    provider = script([STORY], gate=Gate(passing=2))
    async with harness(provider, timeouts=Timeouts(first_token=60, between_tokens=7)) as ksi:
        stream = ksi.stream("completion:create", {"prompt": "Go."})
        with pytest.raises(ProviderTimeoutError) as caught:
            await rest(stream)
    assert caught.value.seconds == 7
    assert provider.streams_open == 0


async def test_models_say_what_they_can_do_and_who_answers_by_default() -> None:
    async with harness(script()) as ksi:
        found = await ksi.request("completion:models")
    assert found["default"] == "script"
    assert [(model["id"], model["provider"]) for model in found["models"]] == [("script", "script")]
    assert found["models"][0]["capabilities"]["continues"]


async def test_completions_are_listed_a_page_at_a_time_and_found_by_a_beginning() -> None:
    async with harness(script()) as ksi:
        made = [
            (
                await ksi.request(
                    "completion:create", {"prompt": "a"}, event_id=f"0{n}a00000-0000-7000-8000-000000000001"
                )
            )
            for n in range(1, 6)
        ]
        shown, after = [], None
        for _ in range(3):
            page = await ksi.request("completion:status", {"limit": 2, "after": after})
            shown += [completion["completion"] for completion in reversed(page["completions"])]
            after = page["next"]
        assert (shown, after) == ([end["completion"] for end in reversed(made)], None)
        (one,) = (await ksi.request("completion:status", {"run": "03a0"}))["completions"]
        assert one["completion"] == made[2]["completion"]
        with pytest.raises(AmbiguousError):
            await ksi.request("completion:status", {"run": "0"})
