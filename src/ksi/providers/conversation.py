"""What a conversation is made of: messages as facts of ``conversation/<id>``, and the one way to fold them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import takewhile
from typing import Literal

import msgspec

from ksi.core.events import RecordedEvent, fact
from ksi.core.views import JsonState
from ksi.providers.base import AnyPart, Message, TextPart, ToolCallPart, ToolResultPart

CATEGORY = "conversation"
NO_RESULT = "no result: the turn ended before it was called, or while it ran"


@fact("conversation:message_added")
class MessageAdded(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A message, by whatever completion it came; ``partial`` where its answer was cut off.

    An assistant's message takes the place of the partial one that the same ``completion`` left.
    """

    role: Literal["system", "user", "assistant", "tool"]
    parts: tuple[AnyPart, ...]
    completion: str | None = None
    partial: bool = False


@fact("conversation:was_trimmed")
class ConversationWasTrimmed(msgspec.Struct, frozen=True, kw_only=True):
    """It has outgrown a model's window: the oldest messages, ``left_out``, are told no more. They stay where they are.

    With what was to be said it had about ``tokens``, and there was room for ``window``.
    """

    left_out: int
    tokens: int
    window: int
    completion: str | None = None


@fact("conversation:was_summarised")
class ConversationWasSummarised(msgspec.Struct, frozen=True, kw_only=True):
    """The same, and ``summary`` is told in place of what is left out."""

    left_out: int
    tokens: int
    window: int
    summary: str
    completion: str | None = None


@fact("conversation:has_outgrown")
class ConversationHasOutgrown(msgspec.Struct, frozen=True, kw_only=True):
    """It did not fit the model's window, and nothing was, or could be, left out: ``completion`` has failed."""

    completion: str
    reason: str


class SpokenMessage(msgspec.Struct, frozen=True, kw_only=True):
    """A message where it stands; ``position`` is that of its (last) fact in the log."""

    role: Literal["system", "user", "assistant", "tool"]
    parts: tuple[AnyPart, ...]
    completion: str | None
    partial: bool
    position: int

    @property
    def text(self) -> str:
        """All that was said in words."""
        return "".join(part.text for part in self.parts if isinstance(part, TextPart))


class ConversationState(msgspec.Struct, frozen=True):
    """All messages, the oldest first; the first ``left_out`` are told no more, ``summary`` is in their place."""

    messages: tuple[SpokenMessage, ...] = ()
    left_out: int = 0
    summary: str | None = None


class ConversationFold(JsonState[ConversationState]):
    """Implements :class:`ksi.core.views.EntityFold`."""

    category = CATEGORY
    version = 2
    state = ConversationState

    def initial(self) -> ConversationState:
        return ConversationState()

    def apply(self, state: ConversationState, event: RecordedEvent) -> ConversationState:
        match event.name:
            case "conversation:message_added":
                return _with(state, event.into(MessageAdded), event.position)
            case "conversation:was_trimmed":
                return msgspec.structs.replace(state, left_out=event.into(ConversationWasTrimmed).left_out)
            case "conversation:was_summarised":
                said = event.into(ConversationWasSummarised)
                return msgspec.structs.replace(state, left_out=said.left_out, summary=said.summary)
        return state


def _with(state: ConversationState, added: MessageAdded, position: int) -> ConversationState:
    message = SpokenMessage(
        role=added.role,
        parts=added.parts,
        completion=added.completion,
        partial=added.partial,
        position=position,
    )
    place = _replaced(state.messages, message)
    messages = (*state.messages[:place], message, *state.messages[place + 1 :])
    return msgspec.structs.replace(state, messages=messages)


def stream_of(conversation: str) -> str:
    return f"{CATEGORY}/{conversation}"


def conversation_of(conversation: str | None) -> str | None:
    """The stream that a request belongs to; None where it is in no conversation."""
    return None if conversation is None else stream_of(conversation)


def _replaced(messages: tuple[SpokenMessage, ...], new: SpokenMessage) -> int:
    """Where ``new`` belongs: in the place of its partial forerunner, else at the end."""
    for place, message in enumerate(messages):
        if message.partial and new.role == "assistant" and message.completion == new.completion:
            return place
    return len(messages)


def mended(messages: Sequence[Message]) -> tuple[Message, ...]:
    """``messages`` with a result behind each tool call: providers refuse a conversation that lacks one."""
    found: list[Message] = []
    for place, message in enumerate(messages):
        found.append(message)
        given = {part.id for part in _results_behind(messages, place)}
        lost = [part for part in message.parts if isinstance(part, ToolCallPart) and part.id not in given]
        if lost:
            results = tuple(ToolResultPart(id=call.id, content=NO_RESULT, is_error=True) for call in lost)
            found.append(Message(role="tool", parts=results))
    return tuple(found)


def waiting_calls(messages: Sequence[Message]) -> set[str]:
    """Ids of the tool calls at the end of ``messages`` that have no result yet."""
    place = next((place for place in reversed(range(len(messages))) if messages[place].role != "tool"), None)
    if place is None:
        return set()
    calls = {part.id for part in messages[place].parts if isinstance(part, ToolCallPart)}
    return calls - {part.id for part in _results_behind(messages, place)}


def _results_behind(messages: Sequence[Message], place: int) -> Iterator[ToolResultPart]:
    for message in takewhile(lambda message: message.role == "tool", messages[place + 1 :]):
        yield from (part for part in message.parts if isinstance(part, ToolResultPart))
