"""Requests and streams over HTTP and WebSocket, with everything on, beside bare starlette on uvicorn."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from time import monotonic, sleep

import msgspec

from ksi.bench import http_load, wire
from ksi.bench.http_load import Target
from ksi.bench.load import Load
from ksi.bench.measure import Contestant, Row, Sample, rival
from ksi.bench.plugin import item
from ksi.bench.wire import Server

CONNECTIONS, IN_FLIGHT, STREAMS = 64, 64, 8
BODIES = 1_024
EVENT = "bench:echo_inline"


@contextmanager
def rows(directory: Path, *, count: int) -> Iterator[list[Row]]:
    """Rows over running servers."""
    load = Load.build(directory)
    with servers(directory, []) as (bare, bare_at, ksi, ksi_at):

        def contestant(name: str, run: Callable[[], float], operations: int) -> Contestant:
            return Contestant(name, lambda: sampled(ksi, run, operations))

        def floor(name: str, run: Callable[[], float], operations: int) -> Contestant:
            return rival(name, lambda: sampled(bare, run, operations))

        def socket(at: Target, path: str) -> Callable[[], float]:
            texts = [frame(number) for number in range(BODIES)]
            return lambda: http_load.socket_requests(at, path, texts, window=IN_FLIGHT, count=count)

        def posts(at: Target, path: str) -> Callable[[], float]:
            bodies = [msgspec.json.encode(item(number)) for number in range(BODIES)]
            return lambda: http_load.posts(at, path, bodies, connections=CONNECTIONS, count=count // 4)

        each = count // STREAMS
        streamed = ksi_at.request("POST", "/v1/stream/bench:chunks", msgspec.json.encode({"to": each}))
        bare_streamed = bare_at.request("GET", f"/chunks?to={each}")
        lines = directory / "lines"
        lines.write_bytes(b"".join(frame(number) + b"\n" for number in range(BODIES * 32)))
        unix = ksi.path

        yield [
            Row(
                f"http: query, {CONNECTIONS} connections",
                [
                    floor("starlette on uvicorn, echo", posts(bare_at, "/echo"), count // 4),
                    contestant("POST /v1/events", posts(ksi_at, f"/v1/events/{EVENT}"), count // 4),
                ],
            ),
            Row(
                f"http: query, one connection, {IN_FLIGHT} in flight",
                [
                    floor("WebSocket, starlette on uvicorn, echo", socket(bare_at, "/ws"), count),
                    contestant("WebSocket /v1/ws", socket(ksi_at, "/v1/ws"), count),
                    contestant("Unix socket", lambda: load.run(unix, lines, window=IN_FLIGHT, count=count), count),
                ],
            ),
            Row(
                f"http: chunks of a stream, {STREAMS} readers",
                [
                    floor(
                        "starlette on uvicorn, SSE",
                        lambda: http_load.chunks(bare_at, bare_streamed, connections=STREAMS),
                        each * STREAMS,
                    ),
                    contestant(
                        "POST /v1/stream, SSE",
                        lambda: http_load.chunks(ksi_at, streamed, connections=STREAMS),
                        each * STREAMS,
                    ),
                ],
            ),
        ]


def frame(number: int) -> bytes:
    """A request of the wire protocol; its id comes again long after its answer."""
    return msgspec.json.encode({"id": number, "event": EVENT, "data": item(number)})


@contextmanager
def servers(directory: Path, words: list[str]) -> Iterator[tuple[Server, Target, Server, Target]]:
    """The floor and a daemon, each with the way to it. ``words`` choose the floor."""
    home, port_file = directory / "home", directory / "floor.port"
    with ExitStack() as stack:
        bare = stack.enter_context(wire.server(["ksi.bench.http_floor", *words, str(port_file)], port_file))
        daemon = ["ksi.daemon", "--home", str(home), "--plugin", "ksi.bench.plugin:Bench", "--set=http.port=0"]
        ksi = stack.enter_context(wire.server(daemon, home / "daemon.sock"))
        said = msgspec.json.decode(_read(home / "http.json"))
        token = (home / "token").read_text().strip()
        at = Target(int(said["url"].rpartition(":")[2]), token)
        yield bare, Target(int(_read(port_file))), ksi, at


def sampled(server: Server, run: Callable[[], float], operations: int) -> Sample:
    """One repetition."""
    before = server.cpu_seconds()
    seconds = run()
    return Sample(operations / seconds, (server.cpu_seconds() - before) / operations * 1e6)


def _read(file: Path) -> bytes:
    """What stands in a file, once something does."""
    until = monotonic() + 30
    while not (content := file.read_bytes() if file.exists() else b""):
        if monotonic() > until:
            sys.exit(f"ksi bench: nothing listens: {file} is not written")
        sleep(0.02)
    return content
