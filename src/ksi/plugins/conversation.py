"""Conversations: what was said, message by message, now or at any earlier position; searched, exported, forked."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from datetime import datetime
from typing import Annotated, Any, ClassVar, Literal

import msgspec
from msgspec import Meta

from ksi.core import canonical
from ksi.core.errors import ConflictError, NotFoundError, PayloadTooLargeError
from ksi.core.events import Filter, Position, RecordedEvent, fact
from ksi.core.ports import EventLog
from ksi.core.views import View, ViewWriter
from ksi.kernel.context import EventContext
from ksi.kernel.declare import End, event, query, stream
from ksi.kernel.plugin import AsyncPlugin
from ksi.providers.base import AnyPart, FilePart, TextPart, ToolCallPart, ToolResultPart
from ksi.providers.conversation import (
    CATEGORY,
    ConversationFold,
    ConversationWasSummarised,
    ConversationWasTrimmed,
    MessageAdded,
    SpokenMessage,
    stream_of,
)
from ksi.store.debugger import check_reached

SEARCHED_MAX = 20_000
"""Messages that one search looks at, the newest."""
FORKED_MAX = 2_000
"""Messages that a fork takes along: they are one commit."""
AROUND = 60
"""Characters that are shown on each side of what was found."""
ADDED = "conversation:message_added"
NewName = Annotated[str, Meta(min_length=1, max_length=200, pattern=r"^[^/@*?\s]+$")]
Format = Literal["json", "markdown"]


@fact("conversation:was_forked")
class ConversationWasForked(msgspec.Struct, frozen=True):
    """What follows in its stream was said in ``source``, up to the position ``at``."""

    source: str
    at: int


class ConversationRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A conversation in a list; ``position`` is that of its last message in the log.

    ``partial`` names the completions whose answers were cut off.
    """

    conversation: str
    messages: int
    partial: tuple[str, ...]
    started_at: datetime
    updated_at: datetime
    position: int


class ConversationsView(View[ConversationRecord]):
    name = "conversations"
    query = (Filter(names=(ADDED,)),)
    record = ConversationRecord
    key = ("conversation",)
    indexes: ClassVar = {"by_update": ("position",)}

    def apply(self, writer: ViewWriter, event: RecordedEvent) -> None:
        conversation = event.stream.removeprefix(f"{CATEGORY}/")
        before: ConversationRecord | None = writer.get(conversation)
        partial = () if before is None else before.partial
        added = event.into(MessageAdded)
        is_rest = added.role == "assistant" and added.completion in partial
        cut_off = (added.completion,) if added.partial and added.completion is not None else ()
        writer.put(
            ConversationRecord(
                conversation=conversation,
                messages=(0 if before is None else before.messages) + (not is_rest),
                partial=(*(one for one in partial if one != added.completion or not is_rest), *cut_off),
                started_at=event.recorded_at if before is None else before.started_at,
                updated_at=event.recorded_at,
                position=event.position,
            )
        )


class ShownConversation(msgspec.Struct, frozen=True, kw_only=True):
    """``version`` and ``position`` are those of the last fact that counts here.

    Models are told no more of the first ``left_out`` messages, and ``summary`` in their place, if there is one.
    """

    conversation: str
    messages: tuple[SpokenMessage, ...]
    left_out: int
    summary: str | None
    version: int
    position: int


class Conversations(msgspec.Struct, frozen=True):
    """The last spoken one first; ``next`` goes on as ``after``."""

    conversations: list[ConversationRecord]
    next: str | None


class FoundMessage(msgspec.Struct, frozen=True, kw_only=True):
    """``excerpt`` is the place where it was found; ``position`` that of the message in the log."""

    conversation: str
    role: str
    excerpt: str
    said_at: datetime
    position: int


class FoundMessages(msgspec.Struct, frozen=True):
    """The newest first. ``complete`` false: there are more messages than one search looks at, older ones."""

    found: list[FoundMessage]
    complete: bool


class Line(msgspec.Struct, frozen=True):
    """A chunk of an export: a message."""

    text: str


class Exported(msgspec.Struct, frozen=True):
    conversation: str
    messages: int


class Forked(msgspec.Struct, frozen=True):
    """``messages`` were taken along from ``source``, as it stood ``at`` a position."""

    conversation: str
    source: str
    messages: int
    at: int


