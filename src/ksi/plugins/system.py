"""The daemon about itself: is it well, what can it do, and stop."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

from ksi import __version__
from ksi.codegen.described import Described, described, page_of
from ksi.core.clock import Clock
from ksi.core.events import Backend, Durable, RecordedEvent, fact
from ksi.core.ports import EventLog, Shutdown
from ksi.kernel.context import EventContext
from ksi.kernel.declare import event, observer, query
from ksi.kernel.plugin import AsyncPlugin
from ksi.kernel.plugins import Plugins
from ksi.kernel.registry import EventRegistry
from ksi.kernel.router import Router
from ksi.kernel.spec import EventSpec
from ksi.plugins.discovery import Discover, Discovery, Parameter, discovery, namespace_of, parameters_of

DISCOVER_EXAMPLES: tuple[Mapping[str, Any], ...] = (
    {},
    {"namespace": "state"},
    {"event": "state:set"},
    {"kind": "query", "detail": "summary", "limit": 2, "after": "log:get"},
)
Name = Annotated[str, Meta(description="name of an event, as in state:set")]


class LogHealth(msgspec.Struct, frozen=True):
    """``durable`` says what an acknowledgement means; ``bytes`` is what the log takes on disk.

    While it is read-only, for ``reason``, commands are answered ``unavailable``.
    """

    backend: Backend
    durable: Durable
    read_only: bool
    reason: str | None
    bytes: int


class Health(msgspec.Struct, frozen=True):
    """``head`` is the log's last position (0: empty), ``events`` how many kinds of events can be asked for."""

    status: Literal["healthy", "read_only"]
    version: str
    pid: int
    uptime_s: float
    head: int
    events: int
    in_flight: int
    log: LogHealth
    plugins: list[str]
    failed: list[str]


class Help(msgspec.Struct, frozen=True):
    """One event, for people."""

    event: str
    namespace: str
    summary: str
    parameters: dict[str, Parameter]
    examples: Sequence[Mapping[str, Any]]


class Description(msgspec.Struct, frozen=True):
    """Events by name; ``next`` goes into ``after``, and is there only where more follow."""

    events: list[Described]
    next: str | UnsetType = UNSET


class ShuttingDown(msgspec.Struct, frozen=True):
    """The drain begins once this is on disk."""

    status: Literal["shutting_down"]


@fact("system:shutdown_requested")
class ShutdownRequested(msgspec.Struct, frozen=True):
    """Somebody asked the daemon to stop."""

    principal: str
    reason: str


class System(AsyncPlugin):
    """Health, descriptions of events, shutdown."""

    name = "system"
    is_required = True

    async def initialize(self) -> None:
        services = self.host.services
        self._clock = services.get(Clock)
        self._registry = services.get(EventRegistry)
        self._started = self._clock.monotonic()

    @query("system:health", examples=[{}])
    async def health(self) -> Health:
        """Say that the daemon is well, and what it is busy with."""
        services = self.host.services
        router, log = services.get(Router), services.get(EventLog)
        plugins = services.get(Plugins).list_plugins()
        reason = log.read_only_reason
        return Health(
            status="healthy" if reason is None else "read_only",
            version=__version__,
            pid=os.getpid(),
            uptime_s=round(self._clock.monotonic() - self._started, 3),
            head=await log.head() or 0,
            events=len(self._registry.events),
            in_flight=len(router.running) + len(router.queries),
            log=LogHealth(log.backend, log.durable, reason is not None, reason, await log.bytes_on_disk()),
            plugins=[plugin.name for plugin in plugins if plugin.status == "running"],
            failed=[plugin.name for plugin in plugins if plugin.status == "failed"],
        )

    @query("system:discover", inline=True, examples=DISCOVER_EXAMPLES)
    def discover(self, request: Discover) -> Discovery:
        """List the events with their parameters, by namespace."""
        found = self._registry.find(request.event or (f"{request.namespace}:" if request.namespace else "*"))
        return discovery(found, request)

    @query("system:help", inline=True, errors=["unknown_event"], examples=[{"event": "state:set"}])
    def help_event(self, event: Name) -> Help:
        """Explain one event: what it is for, what it takes, examples."""
        spec = self._spec(event)
        return Help(event, namespace_of(spec), spec.summary, parameters_of(spec), _examples(spec))

    @query("system:describe", inline=True, examples=[{}, {"pattern": "state:*"}])
    def describe(
        self,
        pattern: Annotated[str, Meta(description="names of events; state: is a whole namespace")] = "*",
        after: Annotated[str | None, Meta(description="next of the page before")] = None,
    ) -> Description:
        """Describe events whole: JSON schemas, errors, rules."""
        return Description(*page_of(map(described, self._registry.find(pattern)), after))

    @event("system:shutdown", errors=["missing_service"], examples=[{}, {"reason": "upgrade"}])
    async def shutdown_daemon(
        self,
        context: EventContext,
        reason: Annotated[str, Meta(description="why, for the log")] = "asked to",
    ) -> ShuttingDown:
        """Stop the daemon: nothing new begins, what runs ends or is cancelled with its outcome recorded."""
        self.host.services.get(Shutdown)
        context.append("system/daemon", ShutdownRequested(context.principal, reason))
        return ShuttingDown("shutting_down")

    @observer("system:shutdown_requested")
    async def begin_shutdown(self, event: RecordedEvent) -> None:
        """Only once it is on disk: a daemon that stopped must be able to say why."""
        asked = event.into(ShutdownRequested)
        self.host.services.get(Shutdown).request(f"{asked.reason} ({asked.principal})")

    def _spec(self, name: str) -> EventSpec:
        spec = self._registry.events.get(name)
        if spec is None:
            raise self.host.services.get(Router).unknown(name)
        return spec


def _examples(spec: EventSpec) -> list[Mapping[str, Any]]:
    """Requests as the original clients send them."""
    return [{"event": spec.name, "data": data} for data in spec.declaration.examples]
