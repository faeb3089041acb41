"""Tokens that count no more: who came in with one has to leave, also where it sends nothing any more."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from ksi.core.errors import UnauthorizedError

CHECK_EVERY = 1.0
"""Seconds in which a token that was revoked, or has expired, is found out."""
Lapsed = Callable[[UnauthorizedError], None]


class Tokens:
    """Who has which token, and who wants to hear of its end. One timer for all, none where nobody does."""

    def __init__(self, principal_of: Callable[[str], str]) -> None:
        """``principal_of`` raises UnauthorizedError."""
        self.principal_of = principal_of
        self._watched: dict[str, set[Lapsed]] = {}
        self._timer: asyncio.TimerHandle | None = None

    def watch(self, token: str, lapsed: Lapsed) -> Callable[[], None]:
        """Call ``lapsed`` once when ``token`` counts no more; to call the answer ends that."""
        self._watched.setdefault(token, set()).add(lapsed)
        self._check_later()
        return lambda: self._forget(token, lapsed)

    def _forget(self, token: str, lapsed: Lapsed) -> None:
        watching = self._watched.get(token, set())
        watching.discard(lapsed)
        if not watching:
            self._watched.pop(token, None)
        if not self._watched and self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _check_later(self) -> None:
        if self._timer is None and self._watched:
            self._timer = asyncio.get_running_loop().call_later(CHECK_EVERY, self._check)

    def _check(self) -> None:
        self._timer = None
        try:
            for token in list(self._watched):
                self._tell_if_lapsed(token)
        finally:
            self._check_later()

    def _tell_if_lapsed(self, token: str) -> None:
        try:
            self.principal_of(token)
        except UnauthorizedError as error:
            for lapsed in self._watched.pop(token):
                lapsed(error)
