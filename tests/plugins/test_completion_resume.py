"""After a crash, a cancel or a broken provider: going on with an answer loses nothing and doubles nothing."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ksi.core.errors import (
    CancelledError,
    ConflictError,
    InterruptedRunError,
    KSIConnectionError,
    KSIError,
    NotFoundError,
    StreamInterruptedError,
    UnsupportedError,
)
from ksi.plugins.branch import Branch
from ksi.plugins.correlation import Correlation
from ksi.providers.base import Capabilities
from ksi.testing.harness import EventTestHarness
from tests.plugins.scripted import STORY, Gate, chunks_of, harness, rest, script, take, until_queued

pytestmark = pytest.mark.leakcheck
RUN = "01a00000-0000-7000-8000-000000000001"


async def crashed_after(ksi: EventTestHarness, gate: Gate, event_id: str) -> None:
    """A completion that the daemon died in, when the gate stopped it."""
    stream = ksi.stream("completion:create", {"prompt": "Go."}, event_id=event_id)
    await gate.reached.wait()
    await ksi.crash()
    with pytest.raises(KSIConnectionError):
        await rest(stream)
    gate.open()


async def test_a_crash_leaves_a_completion_interrupted_with_its_tokens() -> None:
    gate = Gate(passing=4)
    async with harness(script(lambda _: STORY, gate=gate)) as ksi:
        await crashed_after(ksi, gate, RUN)
        status = await ksi.request("completion:status", {"run": RUN})
        with pytest.raises(InterruptedRunError):
            await ksi.request("completion:create", {"prompt": "Go."}, event_id=RUN)
    assert ksi.recovered.closed == 1
    assert status["completions"][0]["status"] == "interrupted"
    assert status["completions"][0]["text"] == "Once upon a time"
    assert status["completions"][0]["usage"] == {"input_tokens": 1, "output_tokens": 4, "estimated": True}


async def test_a_resume_goes_on_behind_the_last_token() -> None:
    gate = Gate(passing=4)
    provider = script(lambda _: STORY, gate=gate)
    async with harness(provider) as ksi:
        await crashed_after(ksi, gate, RUN)
        stream = ksi.stream("completion:resume", {"run": "last"})
        added = await rest(stream)
        logged = await chunks_of(ksi, RUN) + await chunks_of(ksi, stream.answer["completion"])
    assert added == STORY.removeprefix("Once upon a time")
    assert stream.answer["text"] == STORY == "".join(logged)
    assert (stream.answer["resumed_from"], stream.answer["finish_reason"]) == (RUN, "stop")
    first, second = provider.requests
    assert second.messages == first.messages
    assert (second.continue_text, second.max_tokens) == ("Once upon a time", 256 - 4)


@settings(max_examples=12, deadline=None)
@given(cuts=st.lists(st.integers(0, 3), min_size=1, max_size=4))
async def test_however_often_it_is_cut_off_nothing_is_lost_and_nothing_is_doubled(cuts: list[int]) -> None:
    gate = Gate(passing=cuts[0])
    async with harness(script(lambda _: STORY, gate=gate)) as ksi:
        stream = ksi.stream("completion:create", {"prompt": "Go."}, event_id=RUN)
        for cut in [*cuts[1:], len(STORY.split())]:
            await gate.reached.wait()
            await ksi.crash()
            gate.shut(passing=cut)
            stream = ksi.stream("completion:resume", {"run": RUN})
        await rest(stream)
        chain = [fact.data["completion"] for fact in await ksi.facts("completion:started")]
        logged = [text for completion in chain for text in await chunks_of(ksi, completion)]
    assert len(chain) == len(cuts) + 1
    assert "".join(logged) == STORY == stream.answer["text"]


async def test_a_cancelled_answer_can_be_gone_on_with() -> None:
    gate = Gate(passing=3)
    async with harness(script(lambda _: STORY, gate=gate)) as ksi:
        stream = ksi.stream("completion:create", {"prompt": "Go."})
        seen = await take(stream, 3)
        await ksi.request("completion:cancel", {"run": "last"})
        with pytest.raises(CancelledError):
            await rest(stream)
        gate.open()
        end = await ksi.request("completion:resume", {"run": "last"})
    assert end["text"] == STORY
    assert STORY.startswith(seen)


async def test_an_answer_that_its_provider_broke_off_can_be_gone_on_with() -> None:
    answers: list[list[str | KSIError]] = [
        ["Once", " upon", StreamInterruptedError("gone", provider="script")],
        [" a", " time."],
    ]
    async with harness(script(answers)) as ksi:
        with pytest.raises(StreamInterruptedError):
            await ksi.request("completion:create", {"prompt": "Go."}, event_id=RUN)
        end = await ksi.request("completion:resume", {"run": RUN})
    assert end["text"] == "Once upon a time."


async def test_an_answer_is_gone_on_with_once_and_by_one_at_a_time() -> None:
    gate = Gate(passing=4)
    async with harness(script(lambda _: STORY, gate=gate)) as ksi:
        await crashed_after(ksi, gate, RUN)
        gate.shut(passing=1)
        first = ksi.stream("completion:resume", {"run": RUN})
        await gate.reached.wait()
        with pytest.raises(ConflictError):
            await ksi.request("completion:resume", {"run": RUN})
        gate.open()
        await rest(first)
        for run in (RUN, first.answer["completion"], "last"):
            with pytest.raises(ConflictError):
                await ksi.request("completion:resume", {"run": run})


async def test_a_resume_may_be_given_a_bound_of_its_own() -> None:
    gate = Gate(passing=4)
    async with harness(script(lambda _: STORY, gate=gate)) as ksi:
        await crashed_after(ksi, gate, RUN)
        end = await ksi.request("completion:resume", {"run": RUN, "max_tokens": 2})
    assert (end["text"], end["finish_reason"]) == ("Once upon a time there was", "length")


async def test_one_that_a_crash_found_in_the_queue_is_asked_from_the_start() -> None:
    gate = Gate()
    provider = script(gate=gate)
    async with harness(provider, concurrent=1) as ksi:
        ksi.stream("completion:create", {"prompt": "first"})
        await gate.reached.wait()
        ksi.stream("completion:create", {"prompt": "second"}, event_id=RUN)
        assert await until_queued(ksi, 1) == [RUN]
        await ksi.crash()
        gate.open()
        end = await ksi.request("completion:resume", {"run": RUN})
        with pytest.raises(ConflictError):
            await ksi.request("completion:resume", {"run": RUN})
    assert end["text"] == "You said: second"


async def test_a_provider_that_can_not_go_on_says_what_to_do() -> None:
    gate = Gate(passing=4)
    provider = script(lambda _: STORY, gate=gate)
    provider.capabilities = Capabilities()
    async with harness(provider) as ksi:
        await crashed_after(ksi, gate, RUN)
        with pytest.raises(UnsupportedError, match="completion:create"):
            await ksi.request("completion:resume", {"run": RUN})


async def test_what_never_was_is_not_resumed() -> None:
    async with harness(script()) as ksi:
        with pytest.raises(NotFoundError):
            await ksi.request("completion:resume", {"run": "last"})
        with pytest.raises(NotFoundError):
            await ksi.request("completion:resume", {"run": RUN})


async def test_one_that_was_open_where_a_branch_was_cut_is_interrupted_there_and_gone_on_with() -> None:
    gate = Gate(passing=4)
    async with harness(script(lambda _: STORY, gate=gate), more=[Branch, Correlation]) as ksi:
        stream = ksi.stream("completion:create", {"prompt": "Go."}, event_id=RUN)
        await gate.reached.wait()
        await ksi.request("store:fork", {"name": "aside"})
        under_way = [await status_on(ksi, branch) for branch in ("main", "aside")]
        gate.open()  # whatever it says: else the end of the test would wait for it
        assert under_way == ["running", "interrupted"]
        assert await rest(stream) == STORY
        assert [await status_on(ksi, branch) for branch in ("main", "aside")] == ["done", "interrupted"]
        (run,) = (await ksi.request("correlation:runs", {"status": "interrupted"}, branch="aside"))["runs"]
        assert (run["run"], run["tokens"]) == (RUN, 4)
        (root,) = (await ksi.request("correlation:tree", branch="aside"))["tree"]
        effect = next(child for child in root["children"] if child["kind"] == "effect")
        assert [root["status"], effect["status"]] == ["interrupted", "interrupted"]
        assert (await ksi.request("correlation:runs"))["runs"][0]["status"] == "ok"
        resumed = ksi.stream("completion:resume", {"run": RUN}, branch="aside")
        assert await rest(resumed) == STORY.removeprefix("Once upon a time")


async def status_on(ksi: EventTestHarness, branch: str) -> str:
    return str((await ksi.request("completion:status", {"run": RUN}, branch=branch))["completions"][0]["status"])
