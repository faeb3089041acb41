"""Declared answers, token by token: for tests and rehearsals. Labelled as what it is."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence

import msgspec

from ksi.core.errors import KSIError, NotFoundError
from ksi.providers.base import (
    AnyChunk,
    Capabilities,
    CompletionRequest,
    Finished,
    ModelInfo,
    TextDelta,
    ToolCallDelta,
    estimate_usage,
)
from ksi.providers.timeouts import DEFAULT_TIMEOUTS, Timeouts, patiently

PROVIDER = "script"
CAPABILITIES = Capabilities(continues=True, structured=True, tools=True)

Answer = str | Sequence[str | ToolCallDelta | KSIError]
"""A text, split into words, or its tokens one by one; an error among them is raised in its place."""

Answers = Sequence[Answer] | Callable[[CompletionRequest], Answer]
BeforeToken = Callable[[int], Awaitable[None]]


class Hold:
    """Stops a stream before its token number ``at`` (from 0) until it is released: tests wait for ``reached``."""

    def __init__(self, *, at: int) -> None:
        self.reached = asyncio.Event()
        self._at = at
        self._released = asyncio.Event()

    def release(self) -> None:
        self._released.set()

    async def __call__(self, index: int) -> None:
        if index == self._at:
            self.reached.set()
            await self._released.wait()


class ScriptProvider:
    """Gives the answers that it was told.

    Args:
        answers: One for each request, in order, or a function of the request. An answer that begins with the
            request's ``continue_text`` goes on behind it.
        before_token: Awaited before each token with its number in this stream: a :class:`Hold`, or a clock's sleep.
        models: The names that a request may give.
    """

    name = PROVIDER
    capabilities = CAPABILITIES

    def __init__(
        self, answers: Answers, *, before_token: BeforeToken | None = None, models: Sequence[str] = (PROVIDER,)
    ) -> None:
        self.requests: list[CompletionRequest] = []
        self.streams_open = 0
        self._answers = answers
        self._before_token = before_token
        self._models = list(models)

    async def start(self) -> None:
        """Nothing to do."""

    async def aclose(self) -> None:
        """Nothing to do."""

    async def models(self) -> list[ModelInfo]:
        return [ModelInfo(name=name, provider=self.name) for name in self._models]

    def stream(
        self, request: CompletionRequest, *, timeouts: Timeouts = DEFAULT_TIMEOUTS
    ) -> AsyncGenerator[AnyChunk, None]:
        return patiently(self._chunks(request), timeouts, provider=self.name)

    async def _chunks(self, request: CompletionRequest) -> AsyncGenerator[AnyChunk, None]:
        tokens = _after(self._next_answer(request), request.continue_text or "")
        allowed = tokens[: request.max_tokens]
        self.streams_open += 1
        try:
            for index, token in enumerate(allowed):
                if self._before_token is not None:
                    await self._before_token(index)
                yield _delta(token)
        finally:
            self.streams_open -= 1
        yield self._finished(request, tokens, allowed)

    def _next_answer(self, request: CompletionRequest) -> Answer:
        if request.model not in self._models:
            raise NotFoundError(f"model of {self.name}", request.model)
        self.requests.append(request)
        if callable(self._answers):
            return self._answers(request)
        if len(self.requests) > len(self._answers):
            raise NotFoundError("scripted answer", str(len(self.requests)))
        return self._answers[len(self.requests) - 1]

    def _finished(self, request: CompletionRequest, tokens: Sequence[object], allowed: Sequence[object]) -> Finished:
        calls = any(isinstance(token, ToolCallDelta) for token in allowed)
        return Finished(
            reason="length" if len(allowed) < len(tokens) else "tool_calls" if calls else "stop",
            # It is its own count: nobody else has another.
            usage=msgspec.structs.replace(estimate_usage(request, output_tokens=len(allowed)), estimated=False),
            provider=self.name,
            model=request.model,
        )


def _after(answer: Answer, so_far: str) -> list[str | ToolCallDelta | KSIError]:
    if isinstance(answer, str):
        return list(_words(answer.removeprefix(so_far)))
    return list(answer)


def _words(text: str) -> list[str]:
    """A word with the space in front of it, as models write; together they are ``text``."""
    return re.findall(r"\s*\S+|\s+", text)


def _delta(token: str | ToolCallDelta | KSIError) -> AnyChunk:
    match token:
        case KSIError():
            raise token
        case ToolCallDelta():
            return token
        case text:
            return TextDelta(text=text)
