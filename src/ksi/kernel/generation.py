"""One generation of a plugin: what it brought, and what it gets from the daemon."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from ksi.core.errors import PluginFailedError
from ksi.core.views import View
from ksi.kernel.foreign import ENDS, FOREIGN
from ksi.kernel.loader import Source
from ksi.kernel.plugin import AsyncPlugin, PluginInfo
from ksi.kernel.router import Limits
from ksi.kernel.services import ServiceRegistry
from ksi.kernel.table import Row

if TYPE_CHECKING:
    from ksi.kernel.plugins import Plugins

T = TypeVar("T")


class Loaded:
    """One generation of one plugin, with what it brought. Also its :class:`~ksi.kernel.plugin.Host`."""

    def __init__(self, plugin: AsyncPlugin, source: Source, generation: int, plugins: Plugins) -> None:
        self.plugin = plugin
        self.source = source
        self.generation = generation
        self.status = "starting"
        self.problem: str | None = None
        self.events: list[str] = []
        self.views: list[type[View[Any]]] = []
        self.rows: list[Row] = []
        self.services: ServiceRegistry = plugins.router.services
        self.logger = logging.getLogger(f"ksi.plugins.{plugin.name}")
        self.home: Path | None = plugins.home
        self._plugins = plugins
        self._tasks: set[asyncio.Task[Any]] = set()
        self.is_up = asyncio.Event()

    @property
    def name(self) -> str:
        return self.plugin.name

    @property
    def settings(self) -> Mapping[str, Any]:
        return self._plugins.settings.get(self.name, {})

    async def request(self, name: str, data: Any = b"{}") -> Any:
        return await self._plugins.router.call(name, data)

    async def up(self) -> None:
        await self.is_up.wait()

    def spawn(self, coroutine: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = self._own(self._guarded(coroutine))
        task.add_done_callback(lambda task: coroutine.close())  # one that was cancelled before it began is still open
        return task

    def _own(self, coroutine: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        task = asyncio.get_running_loop().create_task(coroutine, context=self._plugins.router.fresh_context())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _guarded(self, coroutine: Coroutine[Any, Any, None]) -> None:
        """A task that wants to leave is logged: left to the loop, it would end the daemon."""
        try:
            await coroutine
        except asyncio.CancelledError:
            raise
        except ENDS as error:
            self.logger.error("task of plugin %s failed", self.name, exc_info=error)

    async def initialize(self) -> None:
        """Raises what it raises; PluginFailedError where it takes too long."""
        await self._within(self._limits.initialize_timeout, self.plugin.initialize, "initialize")

    async def stop(self) -> None:
        """Shut the plugin down and end its tasks, each within its limit. What goes wrong is logged."""
        try:
            await self._within(self._limits.shutdown_timeout, self.plugin.shutdown, "shutdown")
        except FOREIGN:
            self.logger.exception("shutdown of plugin %s failed", self.name)
        for task in list(self._tasks):
            task.cancel()
        if self._tasks:
            _, left = await asyncio.wait(self._tasks, timeout=self._limits.shutdown_timeout)
            if left:
                self.logger.error("plugin %s: %d of its tasks do not end", self.name, len(left))

    async def _within(self, seconds: float, call: Callable[[], Awaitable[None]], step: str) -> None:
        """Await ``call``, but not for ever: one that swallows its cancel is left behind."""
        task = self._own(_outcome(call))
        try:
            ended, _ = await asyncio.wait({task}, timeout=seconds)
        finally:
            task.cancel()
        if not ended:
            remedy = f"do it in host.spawn(…), or raise plugins.{step}_timeout"
            raise PluginFailedError(self.name, f"{step}() takes longer than {seconds:g} s: {remedy}")
        if task.cancelled():
            raise PluginFailedError(self.name, f"{step}() was cancelled from within")
        if (error := task.result()) is not None:
            raise error

    @property
    def _limits(self) -> Limits:
        return self._plugins.router.limits

    def info(self) -> PluginInfo:
        return PluginInfo(
            name=self.name,
            generation=self.generation,
            status=self.status,
            source=str(self.source),
            events=sorted(self.events),
            requires=[interface.__name__ for interface in self.plugin.requires],
            provides=[interface.__name__ for interface in self.plugin.provides],
            problem=self.problem,
        )


async def _outcome(call: Callable[[], Awaitable[None]]) -> BaseException | None:
    """What ``call`` raises: a task that raised SystemExit itself would end the loop."""
    try:
        await call()
    except asyncio.CancelledError:
        raise
    except ENDS as error:
        return error
    return None
