"""The Unix socket: a file that only its owner can open, and the peer's uid as its principal."""

from __future__ import annotations

import asyncio
import os
import socket
import stat
import sys
from pathlib import Path
from types import TracebackType
from typing import Self

from ksi import __version__
from ksi.core.clock import Clock, SystemClock
from ksi.core.errors import ConfigError, UnauthorizedError
from ksi.kernel.door import Door
from ksi.transport.budget import Budget, Limits
from ksi.transport.connection import Common, Connection
from ksi.transport.lapsing import Tokens
from ksi.transport.peers import peer_of
from ksi.transport.tokens import TokenStore

PATH_BYTES_MAX = 107 if sys.platform == "linux" else 103
"""What the system's ``sun_path`` holds, without its NUL."""

BACKLOG = 512


class UnixServer:
    """Serves a door on a Unix socket. Only the owner of the home's lock may start one: it replaces a stale file."""

    def __init__(
        self,
        door: Door,
        path: Path,
        limits: Limits | None = None,
        *,
        budget: Budget | None = None,
        clock: Clock | None = None,
        tokens: TokenStore | None = None,
        server: str = f"ksi/{__version__}",
    ) -> None:
        """``budget`` is given where several doors share one. With ``tokens`` children of this process need one."""
        limits = limits or Limits()
        self.path = path
        self.common = Common(
            door=door,
            limits=limits,
            budget=budget or Budget(limits),
            clock=clock or SystemClock(),
            server=server,
            connections=set(),
            tokens=None if tokens is None else Tokens(lambda token: tokens.verify(token).principal),
        )
        self._wants_tokens = tokens is not None
        self._listener: asyncio.Server | None = None
        self._inode = 0

    async def start(self) -> None:
        """Listen.

        Raises:
            ConfigError: The path can not be used; the message says what to do.
        """
        listening = bound(self.path)
        self._inode = self.path.stat().st_ino
        loop = asyncio.get_running_loop()
        self._listener = await loop.create_unix_server(
            lambda: Connection(self.common, self._principal_of), sock=listening, backlog=BACKLOG
        )

    async def close(self, grace: float = 5.0) -> None:
        """Accept no more, answer what is in flight, write all, close; after ``grace`` seconds the rest is cut off."""
        if self._listener is None:
            return
        self._listener.close()
        self._listener = None
        self._remove()
        for connection in list(self.common.connections):
            connection.finish()
        await self._drained(grace)
        for connection in list(self.common.connections):
            connection.abort()
        await self._drained(1.0)

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    def _principal_of(self, transport: asyncio.Transport) -> str:
        """The peer's uid. Raises UnauthorizedError where it is a child of this process, which has its own token."""
        peer = peer_of(transport.get_extra_info("socket"))
        if self._wants_tokens and peer.descends_from(os.getpid()):
            raise UnauthorizedError("a child of the daemon has to say hello with a token first")
        return peer.principal

    async def _drained(self, grace: float) -> None:
        if not self.common.connections:
            return
        self.common.drained = asyncio.Event()
        try:
            await asyncio.wait_for(self.common.drained.wait(), grace)
        except TimeoutError:
            return

    def _remove(self) -> None:
        try:
            if self.path.stat().st_ino == self._inode:
                self.path.unlink()
        except FileNotFoundError:
            return


def bound(path: Path) -> socket.socket:
    """A socket for its owner only, which listens nowhere yet. Raises ConfigError; the message says what to do."""
    _refuse_long(path)
    _make_private(path.parent)
    _remove_stale(path)
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    before = os.umask(0o177)
    try:
        listening.bind(os.fspath(path))
    except OSError as error:
        listening.close()
        raise ConfigError(f"no socket can be made there: {error.strerror}", where=str(path)) from None
    finally:
        os.umask(before)
    return listening


def _refuse_long(path: Path) -> None:
    size = len(os.fsencode(path))
    if size > PATH_BYTES_MAX:
        message = f"a socket's path has at most {PATH_BYTES_MAX} bytes, this has {size}: choose a shorter --home"
        raise ConfigError(message, where=str(path))


def _make_private(directory: Path) -> None:
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        mode = directory.stat().st_mode
    except OSError as error:
        raise ConfigError(f"no directory for the socket: {error.strerror}", where=str(directory)) from None
    if mode & stat.S_IWOTH and not mode & stat.S_ISVTX:
        raise ConfigError(f"anybody could replace the socket: chmod 700 {directory}", where=str(directory))


def _remove_stale(path: Path) -> None:
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise ConfigError("something that is no socket stands there: choose another --home", where=str(path))
    if _answers(path):
        raise ConfigError("a daemon answers there already: stop it, or choose another --home", where=str(path))
    path.unlink(missing_ok=True)


def _answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(os.fspath(path))
        except (ConnectionRefusedError, FileNotFoundError):
            return False
        except OSError:  # busy, or not ours to open: somebody is there
            return True
    return True
