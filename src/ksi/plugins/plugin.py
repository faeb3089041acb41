"""Plugins at run time: what is loaded, and load, unload, reload.

They change code, not state: after a restart the configuration decides again. So the commands are ``together``, and
their facts say who changed what the daemon runs, and when.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Annotated

import msgspec
from msgspec import Meta

from ksi.core.events import fact
from ksi.kernel.context import EventContext
from ksi.kernel.declare import event, query
from ksi.kernel.plugin import AsyncPlugin, PluginInfo
from ksi.kernel.plugins import Plugins

KEY = "plugins"
Name = Annotated[str, Meta(description="the plugin's name, as plugin:list shows it")]
Target = Annotated[
    str, Meta(min_length=1, description="module:Class, or the path of a file or package on the daemon's machine")
]


class PluginList(msgspec.Struct, frozen=True):
    """Plugins in the order in which they started."""

    plugins: list[PluginInfo]


class Unloaded(msgspec.Struct, frozen=True):
    """It takes nothing new; what it has begun goes on to its end."""

    name: str


@fact("plugin:loaded")
class PluginLoaded(msgspec.Struct, frozen=True):
    """A plugin runs."""

    name: str
    generation: int
    source: str


@fact("plugin:unloaded")
class PluginUnloaded(msgspec.Struct, frozen=True):
    """A plugin was taken out."""

    name: str


@fact("plugin:reloaded")
class PluginReloaded(msgspec.Struct, frozen=True):
    """A plugin runs in new code."""

    name: str
    generation: int
    source: str


class PluginControl(AsyncPlugin):
    """Loads, unloads and reloads plugins of the running daemon."""

    name = "plugin"

    @query("plugin:list", inline=True, examples=[{}])
    def list_plugins(self) -> PluginList:
        """List the plugins with their events, generation and status; failed ones with what went wrong."""
        return PluginList(self._plugins.list_plugins())

    @event(
        "plugin:load",
        key=lambda request: KEY,
        errors=["not_found", "conflict", "plugin_failed", "declaration_error", "duplicate_event", "missing_service"],
        examples=[{"target": "plugins/hello.py"}, {"target": "my_package.hello:Hello"}],
    )
    async def load(self, target: Target, context: EventContext) -> PluginList:
        """Load a plugin. Where something is wrong with it, nothing changes."""
        loaded = await _seen(context, "plugin:load", target, lambda: self._plugins.load(target))
        _append(context, PluginLoaded, loaded)
        return PluginList(loaded)

    @event("plugin:unload", key=lambda request: KEY, errors=["not_found", "conflict"], examples=[{"name": "hello"}])
    async def unload(self, name: Name, context: EventContext) -> Unloaded:
        """Take a plugin out: it takes nothing new, and what it has begun ends."""
        await context.observe("plugin:unload", name, lambda: self._plugins.unload(name))
        context.append(f"plugin/{name}", PluginUnloaded(name))
        return Unloaded(name)

    @event(
        "plugin:reload",
        key=lambda request: KEY,
        errors=["not_found", "plugin_failed", "declaration_error"],
        examples=[{"name": "hello"}],
    )
    async def reload(self, name: Name, context: EventContext) -> PluginList:
        """Load a plugin's code afresh; those that need it follow. What has begun ends in the old code."""
        loaded = await _seen(context, "plugin:reload", name, lambda: self._plugins.reload(name))
        _append(context, PluginReloaded, loaded)
        return PluginList(loaded)

    @property
    def _plugins(self) -> Plugins:
        return self.host.services.get(Plugins)


async def _seen(
    context: EventContext, name: str, what: str, change: Callable[[], Awaitable[list[PluginInfo]]]
) -> list[PluginInfo]:
    """What ``change`` made of this process, recorded: the process of a replay has plugins of its own."""
    plugins: list[PluginInfo] = await context.observe(name, what, change, result=list[PluginInfo])
    return plugins


def _append(context: EventContext, kind: type[PluginLoaded | PluginReloaded], plugins: Sequence[PluginInfo]) -> None:
    for plugin in plugins:
        context.append(f"plugin/{plugin.name}", kind(plugin.name, plugin.generation, plugin.source))
