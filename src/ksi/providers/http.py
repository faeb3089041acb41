"""What providers that are asked over HTTP have in common: one POST, whose answer is read as it comes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Iterator
from typing import Any, ClassVar, Literal, Protocol

import msgspec

from ksi.providers.base import AnyChunk, Capabilities, CompletionRequest, Finished, ModelInfo, require
from ksi.providers.server import Server
from ksi.providers.timeouts import DEFAULT_TIMEOUTS, Thinking, Timeouts, patiently


class Reader(Protocol):
    """Makes chunks of the bytes of one answer."""

    is_done: bool

    def feed(self, piece: bytes) -> Iterator[AnyChunk | Thinking]: ...
    def finished(self) -> Finished: ...


class HttpProvider(ABC):
    """A provider whose subclass says in which words the server is asked, and answers."""

    writes_ahead: Literal[True] = True
    answers_at: ClassVar[str]
    models_at: ClassVar[str]

    def __init__(self, server: Server, *, name: str, capabilities: Capabilities) -> None:
        self.name = name
        self.capabilities = capabilities
        self._server = server

    @abstractmethod
    def _body_of(self, request: CompletionRequest) -> dict[str, Any]: ...

    @abstractmethod
    def _reader_of(self, request: CompletionRequest) -> Reader: ...

    async def start(self) -> None:  # noqa: B027  # the same for all of them
        """Nothing to do: connections are made as they are needed."""

    async def aclose(self) -> None:
        await self._server.aclose()

    async def models(self) -> list[ModelInfo]:
        return await self._server.models(self.models_at)

    def stream(
        self, request: CompletionRequest, *, timeouts: Timeouts = DEFAULT_TIMEOUTS
    ) -> AsyncGenerator[AnyChunk, None]:
        return patiently(self._chunks(request), timeouts, provider=self.name)

    async def _chunks(self, request: CompletionRequest) -> AsyncGenerator[AnyChunk | Thinking, None]:
        require(request, self.capabilities, provider=self.name)
        reader = self._reader_of(request)
        body = msgspec.json.encode(self._body_of(request))
        async with self._server.open("POST", self.answers_at, body=body, model=request.model) as response:
            async for piece in response.aiter_bytes():
                for chunk in reader.feed(piece):
                    yield chunk
                if reader.is_done:
                    break
        yield reader.finished()
