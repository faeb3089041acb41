"""Puts the server together; what it needs of the daemon comes out of the registry of services."""

from __future__ import annotations

from collections.abc import Mapping, Sized

import msgspec
from uvicorn.server import ServerState

from ksi.core.config import HttpSection
from ksi.core.home import Home
from ksi.core.ports import EventLog
from ksi.kernel.plugins import Plugins
from ksi.kernel.registry import EventRegistry
from ksi.kernel.router import Router
from ksi.kernel.services import ServiceRegistry
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
from ksi.transport.lapsing import Tokens
from ksi.transport.tokens import TokenStore


def server_of(
    services: ServiceRegistry, tokens: TokenStore, section: HttpSection, home: Home, unix: Common
) -> HttpServer:
    """A server that was not started. What the connections of the Unix socket share bounds its own too."""
    router, log = services.get(Router), services.get(EventLog)
    guard = Guard(tokens, [name for name in (section.host, *section.hosts) if name not in WILDCARDS])
    common = msgspec.structs.replace(unix, connections=set(), tokens=Tokens(guard.principal_of))
    state, sockets = ServerState(), WebSockets(common, guard)
    connections: Mapping[str, Sized] = {"unix": unix.connections, "http": state.connections, "websocket": sockets.open}
    metrics = Metrics(router, common.budget, home.data, connections)
    requests = Requests(common, services.get(EventRegistry))
    plugged = Plugged(services.get(Plugins), router, requests, guard)
    return HttpServer(app_of(requests, guard, Probes(router, log), metrics, plugged), state, sockets, section, home)
