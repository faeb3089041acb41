"""The door: what a transport gives to the router and what it gets from it.

A transport turns bytes into an envelope, hands it over with the session that asked, and is called back. Callbacks come
on the loop; ``done`` may come before ``dispatch`` returns (a query that does not wait).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

import msgspec

from ksi.core.envelope import EventEnvelope
from ksi.core.errors import KSIError
from ksi.core.ports import ReplyChannel
from ksi.wire.typed import TypedFrames


class Session(msgspec.Struct, kw_only=True, eq=False):
    """Who asks, and from where: one for each connection, living as long as it."""

    principal: str
    source: str
    reply_channel: ReplyChannel | None = None
    cache: dict[str, Any] = {}
    """Whatever middleware keeps for this session (verdicts, rate); gone with it."""


Done = Callable[[Any, bytes | None, KSIError | None], None]
"""``done(token, answer as JSON, None)`` or ``done(token, None, error)``: exactly once for each dispatch."""


class Call(Protocol):
    """A request under way."""

    def cancel(self) -> None:
        """Stop it; ``done`` or ``end`` still comes. Ignored when it has ended."""


class StreamCall(Call, Protocol):
    """A stream under way."""

    @property
    def stream(self) -> str | None:
        """The recorded stream that holds its chunks; "" where they are not recorded, None where only an end comes."""

    def grant(self, credit: int) -> None:
        """``credit`` more chunks, please."""

    def disconnected(self) -> None:
        """The reader is gone, no callback follows: its work waits to be resumed or goes on, as the event declares."""


class Sink(Protocol):
    """Where a stream goes."""

    def opened(self, at: str) -> None:
        """It gives what comes behind ``at``: where to go on for whoever loses it before its first chunk."""

    def chunk(self, at: str | None, raw: bytes) -> None:
        """A chunk that is on disk; ``at`` is its durable address (None where the stream is not recorded)."""

    def gap(self, info: Mapping[str, Any]) -> None:
        """Chunks were dropped here, as the subscriber wanted."""

    def end(self, raw: bytes | None, error: KSIError | None) -> None:
        """The last call: the end value's JSON, or an error."""


class Target(Protocol):
    """An event that a typed frame asks for."""

    name: str
    answer_now: Callable[[EventEnvelope, Session, Done, Any], bytes | None] | None
    """Set where nothing waits: the answer's JSON; or None, where ``done`` was called instead, or is about to be."""

    def dispatch(self, envelope: EventEnvelope, session: Session, done: Done, token: Any) -> Call | None:
        """As :meth:`Door.dispatch`."""


class Door(Protocol):
    """Implemented by the router."""

    frames: TypedFrames
    """Reads requests of events that were asked for before; their target is a :class:`Target`."""

    def learn(self, name: str) -> None:
        """Read requests of ``name`` in one pass from now on, where there is such an event."""

    def dispatch(self, envelope: EventEnvelope, session: Session, done: Done, token: Any) -> Call | None:
        """Answer one request. None: it can not be cancelled, for ``done`` was called already, or is about to be."""

    def accept(self, envelope: EventEnvelope, session: Session, done: Done, token: Any) -> None:
        """Record a request and start it; ``done`` gets ``{"event_id", "correlation_id"}`` once it is on disk.

        It runs on whatever becomes of the connection.
        """

    def open_stream(self, envelope: EventEnvelope, session: Session, sink: Sink, credit: int) -> StreamCall:
        """Answer in chunks. An event that does not stream answers with its end value only."""

    def cancel(self, event_id: bytes, session: Session) -> bool:
        """Cancel what ``session``'s principal asked for under this id; its end still comes. False: nothing runs."""

    def resume(self, address: str, session: Session, sink: Sink, credit: int) -> StreamCall:
        """The chunks after ``address`` (``stream@version``), then live, then the end; never a second run."""
