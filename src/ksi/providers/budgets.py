"""Budgets as those see them who are about to pay."""

from __future__ import annotations

from typing import Any, Protocol

import msgspec

from ksi.core import canonical
from ksi.providers.base import CompletionRequest, TextPart, Usage

MESSAGE_TOKENS = 16
"""At most so many tokens stand around the text of a message."""
OUTPUT_TOKENS_MAX = 32_768
"""Tokens that a call is taken to write at most where nobody says: no more than most models can."""


class PaidCall(msgspec.Struct, frozen=True, kw_only=True):
    """A call of a model that is about to be made. ``call`` is the completion that it is settled with.

    ``output_tokens`` None: the request does not bound its answer; it may write what there is room for, and no more than
    ``output_tokens_max``.
    """

    call: str
    scopes: tuple[str, ...]
    provider: str
    model: str
    input_tokens: int
    output_tokens: int | None
    output_tokens_max: int = OUTPUT_TOKENS_MAX


def scopes_of(
    principal: str, provider: str, *, conversation: str | None = None, agent: str | None = None
) -> tuple[str, ...]:
    """Every scope that a call counts for. An agent that asks by itself, through a tool, counts as it does in a turn."""
    scopes = ["all", f"principal:{principal}", f"provider:{provider}"]
    scopes += [] if conversation is None else [f"conversation:{conversation}"]
    scopes += [] if agent is None else [f"agent:{agent}"]
    scopes += [principal] if principal.startswith("agent:") else []
    return tuple(dict.fromkeys(scopes))


class Budgets(Protocol):
    """A service; where nobody provides it nothing is capped."""

    async def reserve(self, context: Any, call: PaidCall) -> int | None:
        """Take ``call`` out of every budget that one of its scopes has, on disk, or out of none.

        It is settled by the fact that ends the completion, or by :meth:`settle`; one that a crash cut off counts as
        spent.

        Args:
            context: That of the handler which makes the call.

        Returns:
            How many tokens may be written; None where nothing is capped.

        Raises:
            BudgetExceededError: It might cost more than is left. The model must not be called.
            UnsupportedError: Money is capped, and nobody knows the model's price.
        """

    def settle(self, context: Any, call: str, usage: Usage) -> None:
        """Give back what a call that is no completion has not used: with the next commit of ``context``."""


def input_tokens_max(request: CompletionRequest) -> int:
    """An upper bound: no tokenizer of bytes makes more tokens than there are bytes."""
    texts = [part.text for message in request.messages for part in message.parts if isinstance(part, TextPart)]
    others = sum(not isinstance(part, TextPart) for message in request.messages for part in message.parts)
    text_bytes = sum(len(text.encode()) for text in (*texts, request.continue_text or ""))
    around = (
        canonical.encode([request.tools, request.response_schema]) if request.tools or request.response_schema else b""
    )
    around_tokens = TOOLS_TOKENS if around else 0
    return (
        text_bytes + len(around) + around_tokens + MESSAGE_TOKENS * (len(request.messages) + 1) + OTHER_TOKENS * others
    )


TOOLS_TOKENS = 640
"""At most so many tokens do providers write around tools, or the schema of an answer."""
OTHER_TOKENS = 4_096
"""At most so many tokens stand for an image or file."""
