"""The way to where a script would have asked without KSI."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterator
from contextlib import contextmanager

import httpx

from ksi.core.errors import PayloadTooLargeError, ProviderOverloadedError, ProviderTimeoutError, StreamInterruptedError
from ksi.plugins.door.shapes import Asked, Bytes, Head, Part, Piece, Upstreams
from ksi.plugins.door.unsaid import Unsaid

ANSWER_BYTES_MAX = 64 << 20
TIMEOUT = httpx.Timeout(30.0, read=600.0)
"""Silence of ten minutes is what the providers' own packages wait out."""
OF_THE_CONNECTION = {
    "connection", "content-length", "host", "keep-alive", "proxy-authenticate", "proxy-authorization", "te", "trailer",
    "transfer-encoding", "upgrade", "expect",
}  # fmt: skip
NOT_ASKED = OF_THE_CONNECTION | {"accept-encoding"}
"""Headers that do not go upstream: what is recorded is to be readable."""
NOT_TOLD = OF_THE_CONNECTION | {"content-encoding", "set-cookie", "date", "server"}
"""Headers of an answer that are not passed on, nor recorded."""


class Upstream:
    """Passes requests on."""

    def __init__(self) -> None:
        self._http = httpx.AsyncClient(timeout=TIMEOUT, limits=httpx.Limits(max_connections=1_000))

    async def close(self) -> None:
        await self._http.aclose()

    async def ask(self, asked: Asked, upstreams: Upstreams, unsaid: Unsaid) -> AsyncGenerator[Part, None]:
        """The answer as it comes; closing it closes the connection.

        Raises:
            ProviderError: It can not be reached, or broke off.
            PayloadTooLargeError: The answer has no end.
        """
        url = f"{upstreams.base(asked)}/{asked.path}" + (f"?{unsaid.query}" if unsaid.query else "")
        kept = [(name, value) for name, value in unsaid.headers if name not in NOT_ASKED]
        asking = self._http.stream(
            asked.method, url, content=asked.body.raw() or None, headers=[*kept, ("accept-encoding", "identity")]
        )
        with _typed(asked.protocol):
            async with asking as response:
                told = [(name, value) for name, value in response.headers.multi_items() if name not in NOT_TOLD]
                yield Head(response.status_code, told)
                size = 0
                async for raw in response.aiter_bytes():
                    if (size := size + len(raw)) > ANSWER_BYTES_MAX:
                        raise PayloadTooLargeError("answer", size=None, limit=ANSWER_BYTES_MAX)
                    yield Piece(Bytes.of(raw))


@contextmanager
def _typed(provider: str) -> Iterator[None]:
    try:
        yield
    except (httpx.ConnectError, httpx.ConnectTimeout) as error:
        raise ProviderOverloadedError(f"can not be reached: {error}", provider=provider) from error
    except httpx.TimeoutException as error:
        raise ProviderTimeoutError("is silent", provider=provider, seconds=TIMEOUT.read or 0.0) from error
    except (httpx.TransportError, httpx.DecodingError) as error:
        reason = str(error) or type(error).__name__
        raise StreamInterruptedError(f"the connection was lost: {reason}", provider=provider) from error
