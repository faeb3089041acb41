"""A bad network: a proxy in front of a socket that cuts, delays and truncates what goes through, as its seed says."""

from __future__ import annotations

import asyncio
import contextlib
from asyncio import StreamReader, StreamWriter
from dataclasses import dataclass
from pathlib import Path
from random import Random
from types import TracebackType
from typing import Self

Address = Path | tuple[str, int]
"""The path of a Unix socket, or host and port."""


@dataclass(frozen=True)
class Faults:
    """What happens to each portion of bytes, in either direction."""

    cut: float = 0.02
    """Probability that the connection ends, with a part of the portion still delivered."""
    delay: float = 0.1
    """Probability that the portion is late."""
    delay_max: float = 0.05
    portion_bytes: int = 256
    """The most that goes through at once, so that frames are cut in their middle."""


class FaultyProxy:
    """Listens beside ``target``, on the same kind of socket, and is unreliable.

    ::

        async with FaultyProxy(daemon.home.socket, seed=7) as proxy, EventClient(proxy.path) as client:
            ...
    """

    def __init__(self, target: Address, *, seed: int, faults: Faults | None = None) -> None:
        self._target = target
        self._random = Random(seed)
        self._faults = faults or Faults()
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._open: set[StreamWriter] = set()
        self._silent: set[StreamWriter] = set()
        self.cuts = 0
        """Connections that were cut."""
        self.accepted = 0
        """Connections that were made to it."""

    async def __aenter__(self) -> Self:
        if isinstance(self._target, Path):
            self._server = await asyncio.start_unix_server(self._accepted, self.path)
        else:
            self._server = await asyncio.start_server(self._accepted, "127.0.0.1", 0)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        assert self._server is not None
        self._server.close()
        self.cut_all()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if isinstance(self._target, Path):
            self.path.unlink(missing_ok=True)

    @property
    def path(self) -> Path:
        """Where it listens, before a Unix socket."""
        assert isinstance(self._target, Path)
        return self._target.with_name(f"{self._target.name}-proxy")

    @property
    def port(self) -> int:
        """Where it listens, before TCP."""
        assert self._server is not None
        return int(self._server.sockets[0].getsockname()[1])

    @property
    def connections(self) -> int:
        """Of clients, that are open now."""
        return len(self._open) // 2

    def silence(self) -> None:
        """From now on nothing goes through the connections that are open, and neither side is told."""
        self._silent |= self._open

    def cut_all(self) -> None:
        """Cut every connection now."""
        for writer in list(self._open):
            writer.transport.abort()

    def _accepted(self, reader: StreamReader, writer: StreamWriter) -> None:
        self.accepted += 1
        task = asyncio.get_running_loop().create_task(self._connect(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _connect(self, reader: StreamReader, writer: StreamWriter) -> None:
        """Carry one connection until either side ends it, or chance does."""
        both = {writer}
        try:
            upstream, onward = await self._dial()
            both.add(onward)
            self._open |= both
            async with asyncio.TaskGroup() as ways:
                ways.create_task(self._carry(reader, onward, both))
                ways.create_task(self._carry(upstream, writer, both))
        except OSError:
            return  # nobody is behind it: its client is cut off
        finally:
            self._open -= both
            self._silent -= both
            for each in both:
                await _aborted(each)

    async def _dial(self) -> tuple[StreamReader, StreamWriter]:
        if isinstance(self._target, Path):
            return await asyncio.open_unix_connection(self._target)
        return await asyncio.open_connection(*self._target)

    async def _carry(self, reader: StreamReader, writer: StreamWriter, both: set[StreamWriter]) -> None:
        faults, chance = self._faults, self._random
        with contextlib.suppress(OSError):
            while portion := await reader.read(faults.portion_bytes):
                if writer in self._silent:
                    continue
                if chance.random() < faults.delay:
                    await asyncio.sleep(chance.uniform(0, faults.delay_max))
                if chance.random() < faults.cut:
                    self.cuts += 1
                    writer.write(portion[: chance.randrange(len(portion))])
                    break
                writer.write(portion)
                await writer.drain()
        if writer in self._silent:
            await asyncio.Event().wait()  # that one side has ended is not told either
        # Closed, not aborted: what was written before still arrives, and then the end.
        for each in both:
            each.close()


async def _aborted(writer: StreamWriter) -> None:
    writer.transport.abort()
    with contextlib.suppress(OSError):
        await writer.wait_closed()
