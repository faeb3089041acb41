"""The plugins of a running daemon: load, unload, reload, and the table that follows them."""

from __future__ import annotations

import asyncio
import logging
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pluggy

from ksi.core.errors import (
    ConflictError,
    DeclarationError,
    DependencyCycleError,
    KSIError,
    MissingServiceError,
    NotFoundError,
    PluginFailedError,
)
from ksi.core.views import EntityFold, View
from ksi.kernel.facts import FactRegistry
from ksi.kernel.foreign import ENDS, FOREIGN
from ksi.kernel.generation import Loaded
from ksi.kernel.graph import dependents, start_order
from ksi.kernel.loader import Source, forget
from ksi.kernel.middleware import EventMiddleware
from ksi.kernel.observers import Observers
from ksi.kernel.plugin import PROJECT, AsyncPlugin, Handler, Hooks, PluginInfo, Route
from ksi.kernel.registry import EventHandler, EventRegistry
from ksi.kernel.router import Router
from ksi.kernel.table import Row

DRAIN_TIMEOUT = 600.0
"""Seconds that an old generation has to end what it began; then it is cancelled."""
_log = logging.getLogger("ksi.kernel")


class Plugins:
    """All plugins of a router, in the order in which they started."""

    def __init__(
        self,
        router: Router,
        registry: EventRegistry,
        middleware: EventMiddleware,
        *,
        home: Path | None = None,
        settings: Mapping[str, Mapping[str, Any]] | None = None,
    ) -> None:
        self.router = router
        self.registry = registry
        self.middleware = middleware
        self.home = home
        self.settings = settings or {}
        self.observers = Observers(router)
        self.facts = FactRegistry()
        self._manager = pluggy.PluginManager(PROJECT)
        self._manager.add_hookspecs(Hooks)
        self._loaded: dict[str, Loaded] = {}
        self._failed: dict[str, PluginInfo] = {}
        self._draining: set[asyncio.Task[None]] = set()
        self._changing = asyncio.Lock()

    # ── the start ────────────────────────────────────────────────────────────────────────────────────────────────────
    async def start(self, sources: Sequence[Source]) -> None:
        """Load all, those that others need first. One that fails is reported; the daemon runs without it.

        Raises:
            PluginFailedError: It failed and is required.
        """
        async with self._changing:
            waiting = self._waiting(sources)
            for name in self._order(waiting):
                plugin, source = waiting[name]
                await self._start_or_report(plugin, source)
            self.rebuild()

    def _waiting(self, sources: Sequence[Source]) -> dict[str, tuple[AsyncPlugin, Source]]:
        """The plugins of ``sources`` by name; of two with one name the first."""
        waiting: dict[str, tuple[AsyncPlugin, Source]] = {}
        for source in sources:
            for plugin in self._make(source):
                held = waiting.setdefault(plugin.name, (plugin, source))
                if held[0] is not plugin:
                    error = DeclarationError(f"a plugin of this name is loaded from {held[1]}", where=str(source))
                    self._report(f"{plugin.name} of {source}", source, error)
        return waiting

    def _make(self, source: Source) -> list[AsyncPlugin]:
        try:
            return [_made(kind) for kind in source.classes(1)]
        except ENDS as error:  # the door of plugin start: reported, the daemon runs on
            self._report(str(source), source, error)
            return []

    def _order(self, waiting: Mapping[str, tuple[AsyncPlugin, Source]]) -> list[str]:
        try:
            return start_order(_needs_among([plugin for plugin, _ in waiting.values()]))
        except DependencyCycleError as error:
            for name in set(error.cycle):
                plugin, source = waiting[name]
                self._report(name, source, error)
                self._declare(plugin)
            return self._order({name: held for name, held in waiting.items() if name not in error.cycle})

    async def _start_or_report(self, plugin: AsyncPlugin, source: Source) -> None:
        try:
            await self._start(plugin, source, 1)
        except FOREIGN as error:
            self._report(plugin.name, source, error)
            self._declare(plugin)
            if plugin.is_required:
                raise PluginFailedError(plugin.name, str(error)) from error

    def _report(self, name: str, source: Source, error: BaseException) -> None:
        _log.error("plugin %s does not run: %s", name, error, exc_info=None if isinstance(error, KSIError) else error)
        problem = "".join(traceback.format_exception(error)).strip()
        self._failed[name] = PluginInfo(name=name, generation=0, status="failed", source=str(source), problem=problem)

    def _declare(self, plugin: AsyncPlugin) -> None:
        """Its events are known, although it does not run: who asks for one is told so."""
        try:
            self.registry.declare(_handlers(plugin, plugin.ksi_handlers()), owner=plugin.name)
        except ENDS:  # the door of plugin start: its problem is reported already
            _log.debug("plugin %s: its events can not be read", plugin.name, exc_info=True)

    # ── at run time ──────────────────────────────────────────────────────────────────────────────────────────────────
    async def load(self, target: str) -> list[PluginInfo]:
        """Load ``module:Class`` or a file, of whose plugins those come first that others need.

        Raises what is wrong with it; nothing changes then.
        """
        async with self._changing:
            source = Source(target)
            plugins = {plugin.name: plugin for plugin in map(_made, source.classes(1))}
            for name in plugins.keys() & self._loaded.keys():
                raise ConflictError(f"plugin {name!r} is loaded already: reload it", plugin=name)
            started: list[Loaded] = []
            try:
                for name in start_order(_needs_among(list(plugins.values()))):
                    started += [await self._start(plugins[name], source, 1)]
            except ENDS:  # the door of plugin start: those before it go with it
                for loaded in reversed(started):
                    self._withdraw(loaded)
                    del self._loaded[loaded.plugin.name]
                    await loaded.stop()
                raise
            self.rebuild()
            return [loaded.info() for loaded in started]

    async def unload(self, name: str) -> None:
        """Take the plugin out, and let what it has begun end.

        Raises:
            ConflictError: Others need it, or the daemon does.
        """
        async with self._changing:
            loaded = self._get(name)
            followers = dependents(name, self._needs())
            if followers or loaded.plugin.is_required:
                needed_by = ", ".join(followers) or "the daemon"
                raise ConflictError(f"plugin {name!r} is needed by {needed_by}", plugin=name, needed_by=followers)
            self._withdraw(loaded)
            del self._loaded[name]
            self.rebuild()
            self._drain(loaded)

    async def reload(self, name: str) -> list[PluginInfo]:
        """Load the plugin's code afresh and swap it in; those that need it follow. Old requests end in the old code.

        Raises what is wrong with the new code; the old one runs on then.
        """
        async with self._changing:
            self._get(name)
            return [await self._reload(each) for each in [name, *dependents(name, self._needs())]]

    async def _reload(self, name: str) -> PluginInfo:
        old = self._get(name)
        generation = old.generation + 1
        kinds = [kind for kind in old.source.classes(generation) if getattr(kind, "name", None) == name]
        if not kinds:
            raise NotFoundError("plugin class", name)
        fresh = await self._initialized(_made(kinds[0]), old.source, generation)  # until here the old one serves
        self._withdraw(old)
        try:
            self._take_in(fresh)
        except FOREIGN as error:
            self._withdraw(fresh)
            self._take_in(old)
            self.rebuild()
            await fresh.stop()
            raise _named(error, name) from error
        self.rebuild()
        self._drain(old)
        return fresh.info()

    async def _initialized(self, plugin: AsyncPlugin, source: Source, generation: int) -> Loaded:
        """A generation that is ready to be taken in. What is no KSIError becomes one that names the plugin."""
        loaded = Loaded(plugin, source, generation, self)
        plugin.host = loaded
        for interface in plugin.requires:
            if self.router.services.provider_of(interface) is None:
                raise MissingServiceError(interface.__name__, needed_by=plugin.name)
        try:
            await loaded.initialize()
        except BaseException as error:
            await loaded.stop()
            if not isinstance(error, asyncio.CancelledError):
                raise _named(error, plugin.name) from error
            raise
        return loaded

    async def _start(self, plugin: AsyncPlugin, source: Source, generation: int) -> Loaded:
        loaded = await self._initialized(plugin, source, generation)
        try:
            self._take_in(loaded)
        except FOREIGN as error:
            self._withdraw(loaded)
            await loaded.stop()
            raise _named(error, plugin.name) from error
        return loaded

    def _take_in(self, loaded: Loaded) -> None:
        plugin, name = loaded.plugin, loaded.name
        self.facts.register(type(plugin), owner=name)
        if not self._manager.is_registered(plugin):
            self._manager.register(plugin)
        for services in self.hooks(plugin, "ksi_services"):
            for interface, implementation in services.items():
                self.router.services.register(interface, implementation, owner=name)
        for pieces in self.hooks(plugin, "ksi_middleware"):
            for piece in pieces:
                self.middleware.use(piece, owner=name)
        for upcasters in self.hooks(plugin, "ksi_upcasters"):
            self.router.journal.upcasters.register(upcasters, owner=name)
        for views in self.hooks(plugin, "ksi_views"):
            for view in views:
                self.router.journal.register(view)
                loaded.views.append(view)
        handlers = [each for found in self.hooks(plugin, "ksi_handlers") for each in _handlers(plugin, found)]
        loaded.events = self.registry.register(handlers)
        self.registry.forget(name)
        loaded.status = "running"
        self._loaded[name] = loaded
        self._failed.pop(name, None)

    def _withdraw(self, loaded: Loaded) -> None:
        name = loaded.name
        loaded.rows = [row for row in self.router.table.values() if row.owner == name]
        self.registry.withdraw(name)
        self.facts.withdraw(name)
        self.middleware.withdraw(name)
        self.router.services.withdraw(name)
        self.router.journal.upcasters.withdraw(name)
        for view in loaded.views:
            self.router.journal.unregister(view)
        loaded.views = []
        if self._manager.is_registered(loaded.plugin):
            self._manager.unregister(loaded.plugin)

    def _drain(self, loaded: Loaded) -> None:
        loaded.status = "draining"
        task = asyncio.get_running_loop().create_task(self._drained(loaded), context=self.router.fresh_context())
        self._draining.add(task)
        task.add_done_callback(self._draining.discard)

    async def _drained(self, loaded: Loaded) -> None:
        """Wait until nothing runs in this generation, then shut it down and forget its modules."""
        ended = asyncio.Event()
        for row in loaded.rows:
            row.on_end = ended.set
        try:
            async with asyncio.timeout(DRAIN_TIMEOUT):
                while self.router.is_busy(loaded.rows):
                    ended.clear()
                    await ended.wait()
        except TimeoutError:
            _log.warning("plugin %s: generation %d is cancelled after its drain", loaded.name, loaded.generation)
            self.router.cancel_all(loaded.rows)
        finally:  # also when the daemon stops meanwhile
            await loaded.stop()
            forget([type(loaded.plugin)])

    # ── the table ────────────────────────────────────────────────────────────────────────────────────────────────────
    def rebuild(self) -> None:
        """Build the table anew and swap it in; what is under way, and the counts, go on."""
        old = self.router.table
        table = {}
        for name, spec in self.registry.all_events.items():
            row = Row(self.router, spec, self.middleware.compose(spec))
            held = old.get(name)
            if held is not None:
                row.calls, row.errors, row.latency = held.calls, held.errors, held.latency
                if held.spec is spec:
                    row = self._same_generation(held, row)
            table[name] = row
        self.router.replace_table(table)
        for loaded in self._loaded.values():
            loaded.is_up.set()
        self.observers.set_handlers(self.registry.observers)

    @staticmethod
    def _same_generation(held: Row, row: Row) -> Row:
        """``held`` with the middleware of ``row``: what is under way is counted in one place."""
        held.stack = row.stack
        held.can_wait = row.can_wait
        held.compile()
        return held

    # ── lookups ──────────────────────────────────────────────────────────────────────────────────────────────────────
    def list_plugins(self) -> list[PluginInfo]:
        return [loaded.info() for loaded in self._loaded.values()] + list(self._failed.values())

    def fold_of(self, category: str) -> EntityFold[Any] | None:
        """How entities of ``category`` are folded, where a plugin says so."""
        folds = (
            fold for one in self._loaded.values() for found in self.hooks(one.plugin, "ksi_folds") for fold in found
        )
        return next((fold for fold in folds if fold.category == category), None)

    def views(self) -> dict[str, type[View[Any]]]:
        """The read models of all of them, by name."""
        return {view.name: view for loaded in self._loaded.values() for view in loaded.views}

    def routes(self) -> list[Route]:
        """What all of them serve over HTTP."""
        return [
            route for one in self._loaded.values() for found in self.hooks(one.plugin, "ksi_routes") for route in found
        ]

    def hooks(self, plugin: Any, name: str) -> list[Any]:
        """What this plugin's own implementations of a hook return."""
        caller: Any = getattr(self._manager.hook, name)
        return [
            implementation.function() for implementation in caller.get_hookimpls() if implementation.plugin is plugin
        ]

    def _needs(self) -> dict[str, list[str]]:
        provider_of: Callable[[type], str | None] = self.router.services.provider_of
        return {
            name: [provider for interface in loaded.plugin.requires if (provider := provider_of(interface))]
            for name, loaded in self._loaded.items()
        }

    def _get(self, name: str) -> Loaded:
        loaded = self._loaded.get(name)
        if loaded is None:
            raise NotFoundError("plugin", name)
        return loaded

    async def stop(self) -> None:
        """Stop observers and all plugins, the last started first."""
        await self.observers.stop()
        draining = list(self._draining)
        for task in draining:
            task.cancel()
        await asyncio.gather(*draining, return_exceptions=True)
        for loaded in reversed(list(self._loaded.values())):
            await loaded.stop()


