"""A client leaves an answer at any moment: the model's server is let go, the slot is free, what was used is stated."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from ksi.client.streams import EventStream
from ksi.testing.daemon_process import DaemonProcess
from tests.client.ways import WAYS, Way, client_of
from tests.providers.faulty_server import (
    STREAM_END,
    STREAM_HEAD,
    FaultyServer,
    event,
    send,
    then,
    token,
    usage,
)

MOMENTS = {
    "connecting": (b"",),
    "before the first token": (STREAM_HEAD,),
    "in the middle": (STREAM_HEAD, token("One "), token("two")),
}
WHOLE = send(STREAM_HEAD, token("One", finish="stop"), usage(3, 1), event(b"[DONE]"), STREAM_END)


@pytest.fixture
async def upstream() -> AsyncIterator[FaultyServer]:
    server = FaultyServer([])
    async with server.running():
        yield server


@pytest.fixture
async def daemon(upstream: FaultyServer, tmp_path: Path) -> AsyncIterator[DaemonProcess]:
    settings = {
        "http.port": 0,
        "limits.disconnect_grace": 0.2,
        "providers.default": "openai",
        "providers.openai.base_url": upstream.address,
        "providers.openai.api_key": "k",
        "providers.openai.models": "m",
    }
    async with DaemonProcess(tmp_path / "home", settings=settings) as daemon:
        yield daemon


async def reached(upstream: FaultyServer, stream: EventStream, moment: str) -> None:
    """Ask, and wait for the moment."""
    stream.open()
    if moment == "in the middle":
        assert [(await anext(stream)).data["text"] for _ in range(2)] == ["One ", "two"]
    async with asyncio.timeout(20):
        while not upstream.bodies:  # noqa: ASYNC110  # another process asks
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("moment", MOMENTS)
async def test_who_leaves_frees_the_upstream_and_is_told_what_was_used(
    daemon: DaemonProcess, upstream: FaultyServer, way: Way, moment: str
) -> None:
    upstream.replies += [then(send(*MOMENTS[moment]), upstream.silence), WHOLE]
    async with await client_of(daemon, way) as client:
        stream = client.stream("completion:create", prompt="Count.")
        await reached(upstream, stream, moment)
        stream.cancel()
        stream.cancel()  # twice is once
        assert [chunk async for chunk in stream] == []
        async with asyncio.timeout(5):
            await upstream.reader_gone.wait()
        assert stream.end["usage"]["estimated"] is True
        assert stream.end["text"] == ("One two" if moment == "in the middle" else "")
        again = await client.request("completion:create", prompt="Count.")
        assert again["text"] == "One"


@pytest.mark.parametrize("way", WAYS)
async def test_who_hangs_up_on_a_silent_upstream_leaves_nothing_behind(
    daemon: DaemonProcess, upstream: FaultyServer, way: Way
) -> None:
    upstream.replies += [WHOLE, *(then(send(STREAM_HEAD), upstream.silence) for _ in range(5))]
    async with await client_of(daemon, way) as client:
        await client.request("completion:create", prompt="Count.")
    before = await settled(daemon)
    for is_cut in (False, True, False, True, True):
        upstream.bodies.clear()
        upstream.reader_gone.clear()
        async with await client_of(daemon, way) as client:
            stream = client.stream("completion:create", prompt="Count.")
            await reached(upstream, stream, "before the first token")
            if not is_cut:  # it cancels; else only its connection is gone, and somebody could come back
                stream.close()
        async with asyncio.timeout(5):
            await upstream.reader_gone.wait()
    assert await settled(daemon) <= before


async def settled(daemon: DaemonProcess) -> int:
    """Its descriptors, once their number stands."""
    counts = [daemon.descriptors()]
    while len(counts) < 3 or len(set(counts[-3:])) > 1:
        await asyncio.sleep(0.1)  # another process closes them
        counts.append(daemon.descriptors())
    return counts[-1]


@pytest.mark.parametrize("way", WAYS)
async def test_a_cancel_behind_the_end_changes_nothing(daemon: DaemonProcess, upstream: FaultyServer, way: Way) -> None:
    upstream.replies += [WHOLE]
    async with await client_of(daemon, way) as client:
        stream = client.stream("completion:create", prompt="Count.")
        assert [chunk.data["text"] async for chunk in stream] == ["One"]
        stream.cancel()
        assert [chunk async for chunk in stream] == []
        assert stream.end["usage"] == {"input_tokens": 3, "output_tokens": 1, "estimated": False}
