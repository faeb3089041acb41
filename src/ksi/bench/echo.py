"""The floor of the wire: a bare uvloop ``Protocol`` that decodes each line with orjson and echoes its data.

``python -m ksi.bench.echo SOCKET``; one write for each received chunk.
"""

from __future__ import annotations

import asyncio
import sys

import orjson
import uvloop


class Echo(asyncio.Protocol):
    """What no server that answers JSON lines can do without."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport: asyncio.WriteTransport = transport  # type: ignore[assignment]  # a socket's transport writes
        self._rest = b""

    def data_received(self, data: bytes) -> None:
        *lines, self._rest = (self._rest + data).split(b"\n")
        answers = []
        for line in lines:
            frame = orjson.loads(line)
            answers.append(orjson.dumps({"id": frame["id"], "ok": True, "data": frame["data"]}))
        if answers:
            answers.append(b"")
            self._transport.write(b"\n".join(answers))


async def serve(path: str) -> None:
    server = await asyncio.get_running_loop().create_unix_server(Echo, path)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(serve(sys.argv[1]))
