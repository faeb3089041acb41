"""KSI beside others who answer requests: over sockets with clients of equal cost, and in the process.

The clients send prepared bytes and count answers; a row of its own has the clients that people write in Python. CPU is
that of the serving processes: for NATS its server and the service behind it.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import msgspec
import uvloop

from ksi.bench import dispatch, nats_server, peer_clients, peer_load, wire
from ksi.bench.http_load import Target, line_requests, posts
from ksi.bench.measure import Contestant, Row, Sample, rival
from ksi.bench.nats_server import NatsServer
from ksi.bench.plugin import item
from ksi.bench.wire import Server

IN_FLIGHT = CONNECTIONS = 64
BODIES = 1_024
SUBJECT, METHOD = "items.echo", "/bench.Items/Echo"
NATS, JETSTREAM, ZMQ, FASTAPI, GRPC = "NATS", "NATS JetStream", "ZeroMQ", "FastAPI on uvicorn", "gRPC aio"
PACKAGES = {"zmq": "pyzmq", "fastapi": "fastapi", "grpc": "grpcio"}
REQUESTS, COMMANDS = {NATS: 4.0, ZMQ: 4.0, GRPC: 30.0}, {JETSTREAM: 1.5}
IN_PROCESS = {"autogen_core": "autogen-core", "faststream": "FastStream, broker in memory"}
DISPATCH = 50.0


class Served(msgspec.Struct, frozen=True):
    """What runs. ``ports`` and ``servers`` are by the names of :mod:`ksi.bench.peer_servers`."""

    home: Path
    ksi: Server
    nats: NatsServer | None
    ports: dict[str, int]
    servers: dict[str, list[Server]]


@contextmanager
def rows(directory: Path, *, count: int) -> Iterator[list[Row]]:
    absent = nats_server.missing() + [package for name, package in PACKAGES.items() if find_spec(name) is None]
    with ExitStack() as stack:
        served = _served(stack, directory)
        yield [
            Row(f"peers: request / reply, {IN_FLIGHT} in flight", list(_prepared(served, count)), absent, floor="KSI"),
            Row(f"peers: request / reply, {CONNECTIONS} connections", list(_connections(served, count)), floor="KSI"),
            Row(f"peers: Python clients, {IN_FLIGHT} at once", list(_written(served, count // 10)), floor="KSI"),
            Row(f"peers: stored, Python clients, {IN_FLIGHT} at once", list(_stored(served, count // 10)), floor="KSI"),
            _in_process(count),
        ]


def _served(stack: ExitStack, directory: Path) -> Served:
    """Everybody who is installed, started."""
    home = directory / "home"
    daemon = ["ksi.daemon", "--home", str(home), "--plugin", "ksi.bench.plugin:Bench"]
    served = Served(home, stack.enter_context(wire.server(daemon, home / "daemon.sock")), None, {}, {})
    for name in PACKAGES:
        if find_spec(name):
            _serve(stack, directory, served, name)
    if nats_server.missing():
        return served
    nats = stack.enter_context(nats_server.nats_server(directory / "nats"))
    _serve(stack, directory, served, "nats", nats.url)
    served.servers["nats"].append(Server(nats.pid, directory))
    return msgspec.structs.replace(served, nats=nats)


def _serve(stack: ExitStack, directory: Path, served: Served, name: str, *words: str) -> None:
    ready = directory / f"{name}.port"
    server = stack.enter_context(wire.server(["ksi.bench.peer_servers", name, str(ready), *words], ready))
    served.servers[name] = [server]
    served.ports[name] = int(ready.read_text())


def _sampled(servers: Sequence[Server], run: Callable[[], float], count: int) -> Sample:
    before = sum(server.cpu_seconds() for server in servers)
    seconds = run()
    spent = sum(server.cpu_seconds() for server in servers) - before
    return Sample(count / seconds, spent / count * 1e6)


def _contestant(
    name: str, servers: Sequence[Server], run: Callable[[int], float], count: int, against: dict[str, float]
) -> Contestant:
    count = max(IN_FLIGHT, count // IN_FLIGHT * IN_FLIGHT)
    return Contestant(
        name, lambda: _sampled(servers, lambda: run(count), count), against=against, is_ours=name == "KSI"
    )


def _bodies() -> list[bytes]:
    return [msgspec.json.encode(item(number)) for number in range(BODIES)]


def _frames(event: str) -> list[bytes]:
    frames = ({"id": number, "event": event, "data": item(number)} for number in range(BODIES))
    return [msgspec.json.encode(frame) + b"\n" for frame in frames]


def _prepared(served: Served, count: int) -> Iterator[Contestant]:
    """One connection, prepared bytes."""
    frames, bodies, ports, servers = _frames("bench:echo_async"), _bodies(), served.ports, served.servers

    def ksi(count: int) -> float:
        return peer_load.lines(served.ksi.path, frames, window=IN_FLIGHT, count=count)

    def nats(count: int) -> float:
        assert served.nats is not None
        return peer_load.nats(served.nats.port, SUBJECT, bodies, window=IN_FLIGHT, count=count)

    def zmq(count: int) -> float:
        return peer_load.zmq(ports["zmq"], bodies, window=IN_FLIGHT, count=count)

    def grpc(count: int) -> float:
        return peer_load.grpc(ports["grpc"], METHOD, bodies, window=IN_FLIGHT, count=count)

    yield _contestant("KSI", [served.ksi], ksi, count, REQUESTS)
    if served.nats is not None:
        yield _contestant(NATS, servers["nats"], nats, count // 8, {})
    if "zmq" in servers:
        yield _contestant(ZMQ, servers["zmq"], zmq, count // 8, {})
    if "grpc" in servers:
        yield _contestant(GRPC, servers["grpc"], grpc, count // 40, {})


def _connections(served: Served, count: int) -> Iterator[Contestant]:
    """Many connections with one request each, for HTTP has no more of them."""
    frames, bodies = _frames("bench:model_async"), _bodies()

    def ksi(count: int) -> float:
        return line_requests(served.ksi.path, frames, connections=CONNECTIONS, count=count)

    def fastapi(count: int) -> float:
        return posts(Target(served.ports["fastapi"]), "/echo", bodies, connections=CONNECTIONS, count=count)

    yield _contestant("KSI", [served.ksi], ksi, count // 2, {FASTAPI: 20.0})
    if "fastapi" in served.servers:
        yield _contestant(FASTAPI, served.servers["fastapi"], fastapi, count // 40, {})


def _written(served: Served, count: int) -> Iterator[Contestant]:
    """Clients of the libraries themselves; no targets, for most of what is measured is the client."""
    body, ports, nats = _bodies()[0], served.ports, served.nats

    def client(run: Callable[..., Coroutine[Any, Any, float]], *words: Any) -> Callable[[int], float]:
        return lambda count: uvloop.run(run(*words, at_once=IN_FLIGHT, count=count))

    yield _contestant("KSI", [served.ksi], client(peer_clients.ksi, served.home, "bench:echo_async"), count, {})
    if nats is not None:
        yield _contestant(NATS, served.servers["nats"], client(peer_clients.nats, nats.url, SUBJECT, body), count, {})
    if "grpc" in ports:
        grpc = client(peer_clients.grpc, ports["grpc"], METHOD, body)
        yield _contestant(GRPC, served.servers["grpc"], grpc, count // 4, {})


def _stored(served: Served, count: int) -> Iterator[Contestant]:
    """KSI answers when it is on disk, JetStream before that."""
    nats, body = served.nats, _bodies()[0]

    def ksi(count: int) -> float:
        return uvloop.run(peer_clients.ksi(served.home, "bench:put_async", at_once=IN_FLIGHT, count=count))

    yield _contestant("KSI", [served.ksi], ksi, count, COMMANDS)
    if nats is not None:
        server = [Server(nats.pid, served.home)]

        def jetstream(count: int) -> float:
            return uvloop.run(peer_clients.jetstream(nats.url, body, at_once=IN_FLIGHT, count=count))

        yield _contestant(JETSTREAM, server, jetstream, count, {})


def _in_process(count: int) -> Row:
    against = dict.fromkeys(IN_PROCESS.values(), DISPATCH)
    ksi = [
        Contestant("KSI, msgspec, inline", partial(_dispatched, "bench:echo_inline", count), against=against),
        Contestant("KSI, pydantic, async", partial(_dispatched, "bench:model_async", count)),
    ]
    others = [
        rival(name, partial(_in_memory, module, max(IN_FLIGHT, count // 100)))
        for module, name in IN_PROCESS.items()
        if find_spec(module)
    ]
    absent = [name for module, name in IN_PROCESS.items() if not find_spec(module)]
    return Row("peers: dispatch in the process", [*ksi, *others], absent, floor="KSI inline")


def _dispatched(event: str, count: int) -> Sample:
    return uvloop.run(dispatch.kernel(event, count))


def _in_memory(module: str, count: int) -> Sample:
    peer = import_module(f"ksi.bench.peer_{module.partition('_')[0]}")
    sample: Sample = uvloop.run(peer.run(count))
    return sample
