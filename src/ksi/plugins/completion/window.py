"""What a model is told of a conversation, also where all of it is more than its window holds.

Tokens are estimated, for nobody has each model's own count: three bytes to one, which is more than English has and
about what Chinese has.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from ksi.core import canonical
from ksi.core.errors import NotFoundError
from ksi.kernel.context import EventContext
from ksi.plugins.completion.choosing import Chosen, Plan
from ksi.providers.base import Message, TextPart
from ksi.providers.conversation import (
    ConversationHasOutgrown,
    ConversationWasSummarised,
    ConversationWasTrimmed,
    stream_of,
)

BYTES_PER_TOKEN = 3
MESSAGE_TOKENS = 8
"""What stands around each message."""
SUMMARY_TOKENS = 300
SUMMARISE = (
    "You are given a conversation. Sum it up for somebody who must go on with it: what was asked, what was found, what"
    " was agreed. Add nothing."
)
SUMMARY = "What was said before, summed up: "


class Told(msgspec.Struct, frozen=True):
    """Messages, and what stands for those before them."""

    messages: tuple[Message, ...] = ()
    summary: str | None = None


class Telling:
    """Finds what one completion tells of its conversation, and leaves out what does not fit.

    Where nothing more can be left out the provider is asked all the same: it knows better what fits.
    """

    def __init__(self, context: EventContext, plan: Plan, choice: Chosen, completion: str) -> None:
        self._context = context
        self._payload = plan.payload
        self._completion = completion
        self._window = plan.payload.window or choice.context_window

    async def told(self) -> Told:
        """What is told before the new messages.

        Raises:
            KSIError: It could not be summed up.
        """
        found = await self._found()
        if found is None:
            return Told()
        messages = [
            msgspec.convert({"role": said["role"], "parts": said["parts"]}, Message) for said in found["messages"]
        ]
        told = Told(tuple(messages[found["left_out"] :]), found["summary"])
        if self._window is None or self._payload.when_full == "fail":
            return told
        tokens = self._tokens(told)
        if tokens <= self._window:
            return told
        return await self._fitted(messages, found["left_out"], told, tokens)

    async def _found(self) -> dict[str, Any] | None:
        conversation = self._payload.conversation
        if conversation is None:
            return None
        try:
            found: dict[str, Any] = await self._context.request("conversation:get", conversation=conversation)
        except NotFoundError:
            return None
        return found

    def _tokens(self, told: Told) -> int:
        """About how many the whole request has, with the answer that it may get."""
        payload = self._payload
        texts = (payload.system or "") + (told.summary or "")
        tools = canonical.encode([payload.tools, payload.response_schema]) if payload.tools else b""
        around = _tokens_in(texts.encode()) + _tokens_in(tools) + MESSAGE_TOKENS
        return around + payload.output_tokens + tokens_of((*told.messages, *payload.new_messages()))

    # ── leaving out ──────────────────────────────────────────────────────────────────────────────────────────────────
    async def _fitted(self, messages: Sequence[Message], left_out: int, told: Told, tokens: int) -> Told:
        """The same with fewer messages: half of the room stays free, so that not each turn leaves something out."""
        assert self._window is not None and self._payload.conversation is not None  # noqa: PT018 - told() has looked
        is_summed = self._payload.when_full == "summarise"
        spare = self._window - self._tokens(Told((), None if is_summed else told.summary))
        spare -= SUMMARY_TOKENS if is_summed else 0
        places = [place for place in self._beginnings(messages) if place > left_out]
        if not places:
            return told  # the provider says whether it fits
        sizes = {place: tokens_of(messages[place:]) for place in places}
        place = next((each for room in (spare // 2, spare) for each in places if sizes[each] <= room), places[-1])
        stream = stream_of(self._payload.conversation)
        facts: dict[str, Any] = {"left_out": place, "tokens": tokens, "window": self._window}
        facts["completion"] = self._completion
        kept = tuple(messages[place:])
        if not is_summed:
            self._context.append(stream, ConversationWasTrimmed(**facts))
            return Told(kept, told.summary)
        summary = await self._summed(messages[left_out:place], told.summary)
        said = ConversationWasSummarised(**facts, summary=summary)
        self._context.append(stream, said)
        return Told(kept, summary)

    def _beginnings(self, messages: Sequence[Message]) -> list[int]:
        """Where turns begin, also the new one: a call of a tool is not parted from its result."""
        roles = [*(message.role for message in messages), self._payload.new_messages()[0].role]
        return [place for place, role in enumerate(roles) if role == "user"]

    async def _summed(self, messages: Sequence[Message], before: str | None) -> str:
        lines = [f"{SUMMARY}{before}"] if before is not None else []
        lines += [f"{message.role}: {_words(message)}" for message in messages]
        payload = self._payload
        answer = await self._context.request(
            "completion:create",
            prompt="\n\n".join(lines),
            system=SUMMARISE,
            model=payload.model,
            provider=payload.provider,
            agent=payload.agent,
            max_tokens=SUMMARY_TOKENS,
            temperature=0.0,
        )
        return str(answer["text"]).strip()


def note_outgrown(context: EventContext, conversation: str | None, completion: str, reason: str) -> None:
    """Record that a conversation does not fit."""
    if conversation is not None:
        context.append(stream_of(conversation), ConversationHasOutgrown(completion=completion, reason=reason))


def tokens_of(messages: Sequence[Message]) -> int:
    """About how many there are."""
    return sum(_tokens_in(_words(message).encode()) + MESSAGE_TOKENS for message in messages)


def _tokens_in(text: bytes) -> int:
    return -(-len(text) // BYTES_PER_TOKEN)


def _words(message: Message) -> str:
    """All of it; what is no text as JSON."""
    return "\n".join(
        part.text if isinstance(part, TextPart) else canonical.encode(part).decode() for part in message.parts
    )
