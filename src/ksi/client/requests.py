"""Requests as they are written, in the name of the event that is being handled, and one that waits for its answer."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping
from typing import Any

import msgspec

from ksi.client.options import Options
from ksi.core import canonical, ids
from ksi.core.clock import Clock
from ksi.core.context import event_context
from ksi.core.envelope import EventEnvelope
from ksi.core.errors import DeadlineExceededError, KSIError, PayloadTooLargeError
from ksi.core.events import MAIN
from ksi.wire.answers import FRAME_OVERHEAD, Answer
from ksi.wire.frames import Request
from ksi.wire.splitter import FRAME_BYTES_MAX

PAYLOAD_BYTES_MAX = FRAME_BYTES_MAX - FRAME_OVERHEAD
Payload = Mapping[str, Any] | msgspec.Struct | None


def request_of(
    event: str, data: Payload, fields: Mapping[str, Any], options: Options, clock: Clock, branch: str = MAIN
) -> Request:
    """The frame that asks for ``event``, on ``branch`` where nothing else says one.

    Run, cause, trace, branch, subject and deadline come from the event that is being handled.

    Raises:
        ValidationError: The payload has no JSON form.
        PayloadTooLargeError: It does not fit a frame.
        DeadlineExceededError: The deadline of the event that is being handled has passed.
    """
    request = Request(
        event=event,
        data=msgspec.Raw(_encoded(data, fields)),
        event_id=options.event_id or (ids.text(ids.new_id()) if options.idempotent else None),
        correlation_id=options.correlation_id,
        causation_id=options.causation_id,
        branch=options.branch or branch,
        subject=options.subject,
        priority=options.priority,
        timeout=options.timeout,
        traceparent=options.traceparent,
    )
    parent = event_context()
    if parent is not None:
        _inherit(request, parent, clock)
        request.branch = options.branch or parent.branch
    elif request.traceparent is None:
        request.traceparent = os.environ.get("TRACEPARENT")
    return request


def _encoded(data: Payload, fields: Mapping[str, Any]) -> bytes:
    if isinstance(data, msgspec.Struct) and fields:
        raise TypeError("fields can not be added to a struct: give one or the other")
    payload = data if isinstance(data, msgspec.Struct) else {**(data or {}), **fields}
    raw = canonical.encode(payload)
    if len(raw) > PAYLOAD_BYTES_MAX:
        raise PayloadTooLargeError("payload", size=len(raw), limit=PAYLOAD_BYTES_MAX)
    return raw


def _inherit(request: Request, parent: EventEnvelope, clock: Clock) -> None:
    request.correlation_id = request.correlation_id or parent.correlation_id
    request.causation_id = request.causation_id or ids.text(parent.event_id)
    request.traceparent = request.traceparent or parent.trace_context
    request.subject = request.subject or parent.subject
    if parent.deadline_us is None:
        return
    left = (parent.deadline_us - clock.time_us()) / 1_000_000
    if left <= 0:
        raise DeadlineExceededError(request.event or "")
    request.timeout = left if request.timeout is None else min(left, request.timeout)


class PendingRequest:
    """Implements :class:`~ksi.client.exchange.Call`: one answer, as JSON, in ``answer``."""

    takes_place = True

    def __init__(self, request: Request) -> None:
        self._request = request
        self.answer: asyncio.Future[msgspec.Raw] = asyncio.get_running_loop().create_future()

    @property
    def is_repeatable(self) -> bool:
        return self._request.event_id is not None

    def opening(self, *, again: bool) -> Request:
        return self._request

    def received(self, answer: Answer) -> bool:
        if self.answer.done():
            return True
        if answer.error is not None:
            self.answer.set_exception(answer.error.raised())
        else:
            self.answer.set_result(answer.data)
        return True

    def failed(self, error: KSIError) -> None:
        if not self.answer.done():
            self.answer.set_exception(error)
