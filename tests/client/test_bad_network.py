"""Through a network that cuts, delays and truncates: all of each stream and subscription, in order, without doubles."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from ksi.client.client import EventClient, Options
from ksi.core.errors import KSIConnectionError
from ksi.testing.proxy import Faults, FaultyProxy
from tests.client.ways import WAYS, Way, Ways, free_port, opened

PATIENCE = 120.0
BAD = Faults(cut=0.05, portion_bytes=128, delay_max=0.01)


async def counted(client: EventClient, to: int) -> list[int]:
    stream = client.stream("work:count", to=to, options=Options(buffer_size=4))
    chunks = [chunk.data async for chunk in stream]
    assert stream.end == "counted"
    return chunks


async def talked(client: EventClient, to: int) -> list[int]:
    """One that does not go on without its reader: it waits for it to come back."""
    stream = client.stream("work:talk", to=to, options=Options(buffer_size=4))
    chunks = [int(chunk.data["text"].removeprefix("word ")) + 1 async for chunk in stream]
    assert stream.end == {"used": to}
    return chunks


async def followed(client: EventClient, count: int) -> list[int]:
    seen: list[int] = []
    async with client.subscribe("work:", after="start") as facts:
        async for chunk in facts:
            seen.append(chunk.data["data"]["number"])
            if len(seen) == count:
                break
    return seen


async def worked(client: EventClient, count: int) -> None:
    for number in range(count):
        assert await client.request("work:do", number=number) == number


async def through(ways: Ways, way: Way, *, seed: int, size: int, faults: Faults) -> int:
    """Everything at once over one client; how many connections were cut."""
    async with ways.proxy(way, seed=seed, faults=faults) as proxy:
        client = ways.client(way, proxy, reconnect_timeout=PATIENCE)  # it connects when it is asked: then it is patient
        async with asyncio.TaskGroup() as tasks:
            streams = [tasks.create_task(each(client, size)) for each in (counted, counted, talked)]
            following = tasks.create_task(followed(client, size))
            tasks.create_task(worked(client, size))
        cuts = proxy.cuts
        await client.close()
    assert [stream.result() for stream in streams] == [list(range(1, size + 1))] * 3
    assert following.result() == list(range(size))
    assert [fact.data["number"] for fact in await ways.ksi.facts("work:*")] == list(range(size))
    return cuts


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.virtual
async def test_all_comes_in_order_without_doubles(way: Way, seed: int, tmp_path: Path) -> None:
    async with opened(tmp_path) as ways:
        assert await through(ways, way, seed=seed, size=60, faults=BAD) > 5


@pytest.mark.parametrize("way", WAYS)
async def test_and_so_it_does_in_real_time(way: Way, tmp_path: Path) -> None:
    async with opened(tmp_path) as ways:
        assert await through(ways, way, seed=4, size=60, faults=BAD) > 5


@pytest.mark.parametrize("way", ["ws", "http"])
@pytest.mark.virtual
async def test_a_connection_that_fell_silent_is_given_up_and_made_again(way: Way, tmp_path: Path) -> None:
    async with opened(tmp_path) as ways, ways.proxy(way, seed=1, faults=Faults(cut=0, delay=0)) as proxy:
        client = ways.client(way, proxy)
        async with asyncio.timeout(120), client.subscribe("work:", after="start") as facts:
            await ways.ksi.request("work:do", {"number": 1})
            assert (await anext(facts)).data["data"] == {"number": 1}
            proxy.silence()
            await ways.ksi.request("work:do", {"number": 2})
            assert (await anext(facts)).data["data"] == {"number": 2}
        await client.close()


@pytest.mark.parametrize("way", WAYS)
async def test_what_only_takes_connections_is_given_up_in_time(way: Way, tmp_path: Path) -> None:
    nobody = tmp_path / "nobody.sock" if way == "unix" else ("127.0.0.1", free_port())
    async with FaultyProxy(nobody, seed=1) as proxy:
        where: dict[str, str | Path] = {"unix": tmp_path / "nobody.sock-proxy"}
        if way != "unix":
            where = {"ws": f"ws://127.0.0.1:{proxy.port}/v1/ws", "http": f"http://127.0.0.1:{proxy.port}"}
        client = EventClient(where[way], reconnect_timeout=0.3)
        with pytest.raises(KSIConnectionError, match="no daemon answers at"):
            await client.request("work:do", number=1)
        assert proxy.accepted < 12
        await client.close()


@pytest.mark.soak
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("seed", range(10, 30))
@pytest.mark.virtual
async def test_however_bad_it_is(way: Way, seed: int, tmp_path: Path) -> None:
    faults = Faults(cut=0.05, delay=0.3, delay_max=2.0, portion_bytes=64)
    async with opened(tmp_path, disconnect_grace=PATIENCE) as ways:  # so bad that one may be away for a minute
        await through(ways, way, seed=seed, size=200, faults=faults)
