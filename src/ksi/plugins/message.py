"""Messages: published under a topic to whoever follows it, or put into a queue until somebody takes them.

A topic is a stream of the log, so a follower that was away goes on where it stopped. A queue holds each message for one
taker, until that comes or its time is over.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import datetime, timedelta
from typing import Annotated, Any, ClassVar

import msgspec
from msgspec import Meta

from ksi.core import canonical
from ksi.core.clock import microseconds, utc
from ksi.core.errors import OverloadedError, PayloadTooLargeError
from ksi.core.events import Filter, Position, RecordedEvent, fact
from ksi.core.ports import EventLog, Overflow, Start
from ksi.core.views import View, ViewWriter
from ksi.kernel.context import EventContext
from ksi.kernel.declare import Addressed, Gap, Opened, event, query, stream
from ksi.kernel.plugin import AsyncPlugin
from ksi.plugins.shapes import position

MESSAGE_BYTES_MAX = 64 << 10
"""Of a message's data: what takes more belongs into the state, or a file, and the message names it."""
QUEUED_MAX = 10_000
"""Messages that wait in one queue."""
TAKEN_MAX, TAKEN_BYTES_MAX = 100, 512 << 10
"""Of one answer: it must fit into a frame."""
PAGE = 32
TTL_S = 86_400.0
PUBLISHED = "message:was_published"
Topic = Annotated[str, Meta(min_length=1, max_length=200, pattern=r"^[^/@*?\s]+$", description="as in news.sea")]
Topics = Annotated[str, Meta(min_length=1, max_length=200, pattern=r"^[^/@\s]+$", description="a topic, or news.*")]
QueueName = Annotated[str, Meta(min_length=1, max_length=200, pattern=r"^[^/@*?\s]+$", description="as in agent-ada")]
Data = Annotated[dict[str, Any], Meta(description="what is said")]
Ttl = Annotated[float, Meta(gt=0, le=365 * 86_400, description="seconds that it waits for a taker")]


# ── facts ────────────────────────────────────────────────────────────────────────────────────────────────────────────
@fact(PUBLISHED)
class MessageWasPublished(msgspec.Struct, frozen=True):
    topic: str
    data: dict[str, Any]
    sender: str


@fact("message:was_queued")
class MessageWasQueued(msgspec.Struct, frozen=True, kw_only=True):
    """The message ``number`` of a queue; it waits until ``expires`` (microseconds)."""

    queue: str
    number: int
    data: dict[str, Any]
    sender: str
    expires: int


@fact("message:was_taken")
class MessagesWereTaken(msgspec.Struct, frozen=True):
    queue: str
    numbers: list[int]
    by: str


@fact("message:has_expired")
class MessagesHaveExpired(msgspec.Struct, frozen=True):
    """Nobody came for them in time."""

    queue: str
    numbers: list[int]


class _Gone(msgspec.Struct, frozen=True):
    """What is read of both facts that end a wait."""

    queue: str
    numbers: list[int]


# ── read models ──────────────────────────────────────────────────────────────────────────────────────────────────────
class Waiting(msgspec.Struct, frozen=True, kw_only=True):
    """A message in its queue. Times in microseconds."""

    queue: str
    number: int
    data: dict[str, Any]
    sender: str
    queued: int
    expires: int


class MessagesWaitingView(View[Waiting]):
    name = "messages_waiting"
    query = (Filter(names=("message:was_queued", "message:was_taken", "message:has_expired")),)
    record = Waiting
    key = ("queue", "number")
    indexes: ClassVar = {"by_expiry": ("queue", "expires")}

    def apply(self, writer: ViewWriter, event: RecordedEvent) -> None:
        if event.name == "message:was_queued":
            said = event.into(MessageWasQueued)
            writer.put(Waiting(**msgspec.structs.asdict(said), queued=microseconds(event.recorded_at)))
            return
        gone = event.into(_Gone)
        for number in gone.numbers:
            writer.delete(gone.queue, number)


class Queue(msgspec.Struct, frozen=True, kw_only=True):
    """``last`` is the number of its newest message, ``waiting`` how many nobody took, those too late included."""

    queue: str
    last: int = 0
    waiting: int = 0


