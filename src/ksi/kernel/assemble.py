"""Put a kernel together without daemon, socket or files: for the daemon, for tests, for descriptions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from ksi.core.clock import Clock
from ksi.core.ports import EffectGateway, EventLog, Journal
from ksi.core.threads import Threads
from ksi.core.tracing import Tracer
from ksi.core.views import Projections
from ksi.kernel.effects import LiveEffects
from ksi.kernel.loader import Source
from ksi.kernel.middleware import EventMiddleware, EventPipeline
from ksi.kernel.plugin import AsyncPlugin
from ksi.kernel.plugins import Plugins
from ksi.kernel.recovery import Recovered, recover
from ksi.kernel.registry import EventRegistry
from ksi.kernel.router import Limits, Router
from ksi.kernel.services import ServiceRegistry


class Ports(msgspec.Struct, kw_only=True):
    """What the kernel is given."""

    journal: Journal
    threads: Threads
    clock: Clock
    effects: EffectGateway = msgspec.field(default_factory=LiveEffects)
    tracer: Tracer | None = None


class Kernel:
    """Router, registry and plugins, wired. ``start`` loads and recovers, ``stop`` drains and closes all but the log."""

    def __init__(
        self,
        ports: Ports,
        *,
        limits: Limits | None = None,
        home: Path | None = None,
        settings: Mapping[str, Mapping[str, Any]] | None = None,
    ) -> None:
        self.ports = ports
        self.services = ServiceRegistry()
        self.registry = EventRegistry()
        self.middleware = EventMiddleware()
        self.router = Router(
            journal=ports.journal,
            threads=ports.threads,
            clock=ports.clock,
            services=self.services,
            limits=limits or Limits(),
        )
        self.router.tracer = ports.tracer
        self.plugins = Plugins(self.router, self.registry, self.middleware, home=home, settings=settings)
        self.services.register(EventRegistry, self.registry)
        self.services.register(EventPipeline, EventPipeline(self.middleware))
        self.services.register(Plugins, self.plugins)
        self.services.register(Router, self.router)
        self.services.register(Clock, ports.clock)
        self.services.register(EventLog, ports.journal)
        self.services.register(Projections, ports.journal.projections)
        self.services.register(EffectGateway, ports.effects)

    async def start(self, plugins: Sequence[type[AsyncPlugin] | str | Source] = ()) -> Recovered:
        """Load ``plugins``, then give every open request of the log its end or another run."""
        await self.plugins.start([each if isinstance(each, Source) else Source(each) for each in plugins])
        return await recover(self.router)

    async def stop(self) -> None:
        """Refuse what is new, let what runs end, then stop the plugins."""
        await self.router.drain(self.router.limits.drain_timeout)
        await self.plugins.stop()
        await self.router.close()
