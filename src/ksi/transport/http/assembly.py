"""Puts the server together; what it needs of the daemon comes out of the registry of services."""

from __future__ import annotations

from ksi import __version__
from ksi.core.clock import Clock
from ksi.core.config import HttpSection
from ksi.core.home import Home
from ksi.core.ports import EventLog
from ksi.kernel.registry import EventRegistry
from ksi.kernel.router import Router
from ksi.kernel.services import ServiceRegistry
from ksi.transport.budget import Budget, Limits
from ksi.transport.connection import Common
from ksi.transport.http.binding import WILDCARDS
from ksi.transport.http.events import Requests
from ksi.transport.http.guard import Guard, Tokens
from ksi.transport.http.probes import Probes
from ksi.transport.http.routes import app_of
from ksi.transport.http.server import HttpServer
from ksi.transport.http.websocket import WebSockets


def server_of(
    services: ServiceRegistry,
    tokens: Tokens,
    section: HttpSection,
    home: Home,
    *,
    limits: Limits,
    budget: Budget,
    clock: Clock,
) -> HttpServer:
    """A server that was not started."""
    router = services.get(Router)
    requests = Requests(router, services.get(EventRegistry), limits=limits, budget=budget, clock=clock)
    guard = Guard(tokens, [name for name in (section.host, *section.hosts) if name not in WILDCARDS])
    probes = Probes(router, services.get(EventLog))
    common = Common(
        door=router, limits=limits, budget=budget, clock=clock, server=f"ksi/{__version__}", connections=set()
    )
    return HttpServer(app_of(requests, guard, probes), WebSockets(common, guard), section, home)
