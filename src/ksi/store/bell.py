"""A doorbell: those who wait for news of the log."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Protocol

NAMES_MAX = 10_000
"""Names of facts for which it is remembered who waits for them."""


class Named(Protocol):
    """What somebody waits for."""

    def may_be(self, name: str) -> bool:
        """Whether a fact of this name could be it."""


class Listener:
    """Somebody who waits for facts of some names, again and again."""

    def __init__(self, wanted: Named) -> None:
        self.wanted = wanted
        self._future: asyncio.Future[None] | None = None

    def wake(self) -> None:
        if self._future is not None and not self._future.done():
            self._future.set_result(None)

    async def wait(self) -> None:
        self._future = asyncio.get_running_loop().create_future()
        try:
            await self._future
        finally:
            self._future = None


class Bell:
    """Wakes all who wait for it, once each; of the listeners, where it is told what came, those who wait for that."""

    def __init__(self) -> None:
        self._waiting: list[asyncio.Future[None]] = []
        self._listeners: dict[Listener, None] = {}
        self._by_name: dict[str, dict[Listener, None]] = {}

    def ring(self) -> None:
        """Something has happened that all may want to look at."""
        self._wake_waiting()
        for listener in self._listeners:
            listener.wake()

    def ring_for(self, names: Iterable[str] | None) -> None:
        """Facts of these names came, and perhaps requests and outcomes; None: nobody knows which."""
        if names is None:
            self.ring()
            return
        self._wake_waiting()
        if self._listeners:
            for name in names:
                for listener in self._named(name):
                    listener.wake()

    def _wake_waiting(self) -> None:
        waiting, self._waiting = self._waiting, []
        for future in waiting:
            if not future.done():
                future.set_result(None)

    def _named(self, name: str) -> dict[Listener, None]:
        found = self._by_name.get(name)
        if found is None:
            if len(self._by_name) >= NAMES_MAX:
                self._by_name.clear()
            found = {listener: None for listener in self._listeners if listener.wanted.may_be(name)}
            self._by_name[name] = found
        return found

    async def wait(self) -> None:
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(future)
        try:
            await future
        finally:
            if future.cancelled():
                self._waiting = [other for other in self._waiting if other is not future]

    def enter(self, listener: Listener) -> None:
        """From now on it is woken for what it wants."""
        if listener in self._listeners:
            return
        self._listeners[listener] = None
        for name, found in self._by_name.items():
            if listener.wanted.may_be(name):
                found[listener] = None

    def leave(self, listener: Listener) -> None:
        self._listeners.pop(listener, None)
        for found in self._by_name.values():
            found.pop(listener, None)
