"""A socket between the log and PostgreSQL that loses an answer: what was asked for is done, and nobody learns of it."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from socketserver import BaseRequestHandler, ThreadingUnixStreamServer
from threading import Event, Thread

SOCKET = ".s.PGSQL.5432"
BYTES_MAX = 1 << 16


class Severing(ThreadingUnixStreamServer):
    """Passes all on, until :attr:`wanted` comes from a client: its answer is lost, and the connection with it."""

    daemon_threads = True

    def __init__(self, server: Path, directory: Path) -> None:
        super().__init__(str(directory / SOCKET), Passing)
        self.upstream = str(server / SOCKET)
        self.wanted: bytes | None = None
        self.severed = 0

    def is_wanted(self, data: bytes) -> bool:
        if self.wanted is None or self.wanted not in data:
            return False
        self.wanted = None
        self.severed += 1
        return True


class Passing(BaseRequestHandler):
    """One connection."""

    server: Severing

    def handle(self) -> None:
        lost = Event()
        with socket.socket(socket.AF_UNIX) as upstream, suppress(OSError):
            upstream.connect(self.server.upstream)
            answers = Thread(target=self._answers, args=(upstream, lost))
            answers.start()
            while data := self.request.recv(BYTES_MAX):
                if self.server.is_wanted(data):
                    lost.set()
                upstream.sendall(data)
            upstream.shutdown(socket.SHUT_RDWR)
            answers.join()

    def _answers(self, upstream: socket.socket, lost: Event) -> None:
        with suppress(OSError):
            while (data := upstream.recv(BYTES_MAX)) and not lost.is_set():
                self.request.sendall(data)
            self.request.shutdown(socket.SHUT_RDWR)  # where it is lost the server has answered: so it is done


@contextmanager
def severing(server: Path, directory: Path) -> Iterator[Severing]:
    """Listens in ``directory`` as the server does in its own."""
    with Severing(server, directory) as proxy:
        Thread(target=proxy.serve_forever, daemon=True).start()
        try:
            yield proxy
        finally:
            proxy.shutdown()
