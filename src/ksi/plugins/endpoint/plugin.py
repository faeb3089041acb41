"""The paths at which KSI is asked as a provider is."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from ksi.kernel.plugin import AsyncPlugin, Route

if TYPE_CHECKING:
    from starlette.types import Receive, Scope, Send


class Endpoint(AsyncPlugin):
    """Answers clients of OpenAI and Anthropic: ``model`` is a provider's, or ``agent:NAME``."""

    name = "endpoint"

    def routes(self) -> Iterable[Route]:
        paths = {
            "/v1/chat/completions": "POST",
            "/v1/responses": "POST",
            "/v1/messages": "POST",
            "/v1/models": "GET",
            "/v1/models/{model:path}": "GET",
        }
        return [Route(path=path, methods=(method,), app=self._serve) for path, method in paths.items()]

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        # Here and not above: HTTP is loaded behind the first answer on the Unix socket.
        from ksi.plugins.endpoint.serving import serve

        await serve(self.host.services, scope, receive, send)
