"""An HTTP server that fails on command, and what the tests of providers ask with."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager, suppress
from typing import Any

import msgspec

from ksi.providers.base import AnyChunk, CompletionRequest, Message, TextDelta, TextPart

Reply = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class FaultyServer:
    """Gives each request the next of ``replies``; keeps what was asked."""

    def __init__(self, replies: list[Reply]) -> None:
        self.bodies: list[dict[str, Any]] = []
        self.heads: list[str] = []
        self.reader_gone = asyncio.Event()
        self.address = ""
        self.replies = replies
        self._handlers: set[asyncio.Task[Any]] = set()

    @asynccontextmanager
    async def running(self) -> AsyncGenerator[FaultyServer, None]:
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.address = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
        async with server:
            yield self
        for handler in self._handlers:
            handler.cancel()
        await asyncio.gather(*self._handlers, return_exceptions=True)

    async def silence(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Says no more; notes when the client goes."""
        with suppress(ConnectionError):  # it went with something unread
            await reader.read()
        self.reader_gone.set()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        handler = asyncio.current_task()
        assert handler is not None
        self._handlers.add(handler)
        try:
            await self._read_request(reader)
            await self.replies.pop(0)(reader, writer)
        finally:
            writer.close()
            with suppress(ConnectionError):
                await writer.wait_closed()

    async def _read_request(self, reader: asyncio.StreamReader) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        self.heads.append(head)
        length = next((int(line[15:]) for line in head.lower().split("\r\n") if line.startswith("content-length:")), 0)
        if length:
            self.bodies.append(msgspec.json.decode(await reader.readexactly(length)))


def answer(status: int, body: Any, **headers: str) -> Reply:
    """A whole answer with a JSON body."""
    raw = msgspec.json.encode(body)
    lines = [f"HTTP/1.1 {status} X", f"content-length: {len(raw)}", "connection: close"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return send("\r\n".join(lines).encode() + b"\r\n\r\n" + raw)


def send(*pieces: bytes) -> Reply:
    """``pieces`` in a row, then the connection ends."""

    async def reply(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for piece in pieces:
            writer.write(piece)
            await writer.drain()

    return reply


def then(*replies: Reply) -> Reply:
    """One after another on the same connection."""

    async def reply(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for part in replies:
            await part(reader, writer)

    return reply


STREAM_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
STREAM_END = b"0\r\n\r\n"


def event(data: Any) -> bytes:
    """One event as a chunk of a chunked body."""
    raw = b"data: " + (data if isinstance(data, bytes) else msgspec.json.encode(data)) + b"\n\n"
    return f"{len(raw):x}\r\n".encode() + raw + b"\r\n"


def token(text: str, *, finish: str | None = None) -> bytes:
    return event({"choices": [{"index": 0, "delta": {"content": text}, "finish_reason": finish}]})


def usage(prompt: int, completion: int) -> bytes:
    return event({"choices": [], "usage": {"prompt_tokens": prompt, "completion_tokens": completion}})


def ask(text: str = "Tell me about the sea.", **fields: Any) -> CompletionRequest:
    message = Message(role="user", parts=(TextPart(text=text),))
    return CompletionRequest(**{"model": "m", "messages": (message,), **fields})


async def collect(stream: AsyncGenerator[AnyChunk, None]) -> list[AnyChunk]:
    async with aclosing(stream):
        return [chunk async for chunk in stream]


async def take(stream: AsyncGenerator[AnyChunk, None], count: int) -> list[AnyChunk]:
    """The first ``count`` chunks; the stream stays open."""
    return [await anext(stream) for _ in range(count)]


def text_of(chunks: list[AnyChunk]) -> str:
    return "".join(chunk.text for chunk in chunks if isinstance(chunk, TextDelta))
