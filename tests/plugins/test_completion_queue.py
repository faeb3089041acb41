"""The desk: places, priorities, bounds; and what outlives a generation of the plugin."""

from __future__ import annotations

import asyncio

import pytest

from ksi.core.errors import DeadlineExceededError, OverloadedError
from ksi.plugins.completion import Completion
from ksi.providers.desk import Desk
from tests.plugins.scripted import Gate, asked_text, harness, rest, script, until_queued

pytestmark = pytest.mark.leakcheck


async def test_no_more_run_at_a_provider_than_it_has_places() -> None:
    running: list[int] = []

    async def count(index: int) -> None:
        running.append(provider.streams_open)
        await asyncio.sleep(0)

    provider = script(gate=count)
    async with harness(provider, concurrent=3) as ksi:
        prompts = [f"{number}" for number in range(10)]
        ends = await asyncio.gather(*(ksi.request("completion:create", {"prompt": prompt}) for prompt in prompts))
    assert max(running) == 3
    assert [end["text"] for end in ends] == [f"You said: {prompt}" for prompt in prompts]


async def test_higher_priority_goes_first_among_those_who_wait() -> None:
    gate = Gate()
    provider = script(gate=gate)
    async with harness(provider, concurrent=1) as ksi:
        requests = []
        for number, priority in enumerate((0, 0, -5, 5, 9)):
            asked = {"prompt": str(priority), "priority": priority}
            requests.append(asyncio.ensure_future(ksi.request("completion:create", asked)))
            await (gate.reached.wait() if number == 0 else until_queued(ksi, number))
        gate.open()
        await asyncio.gather(*requests)
    assert [asked_text(request) for request in provider.requests] == ["0", "9", "5", "0", "-5"]


async def test_who_finds_the_queue_full_is_told_so_at_once() -> None:
    gate = Gate()
    async with harness(script(gate=gate), concurrent=1, queue_size_max=2) as ksi:
        requests = [asyncio.ensure_future(ksi.request("completion:create", {"prompt": f"{n}"})) for n in range(3)]
        await until_queued(ksi, 2)
        with pytest.raises(OverloadedError) as caught:
            await ksi.request("completion:create", {"prompt": "one too many"})
        gate.open()
        await asyncio.gather(*requests)
    assert caught.value.limit == 2


@pytest.mark.virtual
async def test_a_deadline_that_passes_in_the_queue_gives_the_place_to_the_next() -> None:
    gate = Gate()
    provider = script(gate=gate)
    async with harness(provider, concurrent=1) as ksi:
        first = ksi.stream("completion:create", {"prompt": "first"})
        await gate.reached.wait()
        late = asyncio.ensure_future(ksi.request("completion:create", {"prompt": "late"}, timeout=3))
        await until_queued(ksi, 1)
        third = ksi.stream("completion:create", {"prompt": "third"})
        with pytest.raises(DeadlineExceededError):
            await late
        gate.open()
        assert await rest(first) == "You said: first"
        assert await rest(third) == "You said: third"
    assert len(provider.requests) == 2


async def test_a_reload_takes_the_desk_over_and_its_queue_goes_on() -> None:
    gate = Gate()
    provider = script(gate=gate)
    async with harness(provider, concurrent=1) as ksi:
        first = ksi.stream("completion:create", {"prompt": "first"})
        await gate.reached.wait()
        desk = ksi.kernel.services.get(Desk)
        await ksi.kernel.plugins.reload(Completion.name)
        second = ksi.stream("completion:create", {"prompt": "second"})
        await until_queued(ksi, 1)
        assert ksi.kernel.services.get(Desk) is desk
        gate.open()
        assert await rest(first) == "You said: first"
        assert await rest(second) == "You said: second"
