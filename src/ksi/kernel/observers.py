"""Observers: handlers that see facts after their commit and never answer.

Each has a task and a subscription of its own and sees events one by one, in position order; a slow one delays nobody.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ksi.core import ids
from ksi.core.context import current
from ksi.core.envelope import EventEnvelope, trace_of
from ksi.core.errors import CheckpointConflictError, KSIError
from ksi.core.events import Filter, RecordedEvent
from ksi.core.patterns import expand
from ksi.core.ports import Subscription
from ksi.kernel.foreign import FOREIGN, said_of
from ksi.kernel.reaction import Reaction
from ksi.kernel.spec import HandlerSpec

if TYPE_CHECKING:
    from ksi.kernel.router import Router

_log = logging.getLogger("ksi.kernel")
RETRY_DELAY = 1.0
"""Seconds before an observer with a checkpoint is given the same fact again."""
ATTEMPTS_MAX = 5
"""Times that it is given one fact before that is parked."""


class Observers:
    """The tasks of all observers; follows the registry."""

    def __init__(self, router: Router) -> None:
        self._router = router
        self._tasks: dict[HandlerSpec, asyncio.Task[None]] = {}

    def set_handlers(self, handlers: Sequence[HandlerSpec]) -> None:
        """Run exactly these."""
        for handler in [handler for handler in self._tasks if handler not in handlers]:
            self._tasks.pop(handler).cancel()
        for handler in handlers:
            if handler not in self._tasks:
                self._tasks[handler] = self._router.loop.create_task(
                    self._run(handler), context=self._router.fresh_context()
                )

    async def stop(self) -> None:
        tasks = list(self._tasks.values())
        self._tasks.clear()
        for task in tasks:
            task.cancel()
        if tasks:
            _, left = await asyncio.wait(tasks, timeout=self._router.limits.shutdown_timeout)
            if left:
                _log.error("%d observers do not end", len(left))

    async def _run(self, handler: HandlerSpec) -> None:
        checkpoint = handler.declaration.checkpoint
        query = (Filter(names=(expand(handler.declaration.name),)),)
        subscribe = self._router.journal.subscribe
        subscription = (
            subscribe(query, after="end")
            if checkpoint is None
            else subscribe(query, after="checkpoint", subscriber=checkpoint)
        )
        try:
            async with subscription as events:
                async for event in events:
                    if event.is_erased:
                        await self._pass_over(event, events, checkpoint)
                    elif checkpoint is None:
                        await self._show(handler, event, events)
                    else:
                        await self._see(handler, event, events)
        except asyncio.CancelledError:
            raise
        except Exception:  # noqa: BLE001  # the door of a supervised task
            _log.exception("observer %s stopped", handler.where)

    async def _pass_over(self, event: RecordedEvent, events: Subscription, checkpoint: str | None) -> None:
        if checkpoint is not None:
            await events.ack(event)

    async def _see(self, handler: HandlerSpec, event: RecordedEvent, events: Subscription) -> None:
        """Show it one fact, until it has taken it. What it fails at a few times is parked."""
        attempts = 0
        while (error := await self._show(handler, event, events)) is not None:
            attempts += not self._router.journal.is_read_only  # a full disk is no fault of the fact
            if attempts == ATTEMPTS_MAX:
                await events.nack(event, "park", said_of(error))
                return
            await asyncio.sleep(RETRY_DELAY)
        await events.ack(event)

    async def _show(self, handler: HandlerSpec, event: RecordedEvent, events: Subscription) -> BaseException | None:
        """Show it one fact, once; what it raised, which is logged."""
        try:
            await self._once(handler, event, events)
        except CheckpointConflictError:
            return None  # another generation of it was faster
        except FOREIGN as error:  # the door of a supervised task
            _log.error(
                "observer %s: @%d", handler.where, event.position,
                exc_info=None if isinstance(error, KSIError) else error,
            )  # fmt: skip
            return error
        return None

    async def _once(self, handler: HandlerSpec, event: RecordedEvent, events: Subscription) -> None:
        envelope = caused_by_fact(event, handler)
        reaction = Reaction(self._router, envelope, handler.owner)
        token = current.set(envelope)
        try:
            await handler.invoke(event, reaction.context if handler.wants_context else None)
        finally:
            current.reset(token)
        await self._conclude(handler, event, events, reaction)

    async def _conclude(
        self, handler: HandlerSpec, event: RecordedEvent, events: Subscription, reaction: Reaction
    ) -> None:
        """What it appended and emitted commits together with its checkpoint."""
        checkpoint = handler.declaration.checkpoint
        unit = reaction.unit()
        if checkpoint is not None and event.position > events.acknowledged:  # not one that had been parked
            unit.checkpoint = (checkpoint, event.position)
        if unit.entries or unit.emits or unit.checkpoint:
            await reaction.written(unit)


def caused_by_fact(event: RecordedEvent, handler: HandlerSpec) -> EventEnvelope:
    """The name under which an observer acts: caused by the fact, in its run, with its principal."""
    metadata = event.metadata
    return EventEnvelope(
        name=event.name,
        raw=event.raw,
        source=f"plugin:{handler.owner}",
        principal=metadata.get("principal", "daemon"),
        branch=event.branch,
        id=ids.derived(event.event_id.bytes, handler.where),
        correlation=event.correlation_id,
        cause=event.event_id.bytes,
        hops=metadata.get("hops", 0) + 1,
        subject=event.subject,
        traceparent=_trace_below(event),
        path=f"{metadata.get('path', '') or event.name}/{handler.where}",
    )


def _trace_below(event: RecordedEvent) -> str | None:
    """The trace of the request that said the fact, with that as the span above."""
    trace_id, _ = trace_of(event.metadata.get("traceparent"))
    return None if trace_id is None or event.cause is None else f"00-{trace_id}-{event.cause[8:].hex()}-01"