class Conversation(AsyncPlugin):
    """Shows conversations. Their messages are written by the completions that they came from, or taken along."""

    name = "conversation"
    views = (ConversationsView,)
    folds = (ConversationFold(),)

    @query("conversation:list", examples=({"limit": 10},))
    async def list_conversations(
        self, context: EventContext, limit: Annotated[int, Meta(ge=1, le=1000)] = 100, after: str | None = None
    ) -> Conversations:
        """List conversations."""
        page = await context.view(ConversationsView).scan("by_update", after=after, limit=limit, backwards=True)
        return Conversations(list(page.records), page.next)

    @query("conversation:get", errors=("not_found", "beyond_head"), examples=({"conversation": "c1", "at": 1234},))
    async def get(self, conversation: str, context: EventContext, at: int | None = None) -> ShownConversation:
        """All messages of a conversation, as they stand or as they stood at the position ``at``."""
        return await _shown(conversation, context, at)

    @query("conversation:search", examples=({"text": "lighthouse"},))
    async def search(
        self,
        text: Annotated[str, Meta(min_length=1, max_length=1000, description="words as they stand; case is ignored")],
        context: EventContext,
        limit: Annotated[int, Meta(ge=1, le=1000)] = 20,
    ) -> FoundMessages:
        """Find messages that say something."""
        log = self.host.services.get(EventLog)
        found: list[FoundMessage] = []
        looked = 0
        said = log.read_all((Filter(names=(ADDED,)),), backwards=True, branch=context.branch)
        async for each in said:
            looked += 1
            if len(found) == limit or looked > SEARCHED_MAX:
                break
            if not each.is_erased and (excerpt := _excerpt(each.into(MessageAdded), text)) is not None:
                found.append(_found(each, excerpt))
        return FoundMessages(found, looked <= SEARCHED_MAX)

    @stream(
        "conversation:export", record=False, errors=("not_found", "beyond_head"), examples=({"conversation": "c1"},)
    )
    async def export(
        self, conversation: str, context: EventContext, format: Format = "json", at: int | None = None
    ) -> AsyncIterator[Line | End[Exported]]:
        """A conversation message by message: as lines of JSON, or in Markdown."""
        shown = await _shown(conversation, context, at)
        for number, message in enumerate(shown.messages):
            if number == shown.left_out > 0 and format == "markdown":
                yield Line(_left_out(shown))
            is_told = number >= shown.left_out
            yield Line(_as_json(message, is_told=is_told) if format == "json" else _as_markdown(message))
        yield End(Exported(conversation, len(shown.messages)))

    @event(
        "conversation:fork",
        key=lambda request: f"conversation/{request.into}",
        errors=("not_found", "beyond_head", "conflict", "payload_too_large"),
        belongs_to=lambda request: stream_of(request.conversation),
        examples=({"conversation": "c1", "into": "c2", "at": 1234},),
    )
    async def fork(self, conversation: str, into: NewName, context: EventContext, at: int | None = None) -> Forked:
        """Go on from a conversation in another one; both have what was said up to the position ``at``."""
        if await context.view(ConversationsView).get(into) is not None:
            raise ConflictError(f"there is a conversation {into!r} already", conversation=into)
        shown = await _shown(conversation, context, at)
        if len(shown.messages) > FORKED_MAX:
            raise PayloadTooLargeError("a conversation to fork", size=len(shown.messages), limit=FORKED_MAX)
        context.append(stream_of(into), ConversationWasForked(conversation, shown.position))
        for message in shown.messages:
            said = MessageAdded(role=message.role, parts=message.parts, partial=message.partial)
            context.append(stream_of(into), said)
        if shown.left_out:
            context.append(stream_of(into), _cut_like(shown))
        return Forked(into, conversation, len(shown.messages), shown.position)


def _cut_like(shown: ShownConversation) -> ConversationWasTrimmed | ConversationWasSummarised:
    facts: dict[str, Any] = {"left_out": shown.left_out, "tokens": 0, "window": 0}
    if shown.summary is None:
        return ConversationWasTrimmed(**facts)
    return ConversationWasSummarised(**facts, summary=shown.summary)


async def _shown(conversation: str, context: EventContext, at: int | None) -> ShownConversation:
    """Raises NotFoundError, BeyondHeadError."""
    if at is not None:
        await check_reached(context.services.get(EventLog), Position(at), branch=context.branch)
    fold, state, last = ConversationFold(), ConversationFold().initial(), None
    async for each in context.read_stream(stream_of(conversation)):
        if (at is None or each.position <= at) and not each.is_erased:
            state, last = fold.apply(state, each), each
    if last is None:
        raise NotFoundError("conversation", conversation)
    context.adopt_subject(last.subject)
    return ShownConversation(
        conversation=conversation,
        messages=state.messages,
        left_out=state.left_out,
        summary=state.summary,
        version=last.version,
        position=last.position,
    )


def _text_of(parts: Sequence[AnyPart]) -> str:
    """All of a message in words."""
    said = []
    for part in parts:
        match part:
            case TextPart():
                said.append(part.text)
            case ToolCallPart():
                said.append(f"[calls {part.name} with {canonical.encode(part.arguments).decode()}]")
            case ToolResultPart():
                said.append(part.content)
            case FilePart():
                said.append(f"[{part.media_type}]")
    return "\n".join(said)


def _excerpt(message: MessageAdded, text: str) -> str | None:
    said = _text_of(message.parts)
    place = said.lower().find(text.lower())
    if place < 0:
        return None
    begin, end = max(0, place - AROUND), place + len(text) + AROUND
    return f"{'…' if begin else ''}{said[begin:end]}{'…' if end < len(said) else ''}"


def _found(event: RecordedEvent, excerpt: str) -> FoundMessage:
    return FoundMessage(
        conversation=event.stream.removeprefix(f"{CATEGORY}/"),
        role=event.into(MessageAdded).role,
        excerpt=excerpt,
        said_at=event.recorded_at,
        position=event.position,
    )


def _as_json(message: SpokenMessage, *, is_told: bool) -> str:
    said = {"role": message.role, "parts": message.parts}
    return canonical.encode(said if is_told else said | {"told": False}).decode()


def _left_out(shown: ShownConversation) -> str:
    instead = "" if shown.summary is None else f" In its place: {shown.summary}"
    return f"---\n\n*It has outgrown the model's window: what stands above is told no more.{instead}*\n\n---\n"


def _as_markdown(message: SpokenMessage) -> str:
    return f"## {message.role}{' (cut off)' if message.partial else ''}\n\n{_text_of(message.parts)}\n"
