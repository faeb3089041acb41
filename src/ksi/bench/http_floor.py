"""The floors of HTTP: what starlette and uvicorn cost by themselves, and what ``websockets.broadcast`` does.

``python -m ksi.bench.http_floor PORT_FILE``: an echo over POST, an echo over WebSocket, and a stream of chunks.
``python -m ksi.bench.http_floor --broadcast PORT_FILE``: whatever one client says, all others hear.
"""

from __future__ import annotations

import logging
import socket
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import orjson
import uvicorn
import uvloop
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect
from websockets.asyncio.server import ServerConnection, broadcast
from websockets.asyncio.server import serve as serve_websockets

from ksi.bench.plugin import item


async def echo(request: Request) -> Response:
    return Response(orjson.dumps(orjson.loads(await request.body())), media_type="application/json")


async def echo_messages(socket: WebSocket) -> None:
    await socket.accept()
    try:
        while True:
            frame = orjson.loads(await socket.receive_text())
            await socket.send_text(orjson.dumps({"id": frame["id"], "ok": True, "data": frame["data"]}).decode())
    except WebSocketDisconnect:
        return


async def chunks(request: Request) -> Response:
    async def events() -> AsyncIterator[bytes]:
        for number in range(int(request.query_params["to"])):
            yield b"data: %b\n\n" % orjson.dumps(item(number))

    return StreamingResponse(events(), media_type="text/event-stream")


async def serve_asgi(port_file: Path) -> None:
    app = Starlette(
        routes=[
            Route("/echo", echo, methods=["POST"]),
            Route("/chunks", chunks),
            WebSocketRoute("/ws", echo_messages),
        ]
    )
    listening = _listening(port_file)
    config = uvicorn.Config(app, http="httptools", ws="websockets-sansio", lifespan="off", log_level="error")
    await uvicorn.Server(config).serve([listening])


async def serve_broadcast(port_file: Path) -> None:
    hearers: set[ServerConnection] = set()
    logging.getLogger("websockets").setLevel(logging.CRITICAL)  # whoever hangs up here means to

    async def hear(connection: ServerConnection) -> None:
        hearers.add(connection)
        await connection.send("hello")
        try:
            async for message in connection:
                broadcast(hearers - {connection}, message)
        finally:
            hearers.discard(connection)

    async with serve_websockets(hear, sock=_listening(port_file), compression=None, backlog=1_024) as server:
        await server.serve_forever()


def _listening(port_file: Path) -> socket.socket:
    listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listening.bind(("127.0.0.1", 0))
    listening.listen(1_024)
    listening.setblocking(False)
    port_file.write_text(str(listening.getsockname()[1]))
    return listening


if __name__ == "__main__":
    *words, file = sys.argv[1:]
    uvloop.run(serve_broadcast(Path(file)) if words else serve_asgi(Path(file)))
