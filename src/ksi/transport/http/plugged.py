"""Paths that plugins serve, and the descriptions of the API, which a plugin makes too."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from contextlib import closing

import msgspec
from starlette import routing
from starlette.types import ASGIApp, Receive, Scope, Send

from ksi.core.errors import DeclarationError, NotFoundError
from ksi.kernel.plugin import Route
from ksi.kernel.plugins import Plugins
from ksi.kernel.router import Router
from ksi.transport.http.app import Endpoint, Handler
from ksi.transport.http.events import Requests
from ksi.transport.http.exchange import JSON, Answer, Exchange
from ksi.transport.http.expiring import Expiring
from ksi.transport.http.guard import Guard

OWN = "/v1"
"""Where paths of the daemon itself begin."""
MODELS = ("/v1/chat/completions", "/v1/responses", "/v1/messages", "/v1/models", "/v1/models/{model:path}")
"""Paths below it that are not its own: OpenAI's and Anthropic's packages have them fixed."""
DOCUMENT_BYTES_MAX = 64 << 20
"""Of what is at a path of its own, and asked for nowhere else: the description of a thousand events has ten."""
DESCRIPTIONS = (
    Route(path="/openapi.json", event="describe:openapi"),
    Route(path="/asyncapi.json", event="describe:asyncapi"),
    Route(path="/types.ts", event="describe:typescript", media="text/plain; charset=utf-8"),
)
_log = logging.getLogger("ksi.http")


class Plugged:
    """An application of the paths that plugins serve now; built anew when plugins have come or gone."""

    def __init__(self, plugins: Plugins, router: Router, requests: Requests, guard: Guard) -> None:
        self._plugins = plugins
        self._router = router
        self._requests = requests
        self._guard = guard
        self._built_for: object = None
        self._routes = routing.Router()
        self._otherwise = Endpoint(_nothing_here, guard, is_public=True)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._built_for is not self._router.table:
            self._built_for = self._router.table
            self._routes = routing.Router(list(self._built()), default=self._otherwise, redirect_slashes=False)
        await self._routes(scope, receive, send)

    def _built(self) -> Iterable[routing.Route]:
        for route in (*self._plugins.routes(), *DESCRIPTIONS):
            try:
                yield routing.Route(route.path, self._endpoint(route), methods=list(route.methods) or None)
            except DeclarationError as error:
                _log.error("a path is not served: %s", error)

    def _endpoint(self, route: Route) -> Endpoint:
        is_own = f"{route.path}/".startswith(f"{OWN}/") and route.path not in MODELS
        if is_own or not route.path.startswith("/"):
            raise DeclarationError("a path begins with a slash, and not with /v1", where=route.path)
        if (route.app is None) == (route.event is None):
            raise DeclarationError("a path leads to an event or to an app", where=route.path)
        if route.app is None and route.is_public:
            raise DeclarationError("an event is asked with a token: only an app is public", where=route.path)
        handler = self._asgi(route) if route.app is not None else self._event(route)
        return Endpoint(handler, self._guard, is_public=route.is_public)

    def _event(self, route: Route) -> Handler:
        name, media = route.event or "", route.media.encode()

        async def handler(exchange: Exchange) -> None:
            if exchange.method in ("GET", "HEAD"):
                envelope = self._requests.queried(exchange, name, exchange.parameters)
            else:
                envelope = await self._requests.posted(exchange, name)
            raw = await self._requests.ask(exchange, envelope, DOCUMENT_BYTES_MAX)
            body = raw if media == JSON else msgspec.json.decode(raw, type=str).encode()
            await exchange.answer(Answer(body=body, media=media))

        return handler

    def _asgi(self, route: Route) -> Handler:
        async def handler(exchange: Exchange) -> None:
            assert route.app is not None
            exchange.scope["state"]["holding"] = self._requests
            exchange.is_answered = True  # from here on the app answers; what it raises breaks the answer off
            if route.is_public:
                await route.app(exchange.scope, exchange.receive, exchange.send)
            else:
                await self._answered_while_known(route.app, exchange)

        return handler

    async def _answered_while_known(self, app: ASGIApp, exchange: Exchange) -> None:
        """An app's answer to somebody with a token, as long as that counts."""
        assert self._requests.tokens is not None
        expiring = Expiring(exchange, self._requests.tokens)
        exchange.scope["state"].update(session=exchange.session, expiring=expiring)
        with closing(expiring):
            await app(exchange.scope, exchange.receive, expiring.send)


async def _nothing_here(exchange: Exchange) -> None:
    raise NotFoundError("page", exchange.path)
