"""Recorded answers: the same again, and never a call."""

from __future__ import annotations

from pathlib import Path

import pytest

from ksi.core.errors import NotFoundError
from ksi.providers.base import Finished, Provider
from ksi.providers.replay import RecordingProvider, ReplayProvider, read_recordings, request_hash, write_recordings
from ksi.providers.script import ScriptProvider
from tests.providers.faulty_server import ask, collect, take, text_of


async def recorded(*questions: str) -> RecordingProvider:
    provider = RecordingProvider(ScriptProvider([f"answer {n}" for n in range(9)], models=["m"]))
    for question in questions:
        await collect(provider.stream(ask(question)))
    return provider


async def test_equal_requests_get_their_answers_in_order_whatever_stands_between(tmp_path: Path) -> None:
    write_recordings(tmp_path / "r.jsonl", (await recorded("a", "b", "a")).recordings)
    provider: Provider = ReplayProvider(read_recordings(tmp_path / "r.jsonl"))
    texts = [text_of(await collect(provider.stream(ask(question)))) for question in ("a", "a", "b")]
    assert texts == ["answer 0", "answer 2", "answer 1"]


async def test_an_answer_says_that_it_is_a_replay() -> None:
    last = (await collect(ReplayProvider((await recorded("a")).recordings).stream(ask("a"))))[-1]
    assert isinstance(last, Finished)
    assert (last.provider, last.model) == ("replay", "m")


async def test_a_request_that_was_not_recorded_is_a_miss() -> None:
    provider = ReplayProvider((await recorded("a")).recordings)
    await collect(provider.stream(ask("a")))
    for question in ("a", "b"):
        with pytest.raises(NotFoundError) as caught:
            await collect(provider.stream(ask(question)))
        assert caught.value.what == "recorded completion"


async def test_an_answer_that_was_not_read_to_its_end_is_not_kept() -> None:
    provider = await recorded()
    stream = provider.stream(ask())
    await take(stream, 1)
    await stream.aclose()
    assert provider.recordings == []


def test_the_hash_sees_every_field_and_no_accident_of_writing() -> None:
    assert request_hash(ask(temperature=0)) == request_hash(ask(temperature=0.0))
    assert request_hash(ask(response_schema={"a": 1, "b": 2})) == request_hash(ask(response_schema={"b": 2, "a": 1}))
    assert request_hash(ask(seed=1)) != request_hash(ask(seed=2))
