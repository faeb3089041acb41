"""The model's process belongs to its daemon: it does not outlive it, however it ends."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from ksi.client.client import Chunk
from ksi.core.errors import InterruptedRunError, ModelUnavailableError
from ksi.providers.model import ModelStore
from ksi.testing.daemon_process import DaemonProcess


@pytest.fixture(scope="module", autouse=True)
def model() -> None:
    pytest.importorskip("xllamacpp", reason="the model's runtime is not installed: pip install 'ksi[local]'")
    try:
        ModelStore().install()
    except ModelUnavailableError as error:
        pytest.skip(f"no model: {error}")


@pytest.fixture
async def daemon(tmp_path: Path) -> AsyncIterator[DaemonProcess]:
    async with DaemonProcess(tmp_path / "home") as daemon:
        yield daemon


async def end_of(descriptor: int) -> None:
    """Wait for the end of the process behind a descriptor of ``pidfd_open``."""
    loop, ended = asyncio.get_running_loop(), asyncio.Event()
    loop.add_reader(descriptor, ended.set)
    try:
        await ended.wait()
    finally:
        loop.remove_reader(descriptor)
        os.close(descriptor)


@pytest.mark.parametrize("with_signal", [signal.SIGKILL, signal.SIGTERM])
async def test_the_models_process_ends_with_its_daemon(daemon: DaemonProcess, with_signal: signal.Signals) -> None:
    async with daemon.client() as client, client.stream("completion:create", prompt="Once upon a time") as stream:
        await anext(stream)
        children = [os.pidfd_open(pid) for pid in daemon.children()]
        assert children != []
        await daemon.stop(with_signal)
        async with asyncio.timeout(30):
            await asyncio.gather(*map(end_of, children))


async def test_a_completion_that_a_kill_cut_off_is_interrupted_and_keeps_every_token_that_was_seen(
    daemon: DaemonProcess,
) -> None:
    seen: list[Chunk] = []
    async with daemon.client() as client, client.stream("completion:create", prompt="Once upon a time") as stream:
        seen += [await anext(stream) for _ in range(3)]
        await daemon.kill()
        await daemon.start()
        with pytest.raises(InterruptedRunError):
            seen += [chunk async for chunk in stream]
        assert seen[0].at is not None
        page = await client.request("log:read", stream=seen[0].at.partition("@")[0], kinds=["chunk"])
    assert [chunk["data"] for chunk in page["events"]] == [chunk.data for chunk in seen]
