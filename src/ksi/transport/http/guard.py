"""Who may come in: by which name the daemon was asked, from which page, and with which token.

A web page can make a browser send requests to any address, under a name that its owner lets point to this machine (DNS
rebinding). Such a request has that name as its ``Host``, and the page as its ``Origin``; both are refused before the
token is looked at.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from ksi.core.errors import MisdirectedError, UnauthorizedError
from ksi.kernel.door import Session
from ksi.transport.tokens import Identity, TokenStore

LOOPBACK = ("localhost", "127.0.0.1", "::1")
SESSIONS_MAX = 1_024
_BEARER = b"bearer "
_NO_ORIGIN = (b"", b"same-origin", b"none")


class Guard:
    """Lets requests in, each with the session of who sent it."""

    def __init__(self, tokens: TokenStore, hosts: Iterable[str]) -> None:
        """``hosts`` are the names that the daemon has beside the loopback ones."""
        self._tokens = tokens
        self._hosts = {name.lower() for name in (*LOOPBACK, *hosts)}
        self._sessions: dict[str, Session] = {}

    def refuse_foreign(self, headers: Mapping[bytes, bytes]) -> None:
        """Raises MisdirectedError where another host was meant, or a page of another one asks."""
        host = headers.get(b"host", b"").decode("latin-1").lower()
        if _name(host) not in self._hosts:
            raise MisdirectedError("host", host)
        origin = headers.get(b"origin")
        if origin is not None and origin.decode("latin-1").lower() not in (f"http://{host}", f"https://{host}"):
            raise MisdirectedError("origin", origin.decode("latin-1"))
        if headers.get(b"sec-fetch-site", b"") not in _NO_ORIGIN:
            raise MisdirectedError("site", headers[b"sec-fetch-site"].decode("latin-1"))

    def token_of(self, headers: Mapping[bytes, bytes]) -> str | None:
        """The bearer token among ``headers``, or where Anthropic's package sends its key."""
        given = headers.get(b"authorization", b"")
        if given[: len(_BEARER)].lower() == _BEARER:
            return given[len(_BEARER) :].strip().decode("latin-1")
        return headers[b"x-api-key"].decode("latin-1") if b"x-api-key" in headers else None

    def principal_of(self, token: str | None) -> str:
        """Who sent ``token``. Raises UnauthorizedError."""
        return self._identity_of(token).principal

    def _identity_of(self, token: str | None) -> Identity:
        if not token:
            raise UnauthorizedError("no token: send `Authorization: Bearer …` with what `ksi token` prints")
        return self._tokens.verify(token)

    def session_of(self, headers: Mapping[bytes, bytes]) -> Session:
        """The session of who sent ``headers``. Raises UnauthorizedError.

        All requests with one token share it, for it remembers verdicts, and another token may bring another profile.
        """
        identity = self._identity_of(self.token_of(headers))
        session = self._sessions.get(identity.token_id)
        if session is None:
            if len(self._sessions) >= SESSIONS_MAX:
                self._sessions.clear()  # only what it remembers is lost
            session = self._sessions[identity.token_id] = Session(principal=identity.principal, source="http")
        return session


def _name(host: str) -> str:
    """The host of ``host:port``, free of the brackets of an IPv6 address."""
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0]
