"""completion:async: answered at once, its result pushed to who asked and seen by subscribers."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import pytest

from ksi.core import canonical
from ksi.core.envelope import EventEnvelope
from ksi.core.errors import StreamInterruptedError
from ksi.core.threads import settle
from ksi.kernel.door import Session
from ksi.testing.harness import EventTestHarness
from tests.plugins.scripted import Gate, asked_text, harness, script, until_queued

pytestmark = pytest.mark.leakcheck


class Connection:
    """One that asks, and is pushed to."""

    def __init__(self, ksi: EventTestHarness) -> None:
        self.frames: list[Mapping[str, Any]] = []
        self._ksi = ksi
        self._session = Session(principal="tester", source="test", reply_channel=self)
        self._arrived = asyncio.Event()

    def push(self, frame: Mapping[str, Any]) -> None:
        self.frames.append(frame)
        self._arrived.set()

    async def ask(self, **data: object) -> Any:
        future: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        envelope = EventEnvelope(
            name="completion:async", raw=canonical.encode(data), principal="tester", correlation="run-1"
        )
        self._ksi.kernel.router.dispatch(
            envelope, self._session, lambda token, raw, error: settle(token, raw, error), future
        )
        answer = canonical.decode(await future)
        self.frames.append({"answer": answer})
        return answer

    async def pushed(self, count: int) -> list[Mapping[str, Any]]:
        """The first ``count`` frames that are no answers."""
        async with asyncio.timeout(5):
            while len(frames := [frame for frame in self.frames if "answer" not in frame]) < count:
                self._arrived.clear()
                await self._arrived.wait()
        return frames


async def test_the_answer_comes_first_and_the_result_is_pushed_behind_it() -> None:
    async with harness(script()) as ksi:
        connection = Connection(ksi)
        answer = await connection.ask(prompt="Hello.", client_id="c7", request_id="r1")
        (pushed,) = await connection.pushed(1)
        (fact,) = await ksi.facts("completion:result")
    assert answer == {"request_id": "r1", "session_id": "session-r1", "status": "queued"}
    assert connection.frames[0] == {"answer": answer}
    assert (pushed["event"], pushed["event_name"]) == ("completion:result",) * 2
    assert pushed["correlation_id"] == "run-1"
    assert pushed["data"]["ksi"] | {"timestamp": "", "duration_ms": 0} == {
        "provider": "script",
        "request_id": "r1",
        "client_id": "c7",
        "timestamp": "",
        "duration_ms": 0,
    }
    assert pushed["timestamp"] == pushed["data"]["ksi"]["timestamp"]
    response = pushed["data"]["response"]
    assert (response["result"], response["session_id"]) == ("You said: Hello.", "session-r1")
    assert fact.data == pushed["data"]


async def test_three_requests_of_one_session_stay_one_session_in_their_order() -> None:
    provider = script()
    async with harness(provider) as ksi:
        connection = Connection(ksi)
        for prompt in ("one", "two", "three"):
            await connection.ask(prompt=prompt, session_id="s1")
        pushed = await connection.pushed(3)
    assert {frame["data"]["response"]["session_id"] for frame in pushed} == {"s1"}
    assert [frame["data"]["response"]["result"] for frame in pushed] == [
        "You said: one",
        "You said: two",
        "You said: three",
    ]
    assert len(provider.requests[2].messages) == 5


async def test_words_for_priorities_count() -> None:
    gate = Gate()
    provider = script(gate=gate)
    async with harness(provider, concurrent=1) as ksi:
        connection = Connection(ksi)
        for number, priority in enumerate(("normal", "low", "normal", "high")):
            await connection.ask(prompt=priority, priority=priority)
            await (gate.reached.wait() if number == 0 else until_queued(ksi, number))
        gate.open()
        await connection.pushed(4)
    assert [asked_text(request) for request in provider.requests] == ["normal", "high", "normal", "low"]


async def test_a_failure_is_pushed_as_an_error_with_its_code() -> None:
    async with harness(script([[StreamInterruptedError("gone", provider="script")]])) as ksi:
        connection = Connection(ksi)
        await connection.ask(prompt="Hello.", request_id="r1")
        (pushed,) = await connection.pushed(1)
    assert pushed["event"] == "completion:error"
    assert (pushed["data"]["code"], pushed["data"]["error"]) == ("stream_interrupted", "script: gone")


async def test_a_cancel_is_pushed_with_what_there_was() -> None:
    gate = Gate(passing=2)
    async with harness(script(gate=gate)) as ksi:
        connection = Connection(ksi)
        await connection.ask(prompt="Hello.")
        await gate.reached.wait()
        await ksi.request("completion:cancel", {"run": "run-1"})
        (pushed,) = await connection.pushed(1)
    assert pushed["event"] == "completion:cancelled"
    assert pushed["data"]["response"]["result"] == "You said:"


async def test_a_crash_is_the_end_of_it_that_subscribers_see_and_nobody_is_asked_again() -> None:
    gate = Gate(passing=2)
    provider = script(gate=gate)
    async with harness(provider) as ksi:
        await Connection(ksi).ask(prompt="Hello.")
        await gate.reached.wait()
        await ksi.crash()
        gate.open()
        async with ksi.log.subscribe(after="start") as events, asyncio.timeout(5):
            fact = await anext(event async for event in events if event.name == "completion:error")
        resumed = await ksi.request("completion:resume", {"run": "run-1"})
    assert fact.data["code"] == "interrupted"
    assert resumed["text"] == "You said: Hello."
    assert len(provider.requests) == 2