class QueuesView(View[Queue]):
    name = "queues"
    query = MessagesWaitingView.query
    record = Queue
    key = ("queue",)

    def apply(self, writer: ViewWriter, event: RecordedEvent) -> None:
        if event.name == "message:was_queued":
            said = event.into(MessageWasQueued)
            known = writer.get(said.queue) or Queue(queue=said.queue)
            writer.put(Queue(queue=said.queue, last=said.number, waiting=known.waiting + 1))
            return
        gone = event.into(_Gone)
        known = writer.get(gone.queue) or Queue(queue=gone.queue)
        writer.put(msgspec.structs.replace(known, waiting=known.waiting - len(gone.numbers)))


# ── what clients see ─────────────────────────────────────────────────────────────────────────────────────────────────
class Follow(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Which topics, and from where on. With a ``subscriber`` its place is remembered."""

    topic: Topics
    after: Annotated[str, Meta(description="start, end, @1234, or checkpoint (of the subscriber)")] = "end"
    subscriber: Annotated[str, Meta(max_length=200, description="name of the one who follows")] | None = None
    overflow: Annotated[Overflow, Meta(description="for a slow reader: wait, drop (with a gap), disconnect")] = "wait"

    def __post_init__(self) -> None:
        if self.after == "checkpoint" and self.subscriber is None:
            raise ValueError("a checkpoint belongs to a subscriber: give subscriber, or another after")


class Published(msgspec.Struct, frozen=True):
    """It is in the log, and goes to whoever follows ``topic``."""

    topic: str


class ShownMessage(msgspec.Struct, frozen=True, kw_only=True):
    """A message of a topic; ``position`` is its place in the log."""

    topic: str
    data: dict[str, Any]
    sender: str
    published_at: datetime
    position: int


class Queued(msgspec.Struct, frozen=True, kw_only=True):
    queue: str
    number: int
    waiting: int
    expires_at: datetime


class TakenMessage(msgspec.Struct, frozen=True, kw_only=True):
    number: int
    data: dict[str, Any]
    sender: str
    queued_at: datetime


class Taken(msgspec.Struct, frozen=True, kw_only=True):
    """Messages, the oldest first, which nobody else gets; ``waiting`` are left."""

    queue: str
    messages: list[TakenMessage]
    waiting: int


class Queues(msgspec.Struct, frozen=True):
    queues: list[Queue]
    next: str | None


class Message(AsyncPlugin):
    """Topics that one follows, and queues that one takes from."""

    name = "message"
    views = (MessagesWaitingView, QueuesView)

    async def initialize(self) -> None:
        self._log = self.host.services.get(EventLog)

    # ── topics ───────────────────────────────────────────────────────────────────────────────────────────────────────
    @event("message:publish", errors=["payload_too_large"], examples=[{"topic": "news.sea", "data": {"wave": "high"}}])
    async def publish(self, topic: Topic, data: Data, context: EventContext) -> Published:
        """Say something to all who follow a topic, now or later."""
        _check_size(data)
        context.append(f"message/{topic}", MessageWasPublished(topic, data, context.principal))
        return Published(topic)

    @stream(
        "message:subscribe",
        record=False,
        errors=["subscription_dropped"],
        examples=[{"topic": "news.*"}, {"topic": "news.sea", "subscriber": "ada", "after": "checkpoint"}],
    )
    async def subscribe(
        self, request: Follow, context: EventContext
    ) -> AsyncIterator[ShownMessage | Addressed | Gap | Opened]:
        """Follow topics: what is there after a place, then what comes, without gap or double."""
        wanted = Filter(names=(PUBLISHED,), streams=(f"message/{request.topic}",))
        subscriber = None if request.subscriber is None else f"message:{request.subscriber}"
        start = await self._start(request.after, subscriber, context.branch)
        if isinstance(start, int):
            yield Opened(f"@{start}")
        subscription = self._log.subscribe(
            (wanted,), after=start, subscriber=subscriber, overflow=request.overflow, branch=context.branch
        )
        dropped = 0
        async with subscription as events:
            async for each in events:
                if events.dropped > dropped:
                    yield Gap({"dropped": events.dropped - dropped})
                    dropped = events.dropped
                yield Addressed(at=f"@{each.position}", data=_shown(each))
                if subscriber is not None:
                    await events.ack(each)  # the reader had credit for it: it was taken

    async def _start(self, after: str, subscriber: str | None, branch: str) -> Start:
        match after:
            case "start":
                return "start"
            case "end":
                return await self._log.head() or Position(0)
            case "checkpoint":
                assert subscriber is not None  # the payload was refused without
                return await self._log.checkpoint(subscriber, branch=branch) or Position(0)
            case place:
                return position(place)

    # ── queues ───────────────────────────────────────────────────────────────────────────────────────────────────────
    @event(
        "message:queue",
        key=lambda request: f"queue/{request.queue}",
        errors=["overloaded", "payload_too_large"],
        examples=[{"queue": "agent-ada", "data": {"text": "Call back."}, "ttl": 3600}],
    )
    async def queue(self, queue: QueueName, data: Data, context: EventContext, ttl: Ttl = TTL_S) -> Queued:
        """Leave a message for one taker, who may be away."""
        _check_size(data)
        expired = await self._drop_expired(queue, context)
        known = await context.view(QueuesView).get(queue) or Queue(queue=queue)
        waiting = known.waiting - expired + 1
        if waiting > QUEUED_MAX:
            raise OverloadedError(f"the queue {queue!r}", limit=QUEUED_MAX)
        expires_at = context.now() + timedelta(seconds=ttl)
        queued = MessageWasQueued(
            queue=queue, number=known.last + 1, data=data, sender=context.principal, expires=microseconds(expires_at)
        )
        context.append(f"queue/{queue}", queued)
        return Queued(queue=queue, number=queued.number, waiting=waiting, expires_at=expires_at)

    @event("message:take", key=lambda request: f"queue/{request.queue}", examples=[{"queue": "agent-ada", "limit": 10}])
    async def take(
        self,
        queue: QueueName,
        context: EventContext,
        limit: Annotated[int, Meta(ge=1, le=TAKEN_MAX, description="at most so many")] = 1,
    ) -> Taken:
        """Take the oldest messages out of a queue; an empty answer means that none waits.

        A retry with the same event id is given the same messages.
        """
        expired = await self._drop_expired(queue, context)
        taken = _fitting(await self._in_time(queue, limit, context))
        if taken:
            numbers = [each.number for each in taken]
            context.append(f"queue/{queue}", MessagesWereTaken(queue, numbers, context.principal))
        known = await context.view(QueuesView).get(queue) or Queue(queue=queue)
        return Taken(queue=queue, messages=list(map(_taken, taken)), waiting=known.waiting - expired - len(taken))

    @query("message:queues", examples=[{}])
    async def list_queues(
        self, context: EventContext, limit: Annotated[int, Meta(ge=1, le=1000)] = 100, after: str | None = None
    ) -> Queues:
        """List the queues, and how many messages wait in each."""
        page = await context.view(QueuesView).scan(after=after, limit=limit)
        return Queues(list(page.records), page.next)

    async def _drop_expired(self, queue: str, context: EventContext) -> int:
        """How many of its messages end with this request, for nobody came in time."""
        now, numbers, after = microseconds(context.now()), list[int](), None
        while True:
            page = await context.view(MessagesWaitingView).scan("by_expiry", queue, after=after, limit=PAGE)
            late = [each.number for each in page.records if each.expires <= now]
            numbers += late
            after = page.next
            if after is None or len(late) < len(page.records):
                break
        if numbers:
            context.append(f"queue/{queue}", MessagesHaveExpired(queue, numbers))
        return len(numbers)

    async def _in_time(self, queue: str, count: int, context: EventContext) -> list[Waiting]:
        """The oldest ``count`` of its messages that are not too late."""
        now, found, after = microseconds(context.now()), list[Waiting](), None
        while True:
            page = await context.view(MessagesWaitingView).scan(None, queue, after=after, limit=count)
            found += [each for each in page.records if each.expires > now]
            after = page.next
            if after is None or len(found) >= count:
                return found[:count]


def _check_size(data: dict[str, Any]) -> None:
    size = len(canonical.encode(data))
    if size > MESSAGE_BYTES_MAX:
        raise PayloadTooLargeError("a message", size=size, limit=MESSAGE_BYTES_MAX)


def _fitting(waiting: list[Waiting]) -> list[Waiting]:
    """As many of them as fit into one answer; at least one."""
    size, fitting = 0, list[Waiting]()
    for each in waiting:
        size += len(canonical.encode(each.data))
        if fitting and size > TAKEN_BYTES_MAX:
            break
        fitting.append(each)
    return fitting


def _taken(waiting: Waiting) -> TakenMessage:
    return TakenMessage(number=waiting.number, data=waiting.data, sender=waiting.sender, queued_at=utc(waiting.queued))


def _shown(event: RecordedEvent) -> ShownMessage:
    said = event.into(MessageWasPublished)
    return ShownMessage(
        topic=said.topic,
        data=said.data,
        sender=said.sender,
        published_at=event.recorded_at,
        position=event.position,
    )
