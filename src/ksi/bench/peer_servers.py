"""Peers that answer requests: each does what KSI's measured query does, decodes a typed item and gives it back.

``python -m ksi.bench.peer_servers fastapi|grpc|zmq|nats READY_FILE [URL]``: the file holds the port, once it is served.
"""

from __future__ import annotations

import asyncio
import socket
import sys
from pathlib import Path
from typing import Any

import msgspec
import uvloop

from ksi.bench.plugin import Item, ItemModel

_decode, _encode = msgspec.json.Decoder(Item).decode, msgspec.json.Encoder().encode
HOST = "127.0.0.1"


def echo(raw: bytes) -> bytes:
    return _encode(_decode(raw))


async def fastapi(ready: Path) -> None:
    import uvicorn  # the peers are an extra, each imported only where it is the one that serves
    from fastapi import FastAPI

    app = FastAPI()

    @app.post("/echo")  # type: ignore[untyped-decorator]  # it is not followed: it may not be installed
    async def echo_item(item: ItemModel) -> ItemModel:
        return item

    listening = socket.socket()
    listening.bind((HOST, 0))
    _is_ready(ready, listening.getsockname()[1])
    config = uvicorn.Config(app, http="httptools", lifespan="off", log_level="error", access_log=False)
    await uvicorn.Server(config).serve([listening])


async def grpc(ready: Path) -> None:
    import grpc  # as above

    async def echo_item(raw: bytes, context: Any) -> bytes:
        return echo(raw)

    server = grpc.aio.server()
    methods = {"Echo": grpc.unary_unary_rpc_method_handler(echo_item)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("bench.Items", methods),))
    port = server.add_insecure_port(f"{HOST}:0")
    await server.start()
    _is_ready(ready, port)
    await server.wait_for_termination()


async def zmq(ready: Path) -> None:
    from zmq import ROUTER  # as above
    from zmq.asyncio import Context

    router = Context().socket(ROUTER)
    _is_ready(ready, router.bind_to_random_port(f"tcp://{HOST}"))
    while True:
        peer, raw = await router.recv_multipart()
        await router.send_multipart([peer, echo(raw)])


async def nats(ready: Path, url: str) -> None:
    import nats as library  # as above

    connection = await library.connect(url)

    async def answer(message: Any) -> None:
        await message.respond(echo(message.data))

    await connection.subscribe("items.echo", cb=answer)
    await connection.flush()
    _is_ready(ready, 0)
    await asyncio.Event().wait()


def _is_ready(file: Path, port: int) -> None:
    """Write it in one step: whoever waits for the file reads all of it."""
    written = file.with_suffix(".new")
    written.write_text(str(port))
    written.rename(file)


SERVERS = {server.__name__: server for server in (fastapi, grpc, zmq, nats)}

if __name__ == "__main__":
    name, ready_file, *urls = sys.argv[1:]
    uvloop.run(SERVERS[name](Path(ready_file), *urls))
