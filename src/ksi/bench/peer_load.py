"""Clients of the peers that send prepared bytes and count answers: what they cost is nearly nothing, on every side."""

from __future__ import annotations

import socket
from collections.abc import Callable, Sequence
from pathlib import Path
from time import perf_counter

from ksi.bench.load import count_lines, pump

HOST = "127.0.0.1"
_SETTINGS, _ACKNOWLEDGED, _HEADERS, _DATA, _WINDOW = 4, 1, 1, 0, 8
_END_STREAM, _END_HEADERS = 1, 4
_FRAME_HEAD = 9
_WIDE = (1 << 31) - 1 - 65_535
"""What a connection of HTTP/2 may be granted beyond its first window: nobody need grant more."""


def lines(path: Path, requests: Sequence[bytes], *, window: int, count: int) -> float:
    """KSI's own protocol over its Unix socket."""
    with socket.socket(socket.AF_UNIX) as peer:
        peer.connect(str(path))
        return pump(peer, requests, count_lines, window=window, count=count)


# ── NATS ─────────────────────────────────────────────────────────────────────────────────────────────────────────────
def nats(port: int, subject: str, bodies: Sequence[bytes], *, window: int, count: int) -> float:
    """Each request names the same inbox: what comes there is counted, not told apart."""
    head = f"PUB {subject} answers ".encode()
    requests = [b"%b%d\r\n%b\r\n" % (head, len(body), body) for body in bodies]
    with socket.create_connection((HOST, port)) as peer:
        peer.sendall(b'CONNECT {"verbose":false}\r\nSUB answers 1\r\nPING\r\n')
        _read_until(peer, b"PONG\r\n")
        return pump(peer, requests, marks(b"MSG answers "), window=window, count=count)


def marks(mark: bytes) -> Callable[[bytes], int]:
    """Counts ``mark``, also where it is cut in two."""
    rest = b""

    def heard(received: bytes) -> int:
        nonlocal rest
        seen = rest + received
        rest = seen[1 - len(mark) :]
        return seen.count(mark)

    return heard


# ── gRPC ─────────────────────────────────────────────────────────────────────────────────────────────────────────────
def grpc(port: int, path: str, bodies: Sequence[bytes], *, window: int, count: int) -> float:
    """Calls over one connection of HTTP/2; their headers are literals, so that they are the same each time."""
    head = b"\x83\x86" + _literal(b"\x04", path.encode()) + _literal(b"\x01", b"localhost")
    head += _literal(b"\x0f\x10", b"application/grpc") + b"\x00" + _text(b"te") + _text(b"trailers")
    requests = [_call(1 + 2 * number, head, bodies[number % len(bodies)]) for number in range(count)]
    with socket.create_connection((HOST, port)) as peer:
        peer.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + _frame(_SETTINGS, 0, 0, b""))
        peer.sendall(_frame(_WINDOW, 0, 0, _WIDE.to_bytes(4, "big")) + _frame(_SETTINGS, _ACKNOWLEDGED, 0, b""))
        return pump(peer, requests, GrpcAnswers(), window=window, count=count)


class GrpcAnswers:
    """Counts the trailers with which calls end. Raises RuntimeError where one ends without a message."""

    def __init__(self) -> None:
        self._rest = b""
        self._messages = 0

    def __call__(self, received: bytes) -> int:
        data, at, ended = self._rest + received, 0, 0
        while len(data) - at >= _FRAME_HEAD:
            size = int.from_bytes(data[at : at + 3], "big")
            if len(data) - at < _FRAME_HEAD + size:
                break
            kind, flags = data[at + 3], data[at + 4]
            self._messages += kind == _DATA and size > 0
            ended += kind == _HEADERS and flags & _END_STREAM
            at += _FRAME_HEAD + size
        self._rest = data[at:]
        self._messages -= ended
        if self._messages < 0:
            raise RuntimeError("a call ended with an error")
        return ended


def _call(stream: int, head: bytes, body: bytes) -> bytes:
    message = b"\x00" + len(body).to_bytes(4, "big") + body
    return _frame(_HEADERS, _END_HEADERS, stream, head) + _frame(_DATA, _END_STREAM, stream, message)


def _frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return len(payload).to_bytes(3, "big") + bytes((kind, flags)) + stream.to_bytes(4, "big") + payload


def _literal(name: bytes, value: bytes) -> bytes:
    """A header that no table keeps; ``name`` is its index in HPACK's table."""
    return name + _text(value)


def _text(value: bytes) -> bytes:
    return bytes((len(value),)) + value


# ── ZeroMQ ───────────────────────────────────────────────────────────────────────────────────────────────────────────
def zmq(port: int, bodies: Sequence[bytes], *, window: int, count: int) -> float:
    """Its own protocol is left to its library in C, which costs as little."""
    from zmq import DEALER, Context  # an extra

    with Context() as context, context.socket(DEALER) as dealer:
        dealer.connect(f"tcp://{HOST}:{port}")
        begin = perf_counter()
        for number in range(min(window, count)):
            dealer.send(bodies[number % len(bodies)])
        for number in range(window, count + window):
            dealer.recv()
            if number < count:
                dealer.send(bodies[number % len(bodies)])
        return perf_counter() - begin


def _read_until(peer: socket.socket, end: bytes) -> None:
    said = b""
    while not said.endswith(end):
        received = peer.recv(1 << 16)
        if not received:
            raise RuntimeError(f"the connection was closed: {said!r}")
        said += received
