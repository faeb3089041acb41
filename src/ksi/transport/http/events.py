"""Requests: ``POST /v1/events/NAME`` for all of them, ``GET`` with a query string for those that only read."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

import msgspec

from ksi.core import ids
from ksi.core.envelope import EventEnvelope
from ksi.core.errors import InvalidFrameError, KSIError, NotFoundError, PayloadTooLargeError, ValidationError
from ksi.core.threads import settle
from ksi.kernel.door import Call
from ksi.kernel.registry import EventRegistry
from ksi.transport.connection import Common
from ksi.transport.envelopes import envelope_of
from ksi.transport.http import cloudevents, query
from ksi.transport.http.exchange import JSON, Answer, Exchange
from ksi.transport.http.problems import NotReadOnlyError, UnsupportedMediaError
from ksi.wire.frames import Head, id_bytes

METADATA = {
    b"idempotency-key": "event_id",
    b"ksi-correlation-id": "correlation_id",
    b"ksi-causation-id": "causation_id",
    b"ksi-branch": "branch",
    b"ksi-priority": "priority",
    b"ksi-timeout": "timeout",
    b"ksi-subject": "subject",
    b"traceparent": "traceparent",
}
"""Headers that say what stands beside the payload in a frame of the wire."""
_NOTHING_SAID = Head()


class Requests:
    """Makes envelopes of HTTP requests and answers them."""

    def __init__(self, common: Common, registry: EventRegistry) -> None:
        self.door = common.door
        self.limits = common.limits
        self.tokens = common.tokens
        self._budget = common.budget
        self._clock = common.clock
        self._registry = registry

    # ── endpoints ────────────────────────────────────────────────────────────────────────────────────────────────────
    async def post(self, exchange: Exchange) -> None:
        """Answer one request of any event."""
        envelope = await self.posted(exchange, exchange.parameter("name"))
        if b"respond-async" in exchange.headers.get(b"prefer", b""):
            await self._accept(exchange, envelope)
            return
        raw = await self.ask(exchange, envelope)
        await exchange.answer(_answer(exchange, envelope, raw))

    async def get(self, exchange: Exchange) -> None:
        """Answer a query. Raises NotReadOnlyError, for streams too: their GET is another path."""
        name = exchange.parameter("name")
        if name in self._registry.events and not self.is_query(name):
            raise NotReadOnlyError(name)
        envelope = self.queried(exchange, name)
        raw = await self.ask(exchange, envelope)
        await exchange.answer(_answer(exchange, envelope, raw))

    async def cancel(self, exchange: Exchange) -> None:
        """Cancel what its sender asked for under an id, for whom to hang up is not enough."""
        event_id = exchange.parameter("event_id")
        if not self.door.cancel(id_bytes(event_id, field="event_id"), exchange.session):
            raise NotFoundError("request", event_id)
        await exchange.answer(Answer(status=202, body=b"{}"))

    # ── envelopes ────────────────────────────────────────────────────────────────────────────────────────────────────
    async def posted(self, exchange: Exchange, name: str) -> EventEnvelope:
        """The envelope of a request of event ``name`` with a body.

        Raises:
            UnsupportedMediaError: It is neither JSON nor a CloudEvent.
            ValidationError: It is no CloudEvent 1.0, or one of another event.
            InvalidFrameError: A header is wrong.
        """
        body = await exchange.body(self.limits.frame_bytes_max)
        match exchange.media:
            case cloudevents.MEDIA:
                return cloudevents.from_structured(body, name, exchange.session)
            case b"application/json" if cloudevents.is_binary(exchange.headers):
                return cloudevents.from_binary(exchange.headers, body, name, exchange.session)
            case b"application/json":
                if body.strip() == b"null":  # in a frame it stands for no fields; a body that has none is left out
                    raise ValidationError(f"{name}: the body is an object, not null")
                return self._envelope(exchange, name, body or b"{}")
            case b"" if not body:
                return self._envelope(exchange, name, b"{}")
            case other:
                raise UnsupportedMediaError(other.decode("latin-1"))

    def queried(self, exchange: Exchange, name: str, fixed: Mapping[str, str] | None = None) -> EventEnvelope:
        """The envelope of a request whose payload is its query string, and what ``fixed`` says.

        Raises:
            NotReadOnlyError: The event is more than a query: whoever repeats a GET would do it twice.
        """
        spec = self._registry.events.get(name)
        if spec is None:
            return self._envelope(exchange, name, b"{}")  # the door knows what to say of it
        if spec.declaration.durability != "none":
            raise NotReadOnlyError(name)
        payload = query.payload_of(exchange.query, spec.payload.schema(), fixed or {})
        return self._envelope(exchange, name, payload)

    def _envelope(self, exchange: Exchange, name: str, raw: bytes) -> EventEnvelope:
        return envelope_of(name, msgspec.Raw(raw), _head(exchange.headers), exchange.session, self._clock)

    # ── the door ─────────────────────────────────────────────────────────────────────────────────────────────────────
    async def ask(self, exchange: Exchange, envelope: EventEnvelope, limit: int | None = None) -> bytes:
        """The answer's JSON. A query whose client leaves is cancelled; a command is done all the same.

        Args:
            limit: Of the answer, in bytes; None: that of a frame, so that all doors answer alike.

        Raises:
            Gone: The client left.
            KSIError: What the handler raised, or the door.
        """
        answer: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        size = len(envelope.raw)
        self.hold(size)
        try:
            call = self.door.dispatch(envelope, exchange.session, _settle, answer)
            raw = await self._awaited(exchange, envelope, answer, call)
        finally:
            self.release(size)
        limit = limit or self.limits.frame_bytes_max
        if len(raw) > limit:
            raise PayloadTooLargeError("answer", size=len(raw), limit=limit)
        return raw

    async def _awaited(
        self, exchange: Exchange, envelope: EventEnvelope, answer: asyncio.Future[bytes], call: Call | None
    ) -> bytes:
        if call is None or answer.done() or not self.is_query(envelope.name):
            return await answer
        return await exchange.unless_gone(answer, call.cancel)

    async def _accept(self, exchange: Exchange, envelope: EventEnvelope) -> None:
        """Answer once the request is on disk."""
        receipt: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self.door.accept(envelope, exchange.session, _settle, receipt)
        body = await receipt
        await exchange.answer(Answer(status=202, body=body, headers=[(b"preference-applied", b"respond-async")]))

    def hold(self, size: int) -> None:
        """Count a request in flight. Raises OverloadedError."""
        refusal = self._budget.refusal()
        if refusal is not None:
            raise refusal
        self._budget.hold(size)

    def release(self, size: int) -> None:
        self._budget.release(size)

    def is_query(self, name: str) -> bool:
        """Whether the event only reads, and answers once."""
        spec = self._registry.events.get(name)
        return spec is not None and spec.kind == "query"


def _head(headers: Mapping[bytes, bytes]) -> Head:
    """What stands beside the payload. Raises InvalidFrameError."""
    given = {key: headers[header].decode("latin-1") for header, key in METADATA.items() if header in headers}
    if not given:
        return _NOTHING_SAID
    if given.get("timeout", "").lower() == "null":  # what is converted from text may be null
        raise InvalidFrameError("a header is wrong: a timeout is a number of seconds, not null")
    if "event_id" in given:
        given["event_id"] = given["event_id"].strip('"')
    try:
        return msgspec.convert(given, Head, strict=False)
    except msgspec.ValidationError as error:
        raise InvalidFrameError(f"a header is wrong: {error}") from None


def _answer(exchange: Exchange, envelope: EventEnvelope, raw: bytes) -> Answer:
    """In the form that was asked for; a recorded request's id is told, for retries."""
    headers = [] if envelope.id is None else [(b"ksi-event-id", ids.text(envelope.id).encode())]
    if exchange.accepts(cloudevents.MEDIA):
        return Answer(body=cloudevents.structured(envelope, raw), media=cloudevents.MEDIA, headers=headers)
    if cloudevents.is_binary(exchange.headers):
        headers += cloudevents.binary(envelope, raw)
    return Answer(body=raw, media=JSON, headers=headers)


def _settle(future: asyncio.Future[bytes], raw: bytes | None, error: KSIError | None) -> None:
    settle(future, raw, error)
