"""Puts the server together; what it needs of the daemon comes out of the registry of services."""

from __future__ import annotations

from uvicorn.server import ServerState

from ksi import __version__
from ksi.core.clock import Clock
from ksi.core.config import HttpSection
from ksi.core.home import Home
from ksi.core.ports import EventLog
from ksi.kernel.plugins import Plugins
from ksi.kernel.registry import EventRegistry
from ksi.kernel.router import Router
from ksi.kernel.services import ServiceRegistry
from ksi.transport.budget import Budget, Limits
from ksi.transport.connection import Common
from ksi.transport.http.binding import WILDCARDS
from ksi.transport.http.events import Requests
from ksi.transport.http.guard import Guard
from ksi.transport.http.metrics import Metrics
from ksi.transport.http.plugged import Plugged
from ksi.transport.http.probes import Probes
from ksi.transport.http.routes import app_of
from ksi.transport.http.server import HttpServer
from ksi.transport.http.websocket import WebSockets
from ksi.transport.tokens import TokenStore


def server_of(
    services: ServiceRegistry,
    tokens: TokenStore,
    section: HttpSection,
    home: Home,
    *,
    limits: Limits,
    budget: Budget,
    clock: Clock,
) -> HttpServer:
    """A server that was not started."""
    router, log = services.get(Router), services.get(EventLog)
    guard = Guard(tokens, [name for name in (section.host, *section.hosts) if name not in WILDCARDS])
    common = Common(
        door=router,
        limits=limits,
        budget=budget,
        clock=clock,
        server=f"ksi/{__version__}",
        connections=set(),
        principal_of=guard.principal_of,
    )
    state, sockets = ServerState(), WebSockets(common, guard)
    requests = Requests(router, services.get(EventRegistry), limits=limits, budget=budget, clock=clock)
    metrics = Metrics(router, log, budget, home.data, {"http": state.connections, "websocket": sockets.open})
    plugged = Plugged(services.get(Plugins), router, requests, guard)
    return HttpServer(app_of(requests, guard, Probes(router, log), metrics, plugged), state, sockets, section, home)