def _made(kind: type[AsyncPlugin]) -> AsyncPlugin:
    """An instance of a plugin's class. Raises DeclarationError where what the class says of itself is wrong."""
    where = f"{kind.__module__}.{kind.__qualname__}"
    if not isinstance(getattr(kind, "name", None), str):
        raise DeclarationError('a plugin has a name: write `name = "greeter"` in the class', where=where)
    interfaces: tuple[Any, ...] = (*kind.requires, *kind.provides)
    if wrong := [each for each in interfaces if not isinstance(each, type)]:
        raise DeclarationError(f"requires and provides hold interfaces (classes), not {wrong[0]!r}", where=where)
    return kind()


def _handlers(plugin: AsyncPlugin, found: Iterable[Handler]) -> list[EventHandler]:
    is_concurrent = plugin.supports_concurrent_execution
    return [EventHandler(function, declaration, plugin.name, is_concurrent) for function, declaration in found]


def _needs_among(plugins: Sequence[AsyncPlugin]) -> dict[str, list[str]]:
    """Whom of ``plugins`` each of them needs."""
    provides = {interface: plugin.name for plugin in plugins for interface in plugin.provides}
    return {
        plugin.name: [provides[interface] for interface in plugin.requires if interface in provides]
        for plugin in plugins
    }


def _named(error: BaseException, plugin: str) -> KSIError:
    """``error`` as the caller is told of it. The place in the plugin's code goes to the log."""
    if isinstance(error, KSIError):
        return error
    _log.error("plugin %s failed", plugin, exc_info=error)
    return PluginFailedError(plugin, f"{type(error).__name__}: {error}")
