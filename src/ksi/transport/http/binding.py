"""Where HTTP may listen. Without starlette and uvicorn: a wrong configuration is found before they are loaded."""

from __future__ import annotations

import ipaddress
import socket

from ksi.core.config import HttpSection
from ksi.core.errors import ConfigError

BACKLOG = 2_048
WILDCARDS = ("0.0.0.0", "::")  # noqa: S104  # names that nobody asks for
SEND_BUFFER_BYTES = 128 << 10
"""What the system holds for a reader that stops: at its own choice it would be megabytes, and thousands of tokens."""


def refuse_open(section: HttpSection) -> None:
    """Raises ConfigError where tokens would cross a network in the clear, and nobody said that they may."""
    if is_loopback(section.host) or section.certificate is not None or section.expose:
        return
    message = (
        f"{section.host} is not this machine alone: set http.certificate and http.certificate_key, or http.expose=true "
        "where something in front of it does TLS"
    )
    raise ConfigError(message, where="http.host")


def is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def bound(host: str, port: int) -> socket.socket:
    """A socket that listens nowhere yet.

    Raises:
        ConfigError: The port is taken, or the host is none of this machine.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        # With its protocol: without, plain asyncio does not turn Nagle's algorithm off, at 40 ms a request.
        listening = socket.socket(family, kind, protocol)
    except OSError as error:
        raise ConfigError(f"no such host: {error.strerror}", where="http.host") from None
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
        listening.bind(address)
    except OSError as error:
        listening.close()
        raise ConfigError(f"{host}:{port}: {error.strerror}", where="http.port") from None
    return listening
