"""A collector of spans: takes OTLP over HTTP, and reads it with the types of the official SDK."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from gzip import decompress

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span


class Collector:
    """``spans`` holds all that came, ``services`` the names of who sent them."""

    def __init__(self) -> None:
        self.spans: list[Span] = []
        self.services: set[str] = set()
        self.endpoint = ""
        self._news = asyncio.Event()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Collector]:
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.endpoint = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1/traces"
        async with server:
            yield self

    async def until(self, name: str) -> None:
        """Wait until a span of this name has come."""
        async with asyncio.timeout(30):
            while not any(span.name == name for span in self.spans):
                self._news.clear()
                await self._news.wait()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
        fields = dict(line.split(": ", 1) for line in head.split("\r\n")[1:] if line)
        body = await reader.readexactly(int(fields["content-length"]))
        self._take(decompress(body) if fields.get("content-encoding") == "gzip" else body)
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
        await writer.drain()
        writer.close()

    def _take(self, body: bytes) -> None:
        for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
            names = (each for each in resource.resource.attributes if each.key == "service.name")
            self.services.update(name.value.string_value for name in names)
            for scope in resource.scope_spans:
                self.spans.extend(scope.spans)
        self._news.set()
