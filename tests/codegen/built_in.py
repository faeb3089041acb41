"""The registry of all built-in services, without a daemon, and what is made of it."""

from __future__ import annotations

from functools import cache

from ksi.codegen.catalogue import Catalogue, catalogue_of
from ksi.codegen.described import described
from ksi.daemon import BUILT_IN
from ksi.kernel.loader import Source
from ksi.kernel.plugin import AsyncPlugin
from ksi.kernel.registry import EventHandler, EventRegistry


def registry_of(*plugins: type[AsyncPlugin]) -> EventRegistry:
    registry = EventRegistry()
    for plugin in (kind() for kind in plugins):
        registry.register([EventHandler(function, noted, plugin.name) for function, noted in plugin.ksi_handlers()])
    return registry


def catalogue_from(*plugins: type[AsyncPlugin]) -> Catalogue:
    return catalogue_of(map(described, registry_of(*plugins).find()))


@cache
def built_in() -> Catalogue:
    """That of all services which are always there."""
    return catalogue_from(*(kind for target in BUILT_IN for kind in Source(target).classes(1)))
