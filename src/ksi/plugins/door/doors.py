"""The two kinds of doors: one passes on and records, the other serves what is recorded."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from functools import partial
from typing import Any, Protocol

import msgspec

from ksi.core.envelope import EventEnvelope
from ksi.core.errors import CancelledError, KSIError, ReplayDivergenceError
from ksi.kernel.door import Session
from ksi.kernel.pulled import Pulled
from ksi.kernel.resume import ended
from ksi.kernel.router import Router
from ksi.plugins.door.matching import Memory, Recorded
from ksi.plugins.door.past import parts_of
from ksi.plugins.door.shapes import CALL, Asked, Diverged, Part, Upstreams, changed
from ksi.plugins.door.unsaid import Unsaid

DIVERGENCES_MAX = 100
"""That are told; the rest is counted."""


class Change(msgspec.Struct, frozen=True):
    """What a what-if does with the recorded call ``id``: its body gets other values."""

    id: bytes
    fields: Mapping[str, Any]


class Door(Protocol):
    """Answers the requests of one script."""

    run: str

    def answer(self, asked: Asked, unsaid: Unsaid) -> AsyncGenerator[Part, None]:
        """The answer as it comes; closing it means that the script has left.

        Raises:
            KSIError: There is none, or no more.
        """


class RecordingDoor:
    """Asks for a ``door:call`` in the run of the one who opened it. While one runs it keeps what is not recorded."""

    def __init__(
        self, router: Router, opener: EventEnvelope, upstreams: Upstreams, memory: Memory, change: Change | None
    ) -> None:
        self.run = opener.correlation_id
        self.principal = opener.principal
        self.upstreams = upstreams
        self.memory = memory
        self.change = change
        self.unsaid: dict[bytes, Unsaid] = {}
        self.ended: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self.calls = 0
        self.served = 0
        self._router = router
        self._opener = opener
        self._session = Session(principal=self.principal, source="door")

    async def answer(self, asked: Asked, unsaid: Unsaid) -> AsyncGenerator[Part, None]:
        """See :class:`Door`."""
        self.calls += 1
        envelope = EventEnvelope.create(
            CALL, asked, "door", principal=self.principal, branch=self._opener.branch,
            correlation=self.run,
        )  # fmt: skip
        self.unsaid[envelope.event_id] = unsaid
        chunks = Pulled().chunks(partial(self._router.open_stream, envelope, self._session))
        try:
            async with aclosing(chunks):
                async for chunk in chunks:
                    yield msgspec.convert(chunk, Part)
        finally:
            del self.unsaid[envelope.event_id]

    def changed(self, asked: Asked, recorded: Recorded | None) -> Asked:
        """As it goes upstream."""
        if self.change is None or recorded is None or recorded.id != self.change.id:
            return asked
        return changed(asked, self.change.fields)


class ReplayDoor:
    """Serves the calls of a run. It has no way out."""

    def __init__(self, router: Router, run: str, memory: Memory, branch: str) -> None:
        self.run = run
        self.memory = memory
        self.diverged: asyncio.Queue[Diverged] = asyncio.Queue(DIVERGENCES_MAX)
        self.calls = 0
        self.divergences = 0
        self._router = router
        self._branch = branch

    async def answer(self, asked: Asked, unsaid: Unsaid) -> AsyncGenerator[Part, None]:
        """See :class:`Door`. A call that broke off breaks off again; one that its script left waits for that."""
        recorded = self.memory.take(asked)
        if recorded is None:
            raise self._divergence(asked)
        self.calls += 1
        async for part in parts_of(self._router.journal, recorded.id, branch=self._branch):
            yield part
        outcome = (await self._router.known_request(recorded.id)).outcome
        error = None if outcome is None else ended(outcome)[1]
        if isinstance(error, CancelledError):
            await asyncio.get_running_loop().create_future()
        elif error is not None:
            raise error

    def _divergence(self, asked: Asked) -> KSIError:
        nearest = self.memory.nearest(asked)
        self.divergences += 1
        position = nearest.position if nearest else 0
        recorded = nearest.asked.shown() if nearest else None
        if self.divergences <= DIVERGENCES_MAX:
            self.diverged.put_nowait(Diverged(position=position, recorded=recorded, requested=asked.shown()))
        return ReplayDivergenceError(position, recorded=recorded, requested=asked.shown())
