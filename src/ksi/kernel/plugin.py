"""Plugins: a class whose methods are declared as handlers, and the hooks by which the kernel reads it.

Hooks are plain functions that return data; they are called once, at registration. Anything that pluggy accepts can be a
plugin; :class:`AsyncPlugin` implements the hooks by looking at itself.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Iterable, Mapping
from pathlib import Path
from typing import Any, ClassVar, Protocol

import msgspec
import pluggy

from ksi.core.views import EntityFold, NamedVersion, Upcaster, View
from ksi.kernel.declare import Declaration, declarations
from ksi.kernel.middleware import Middleware
from ksi.kernel.services import ServiceRegistry

PROJECT = "ksi"
hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)
Handler = tuple[Callable[..., Any], Declaration]


class Route(msgspec.Struct, frozen=True, kw_only=True):
    """A path of the HTTP server; ``/v1`` is the daemon's own.

    A request of ``event`` answers it, with what stands in the path (``/tickets/{id}``) and in the query string or the
    body as its payload; or ``app`` does, an ASGI application, which finds the session as ``scope["state"]["session"]``.
    Without ``methods`` it is for all of them.
    """

    path: str
    methods: tuple[str, ...] = ("GET",)
    event: str | None = None
    app: Callable[..., Any] | None = None
    media: str = "application/json"  #: of the event's answer; where it is another, the answer is a text
    is_public: bool = False  #: without a token; only for an app


class Hooks:
    """What a plugin may say. All optional; each returns data and does nothing."""

    @hookspec
    def ksi_handlers(self) -> Iterable[Handler]:  # type: ignore[empty-body]  # a specification
        """Functions with what their decorators noted."""

    @hookspec
    def ksi_middleware(self) -> Iterable[Middleware]:  # type: ignore[empty-body]  # a specification
        """Pieces around handlers."""

    @hookspec
    def ksi_services(self) -> Mapping[type, Any]:  # type: ignore[empty-body]  # a specification
        """Implementations by interface, for others to get."""

    @hookspec
    def ksi_views(self) -> Iterable[type[View[Any]]]:  # type: ignore[empty-body]  # a specification
        """Read models to keep."""

    @hookspec
    def ksi_folds(self) -> Iterable[EntityFold[Any]]:  # type: ignore[empty-body]  # a specification
        """What entities are, out of their facts."""

    @hookspec
    def ksi_upcasters(self) -> Mapping[NamedVersion, Upcaster]:  # type: ignore[empty-body]  # a specification
        """How facts of older schema versions become those of the next."""

    @hookspec
    def ksi_routes(self) -> Iterable[Route]:  # type: ignore[empty-body]  # a specification
        """Paths of the HTTP server."""

    @hookspec
    def ksi_requires(self) -> Iterable[type]:  # type: ignore[empty-body]  # a specification
        """Interfaces that somebody must provide before this one starts."""


class Host(Protocol):
    """What a plugin gets from the daemon, beside the context of each request."""

    services: ServiceRegistry
    logger: logging.Logger
    home: Path | None
    """Where the daemon lives; None in a test without files."""

    @property
    def settings(self) -> Mapping[str, Any]:
        """The plugin's own section of the configuration, ``[plugin.NAME]``."""

    async def request(self, name: str, data: Any = b"{}") -> Any:
        """Ask from a task of the plugin's own; principal ``daemon``."""

    async def up(self) -> None:
        """Wait until the plugin's events can be asked for, and its views: for a task that its start spawns."""

    def spawn(self, coroutine: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run a task that the plugin owns: cancelled when it is unloaded, logged when it fails."""


class AsyncPlugin:
    """Base of plugins.

    ::

        class Hello(AsyncPlugin):
            name = "hello"

            @query("hello:greet")
            async def greet(self, name: str) -> str:
                return f"hello {name}"

    ``initialize`` runs before its events can be reached, ``shutdown`` after the last of them has ended.
    """

    name: ClassVar[str]
    requires: ClassVar[tuple[type, ...]] = ()  #: interfaces of services that must be there first
    provides: ClassVar[tuple[type, ...]] = ()  #: interfaces that :meth:`services` will hold: they decide the order
    views: ClassVar[tuple[type[View[Any]], ...]] = ()  #: read models it keeps
    folds: ClassVar[tuple[EntityFold[Any], ...]] = ()  #: how to fold the entities of its categories
    upcasters: ClassVar[Mapping[NamedVersion, Upcaster]] = {}  #: how older versions of its facts are read
    is_required: ClassVar[bool] = False  #: the daemon does not run without it
    host: Host

    @property
    def supports_concurrent_execution(self) -> bool:
        """Whether its handlers of an event may run beside other plugins' handlers of the same event."""
        return True

    async def initialize(self) -> None:
        """Get ready; ``self.host`` is set."""

    async def shutdown(self) -> None:
        """Give back what ``initialize`` took."""

    def services(self) -> Mapping[type, Any]:
        """What it provides for others, by interface; called after ``initialize``."""
        return {}

    def middleware(self) -> Iterable[Middleware]:
        """What it wraps around handlers."""
        return ()

    def routes(self) -> Iterable[Route]:
        """What it serves over HTTP."""
        return ()

    @hookimpl
    def ksi_handlers(self) -> Iterable[Handler]:
        methods = (getattr(self, name) for name in dir(type(self)) if callable(getattr(type(self), name, None)))
        return [(method, noted) for method in methods for noted in declarations(method)]

    @hookimpl
    def ksi_middleware(self) -> Iterable[Middleware]:
        return self.middleware()

    @hookimpl
    def ksi_services(self) -> Mapping[type, Any]:
        return self.services()

    @hookimpl
    def ksi_views(self) -> Iterable[type[View[Any]]]:
        return self.views

    @hookimpl
    def ksi_folds(self) -> Iterable[EntityFold[Any]]:
        return self.folds

    @hookimpl
    def ksi_upcasters(self) -> Mapping[NamedVersion, Upcaster]:
        return self.upcasters

    @hookimpl
    def ksi_routes(self) -> Iterable[Route]:
        return self.routes()

    @hookimpl
    def ksi_requires(self) -> Iterable[type]:
        return self.requires


class PluginInfo(msgspec.Struct, frozen=True):
    """What ``plugin:list`` shows. ``status``: running, draining, failed."""

    name: str
    generation: int
    status: str
    source: str
    events: list[str] = []
    requires: list[str] = []
    provides: list[str] = []
    problem: str | None = None
