"""New code for a plugin while it works."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from ksi.client.client import EventClient
from ksi.core.errors import PluginFailedError
from ksi.testing.daemon_process import DaemonProcess
from tests.daemon.audit import Books

SOURCE = """
from collections.abc import AsyncIterator

from ksi.core.events import NewEvent
from ksi.kernel.context import EventContext
from ksi.kernel.declare import End, event, stream
from ksi.kernel.plugin import AsyncPlugin

CODE = {code}


def code() -> int:
    return CODE


class Work(AsyncPlugin):
    name = "work"

    @event("work:do")
    async def do(self, number: int, context: EventContext) -> int:
        context.append("work/all", NewEvent(name="work:done", data={{"number": number}}))
        return code()

    @stream("work:count")
    async def count(self, to: int) -> AsyncIterator[int | End[int]]:
        for _ in range(to):
            yield code()
        yield End(code())
"""
RELOADS = 5
CHUNKS = 200


@pytest.fixture
def plugin(tmp_path: Path) -> Path:
    file = tmp_path / "work.py"
    write(file, SOURCE.format(code=1))
    return file


def write(file: Path, source: str) -> None:
    file.write_text(source)


@pytest.fixture
async def daemon(tmp_path: Path, plugin: Path) -> AsyncIterator[DaemonProcess]:
    async with DaemonProcess(tmp_path / "home", plugin) as daemon:
        yield daemon


class Workers:
    """Commands without a pause; each answer says which code gave it."""

    def __init__(self) -> None:
        self.answers: list[tuple[int, int]] = []
        self.is_over = False

    async def work(self, client: EventClient, worker: int) -> None:
        number = worker
        while not self.is_over:
            self.answers.append((number, await client.request("work:do", number=number)))
            number += 100


async def test_a_reload_under_load_loses_and_doubles_nothing_and_a_stream_ends_in_its_old_code(
    daemon: DaemonProcess, plugin: Path
) -> None:
    workers = Workers()
    async with daemon.client() as client, daemon.client() as other, asyncio.TaskGroup() as tasks:
        for worker in range(16):
            tasks.create_task(workers.work(other, worker))
        stream = client.stream("work:count", to=CHUNKS)
        codes = [(await anext(stream)).data]
        for code in range(2, RELOADS + 2):
            write(plugin, SOURCE.format(code=code))
            await client.request("plugin:reload", name="work")
            assert await client.request("work:do", number=-code) == code
        codes += [chunk.data async for chunk in stream]
        workers.is_over = True
    assert codes == [1] * CHUNKS
    assert stream.end == 1
    assert {code for _, code in workers.answers} >= {1, RELOADS + 1}
    await daemon.stop()
    await check_log(daemon, workers)


async def check_log(daemon: DaemonProcess, workers: Workers) -> None:
    books = await Books.of(daemon.home)
    books.check_whole()
    done = [fact.data["number"] for fact in books.facts if fact.name == "work:done" and fact.data["number"] >= 0]
    assert sorted(done) == sorted(number for number, _ in workers.answers)


async def test_code_that_does_not_load_leaves_the_old_code_at_work(daemon: DaemonProcess, plugin: Path) -> None:
    async with daemon.client() as client:
        write(plugin, "this is no Python")
        with pytest.raises(PluginFailedError, match="SyntaxError"):
            await client.request("plugin:reload", name="work")
        assert await client.request("work:do", number=1) == 1
