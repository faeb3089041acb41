"""Conversations: what was said, message by message, now or at any earlier position of the log."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, ClassVar

import msgspec
from msgspec import Meta

from ksi.core.errors import NotFoundError
from ksi.core.events import Filter, RecordedEvent
from ksi.core.views import View, ViewWriter
from ksi.kernel.context import EventContext
from ksi.kernel.declare import query
from ksi.kernel.plugin import AsyncPlugin
from ksi.providers.conversation import CATEGORY, ConversationFold, MessageAdded, SpokenMessage, stream_of


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
    query = (Filter(names=("conversation:message_added",)),)
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
    """``version`` and ``position`` are those of the last message that counts here."""

    conversation: str
    messages: tuple[SpokenMessage, ...]
    version: int
    position: int


class Conversations(msgspec.Struct, frozen=True):
    """The last spoken one first; ``next`` goes on as ``after``."""

    conversations: list[ConversationRecord]
    next: str | None


class Conversation(AsyncPlugin):
    """Shows conversations. Their messages are written by the completions that they came from."""

    name = "conversation"
    views = (ConversationsView,)
    folds = (ConversationFold(),)

    @query("conversation:list")
    async def list_conversations(
        self, context: EventContext, limit: Annotated[int, Meta(ge=1, le=1000)] = 100, after: str | None = None
    ) -> Conversations:
        """List conversations."""
        page = await context.view(ConversationsView).scan("by_update", after=after, limit=limit, backwards=True)
        return Conversations(list(page.records), page.next)

    @query("conversation:get", errors=("not_found",), examples=({"conversation": "c1", "at": 1234},))
    async def get(self, conversation: str, context: EventContext, at: int | None = None) -> ShownConversation:
        """All messages of a conversation, as they stand or as they stood at the position ``at``."""
        fold, state, last = ConversationFold(), ConversationFold().initial(), None
        async for event in context.read_stream(stream_of(conversation)):
            if (at is None or event.position <= at) and not event.is_erased:
                state, last = fold.apply(state, event), event
        if last is None:
            raise NotFoundError("conversation", conversation)
        return ShownConversation(
            conversation=conversation, messages=state.messages, version=last.version, position=last.position
        )
