"""The client for code without a loop, against a server in another thread."""

import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from ksi.client.sync import SyncEventClient
from ksi.core.errors import KSIConnectionError, UnknownEventError
from ksi.core.result import Success
from ksi.transport.unix import UnixServer
from tests.transport.echo import EchoDoor


@pytest.fixture
def path(tmp_path: Path) -> Iterator[Path]:
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()

    async def started() -> UnixServer:
        server = UnixServer(EchoDoor(), tmp_path / "daemon.sock")
        await server.start()
        return server

    server = asyncio.run_coroutine_threadsafe(started(), loop).result()
    yield server.path
    asyncio.run_coroutine_threadsafe(server.close(), loop).result()
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()


def test_requests(path: Path) -> None:
    with SyncEventClient(path) as client:
        assert client.request("test:echo", a=1) == {"a": 1}
        assert client.try_request("test:echo") == Success({})
        assert client.send("test:echo").event_id
        with pytest.raises(UnknownEventError):
            client.request("test:ecko")


def test_a_stream_is_a_plain_loop(path: Path) -> None:
    with SyncEventClient(path) as client, client.stream("test:count", until=40) as stream:
        assert [chunk.data for chunk in stream] == list(range(1, 41))
        assert stream.end == "counted"
        assert stream.at == "count/1@40"


def test_a_stream_can_be_cancelled_in_its_loop(path: Path) -> None:
    with SyncEventClient(path) as client:
        stream = client.subscribe("*", after="start")
        for chunk in stream:
            if chunk.seq == 3:
                stream.cancel()
        assert client.request("test:echo") == {}


def test_nobody_there(tmp_path: Path) -> None:
    with pytest.raises(KSIConnectionError), SyncEventClient(tmp_path / "none.sock"):
        pass
