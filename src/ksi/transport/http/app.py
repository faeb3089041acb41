"""The ASGI application: guard, routes, and the door at which whatever is raised becomes a problem."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Sequence

from starlette.exceptions import HTTPException
from starlette.routing import Match, Route, Router
from starlette.types import ASGIApp, Receive, Scope, Send

from ksi.core.errors import InternalError, KSIError
from ksi.transport.http.exchange import Exchange, Gone
from ksi.transport.http.guard import Guard
from ksi.transport.http.problems import MethodError

_log = logging.getLogger("ksi.http")

Handler = Callable[[Exchange], Awaitable[None]]


class Endpoint:
    """A route's end: lets in whom the guard lets in, and answers whatever is raised."""

    def __init__(self, handler: Handler, guard: Guard, *, is_public: bool = False) -> None:
        self._handler = handler
        self._guard = guard
        self._is_public = is_public

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        exchange = Exchange(scope, receive, send)
        try:
            self._guard.refuse_foreign(exchange.headers)
            if not self._is_public:
                exchange.session = self._guard.session_of(exchange.headers)
                exchange.token = self._guard.token_of(exchange.headers) or ""
            await self._handler(exchange)
        except Gone:
            return
        except KSIError as error:
            await _fail(exchange, error)
        except Exception as error:  # noqa: BLE001  # the door of a request
            _log.exception("%s %s failed", exchange.method, exchange.path)
            await _fail(exchange, InternalError(f"{exchange.method} {exchange.path}", type(error).__name__))


async def _fail(exchange: Exchange, error: KSIError) -> None:
    """Answer with ``error``; where an answer has begun, nothing can be said but that it breaks off."""
    if exchange.is_answered:
        exchange.abort()
    else:
        await exchange.fail(error)


class App:
    """All routes."""

    def __init__(
        self,
        routes: Sequence[Route],
        otherwise: ASGIApp,
        guard: Guard,
        possible: Callable[[str], frozenset[str]],
    ) -> None:
        """``possible`` says which methods can be those of a path."""
        self._guard = guard
        self._routes = routes
        self._possible = possible
        self._router = Router(routes, default=otherwise, redirect_slashes=False)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope["app"] = self
        try:
            await self._router(scope, receive, send)
        except HTTPException as refused:  # starlette's own: the path is there, the method is not
            await self._refusal(self._allowed(scope, refused))(scope, receive, send)

    def _refusal(self, allowed: Sequence[str]) -> Endpoint:
        async def refuse(exchange: Exchange) -> None:
            raise MethodError(exchange.path, exchange.method, allowed)

        return Endpoint(refuse, self._guard, is_public=True)

    def _allowed(self, scope: Scope, refused: HTTPException) -> list[str]:
        """The methods of all routes of the path; starlette knows those of the first."""
        known = {name.strip() for name in (refused.headers or {}).get("Allow", "").split(",") if name}
        for route in self._routes:
            if route.matches(scope)[0] is not Match.NONE:
                known.update(route.methods or ())
        return sorted(known & self._possible(scope["path"]))
