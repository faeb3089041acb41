"""One completion under way: its place at the desk, its provider's stream, and what is recorded of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from datetime import datetime
from typing import Any

import msgspec

from ksi.core.errors import (
    ContextLengthError,
    KSIError,
    ProviderBugError,
    ProviderError,
    ProviderTimeoutError,
    StreamInterruptedError,
)
from ksi.kernel.context import EventContext
from ksi.plugins.completion.choosing import PASSED_ON, Choosing, Chosen, Plan
from ksi.plugins.completion.past import EFFECT, Asked
from ksi.plugins.completion.paying import Paying
from ksi.plugins.completion.shapes import Answered
from ksi.plugins.completion.tool_calls import ToolCalls
from ksi.plugins.completion.view import (
    CompletionEnded,
    CompletionFailedOver,
    CompletionFinished,
    CompletionInterrupted,
    CompletionStarted,
)
from ksi.plugins.completion.view import stream_of as stream_of_completion
from ksi.plugins.completion.window import SUMMARY, Telling, Told, note_outgrown
from ksi.providers import schema_as_text, tools_as_text
from ksi.providers.base import (
    AnyChunk,
    AnyPart,
    CompletionRequest,
    Counted,
    Finished,
    Message,
    TextDelta,
    TextPart,
    ToolCallDelta,
    ToolCallPart,
    Usage,
    estimate_usage,
)
from ksi.providers.conversation import MessageAdded, mended, stream_of
from ksi.providers.desk import Desk, Ticket
from ksi.providers.drained import WritesAhead, drained

MAY_HAVE_READ = (ProviderTimeoutError, StreamInterruptedError, ProviderBugError)
"""Errors of a provider that has perhaps read the prompt, and counts it; who refuses counts nothing."""


class Answering:
    """Gives the answer's text as it comes; however that ends, usage and messages are recorded.

    Args:
        plan: Says what to do. It is asked when no other one can go on with the same answer.
    """

    def __init__(self, context: EventContext, desk: Desk, ticket: Ticket, plan: Callable[[], Awaitable[Plan]]) -> None:
        self._context = context
        self._desk = desk
        self._ticket = ticket
        self._make_plan = plan
        self._began_at = context.now()
        self._first_at: datetime | None = None
        self._texts: list[str] = []
        self._calls = ToolCalls()
        self._paying = Paying(context, ticket.completion)
        self._plan: Plan | None = None
        self._choice: Chosen | None = None
        self._request: CompletionRequest | None = None
        self._finished: Finished | None = None
        self._counted: Usage | None = None
        self._unread = 0
        """Pieces that the provider had written when it was stopped, and nobody has read."""
        self._refusal: KSIError | None = None
        """What the provider said in place of the rest of its answer."""
        self._refused_by: tuple[str, str] | None = None
        self._has_begun = False
        self._told: Told | None = None

    # ── the flow ─────────────────────────────────────────────────────────────────────────────────────────────────────
    @asynccontextmanager
    async def flow(self) -> AsyncIterator[AsyncIterator[str]]:
        """The pieces of the text. Leaving it stops the provider.

        Raises:
            OverloadedError: Too many wait for the provider, or in the conversation.
            NotFoundError: Nobody has such a provider or model.
            UnsupportedError: The provider can not go on inside an answer.
            ProviderError: It failed, and nobody else is to be asked; ``partial`` is what there is of the answer.
        """
        plan = self._plan = await self._make_plan()
        choosing = Choosing(self._context, self._desk, plan)
        self._choice = await choosing.next()
        self._ticket.conversation = plan.payload.conversation
        await self._desk.turn(self._ticket)
        if plan.payload.when_full == "summarise" and plan.asked is None:
            await self._look_up(plan, self._choice)  # while it has no place yet: a summary takes one itself
        try:
            async with AsyncExitStack() as attempt:
                yield await self._begun(attempt, choosing, plan)
        except asyncio.CancelledError:
            self._record_end(CompletionInterrupted, "cancelled")
            raise
        except KSIError as error:
            self._record_end(CompletionInterrupted, error.code)
            if isinstance(error, ContextLengthError):
                note_outgrown(self._context, plan.payload.conversation, self._ticket.completion, error.message)
            if isinstance(error, ProviderError):
                error.partial = msgspec.to_builtins(self.answered())
            raise
        self._record_end(CompletionFinished, self.finish_reason)

    async def _begun(self, attempt: AsyncExitStack, choosing: Choosing, plan: Plan) -> AsyncIterator[str]:
        """The answer of the first provider that says something; ``attempt`` is left with it."""
        while True:
            assert self._choice is not None  # flow() has chosen
            try:
                return await attempt.enter_async_context(self._attempt(plan, self._choice))
            except PASSED_ON as error:
                if not self._has_begun:
                    raise
                choosing.refuse(self._choice, error)
                await self._context.commit()
                choice = await choosing.next()
                self._note_refusal(self._choice, error)
                await self._context.commit()  # what is given back can be reserved again
                self._choice = choice

    @asynccontextmanager
    async def _attempt(self, plan: Plan, choice: Chosen) -> AsyncIterator[AsyncIterator[str]]:
        """One provider's answer, its first piece already here."""
        async with self._desk.place(self._ticket, choice.provider):
            self._calls, self._finished, self._refusal = ToolCalls(), None, None
            self._counted, self._unread = None, 0
            request = self._request = await self._resolve(plan, choice)
            granted = await self._paying.reserve(plan, choice, request)
            self._plan = msgspec.structs.replace(plan, max_tokens=granted)
            request = self._request = msgspec.structs.replace(request, max_tokens=granted)
            await self._begin(plan, choice)
            async with self._asking(choice, request) as texts:
                first = await anext(texts, None)
                async with aclosing(_primed(first, texts)) as primed:
                    yield primed

    @asynccontextmanager
    async def _asking(self, choice: Chosen, request: CompletionRequest) -> AsyncIterator[AsyncIterator[str]]:
        """The effect itself: the request is on disk before the provider is called."""

        def ask() -> AsyncGenerator[AnyChunk, None]:
            provider = self._desk.provider(choice.provider)
            told = schema_as_text.in_words(request, provider.capabilities)
            chunks = tools_as_text.stream(provider, told, self._desk.timeouts)
            heeded = self._desk.heeding(choice.provider, chunks)
            return drained(heeded, self._overhear) if isinstance(provider, WritesAhead) else heeded

        async with self._context.streamed_effect(EFFECT, Asked(provider=choice.provider, request=request)) as effect:
            try:
                async with (
                    aclosing(effect.pieces(ask, _again)) as chunks,
                    aclosing(self._taken(chunks)) as texts,
                ):
                    yield texts
                if self._finished is None:
                    raise ProviderBugError("its answer has no end", provider=choice.provider)
            except KSIError as error:
                self._refusal = error
                raise
            finally:
                effect.complete(self._completed())

    def _completed(self) -> dict[str, Any]:
        """What is recorded of the end, enough for :func:`_again`."""
        usage = msgspec.to_builtins(self.usage)
        if self._finished is None:
            return {"finish_reason": "cancelled", "usage": usage}
        finished: dict[str, Any] = msgspec.to_builtins(self._finished)
        calls = {"tool_calls": msgspec.to_builtins(self._calls.deltas)} if self._calls.deltas else {}
        return finished | calls | {"finish_reason": self._finished.reason}

    async def _taken(self, chunks: AsyncIterator[AnyChunk]) -> AsyncGenerator[str, None]:
        async for chunk in chunks:
            if not isinstance(chunk, Counted | Finished) and self._is_past_its_bound():
                self._finished = self._cut()
                return
            match chunk:
                case TextDelta(text=text):
                    self._first_at = self._first_at or self._context.now()
                    self._texts.append(text)
                    yield text
                case ToolCallDelta():
                    self._calls.add(chunk)
                case Counted(usage=usage):
                    self._counted = usage
                case Finished():
                    self._finished = chunk

    def _overhear(self, chunk: AnyChunk) -> None:
        if isinstance(chunk, Counted | Finished):
            self._counted = chunk.usage
        else:
            self._unread += 1

    def _is_past_its_bound(self) -> bool:
        """Whether a provider writes on behind ``max_tokens``, for which a budget stands: so many pieces are there."""
        assert self._plan is not None  # it is answering
        return self._paying.is_reserved and self._pieces >= self._plan.max_tokens

    def _cut(self) -> Finished:
        assert self._request is not None and self._choice is not None  # noqa: PT018 - it is answering
        usage = estimate_usage(self._request, output_tokens=self._pieces)
        return Finished(reason="length", usage=usage, provider=self._choice.provider, model=self._choice.model)

    @property
    def _pieces(self) -> int:
        return len(self._texts) + sum(bool(delta.arguments) for delta in self._calls.deltas)

    # ── before it ────────────────────────────────────────────────────────────────────────────────────────────────────
    async def _look_up(self, plan: Plan, choice: Chosen) -> Told:
        """What was said in the conversation, now that it is this one's turn."""
        if self._told is None:
            self._told = await Telling(self._context, plan, choice, self._ticket.completion).told()
        return self._told

    async def _resolve(self, plan: Plan, choice: Chosen) -> CompletionRequest:
        """What is sent."""
        if plan.asked is not None:
            return msgspec.structs.replace(
                plan.asked.request, continue_text=plan.so_far or None, max_tokens=plan.max_tokens
            )
        payload, told = plan.payload, await self._look_up(plan, choice)
        first = [payload.system, None if told.summary is None else f"{SUMMARY}{told.summary}"]
        words = "\n\n".join(filter(None, first))
        system = (Message(role="system", parts=(TextPart(text=words),)),) if words else ()
        return CompletionRequest(
            messages=mended((*system, *told.messages, *payload.new_messages())),
            model=choice.model,
            max_tokens=plan.max_tokens,
            temperature=payload.temperature,
            seed=payload.seed,
            stop=payload.stop,
            tools=payload.tools,
            response_schema=payload.response_schema,
        )

    async def _begin(self, plan: Plan, choice: Chosen) -> None:
        self._context.append(stream_of_completion(self._ticket.completion), self._beginning(plan, choice))
        await self._context.commit()
        self._has_begun = True

    def _beginning(self, plan: Plan, choice: Chosen) -> CompletionStarted | CompletionFailedOver:
        if self._refused_by is not None:
            provider, reason = self._refused_by
            return CompletionFailedOver(
                completion=self._ticket.completion,
                provider=choice.provider,
                model=choice.model,
                refused_by=provider,
                reason=reason,
            )
        return CompletionStarted(
            completion=self._ticket.completion,
            run=self._ticket.run,
            provider=choice.provider,
            model=choice.model,
            conversation=plan.payload.conversation,
            resumes=plan.resumes,
        )

    # ── after it ─────────────────────────────────────────────────────────────────────────────────────────────────────
    def _note_refusal(self, choice: Chosen, error: KSIError) -> None:
        self._refused_by = choice.provider, error.code
        self._desk.count(choice.provider, choice.model, self.usage)
        self._paying.give_back(self.usage)

    def _record_end(self, kind: type[CompletionEnded], reason: str) -> None:
        if not self._has_begun:
            return
        if self._choice is not None:
            self._desk.count(self._choice.provider, self._choice.model, self.usage)
        if self._context.is_closed:  # its time was over: the answer is out, and says so
            return
        ended = kind(
            completion=self._ticket.completion,
            reason=reason,
            usage=self.usage,
            duration_ms=self._since(self._context.now()),
            first_token_ms=self._first_token_ms,
            cost=self.cost,
        )
        self._context.append(stream_of_completion(self._ticket.completion), ended)
        self._record_messages(is_partial=kind is CompletionInterrupted)

    def _record_messages(self, *, is_partial: bool) -> None:
        """A turn enters its conversation when there is something of an answer; what tools gave does in any case."""
        plan, answer = self._plan, self._answer_parts()
        if plan is None or plan.payload.conversation is None:
            return
        if not answer and not any(message.role == "tool" for message in plan.payload.new_messages()):
            return
        root, stream = self._ticket.root, stream_of(plan.payload.conversation)
        if not plan.is_spoken:
            for message in plan.payload.new_messages():
                said = MessageAdded(role=message.role, parts=message.parts, completion=root)
                self._context.append(stream, said)
        if answer:
            answered = MessageAdded(role="assistant", parts=answer, completion=root, partial=is_partial)
            self._context.append(stream, answered)

    def _answer_parts(self) -> tuple[AnyPart, ...]:
        return (*((TextPart(text=self.text),) if self.text else ()), *self._whole_calls())

    def _whole_calls(self) -> tuple[ToolCallPart, ...]:
        """The calls of an answer that has its end: of one that was cut off, none is certain to be whole."""
        if self._finished is None or self._finished.reason in ("length", "content_filter"):
            return ()
        return self._calls.whole(self._provider)

    # ── what there is of it ──────────────────────────────────────────────────────────────────────────────────────────
    @property
    def text(self) -> str:
        """The whole answer so far."""
        return "".join([self._plan.so_far if self._plan else "", *self._texts])

    @property
    def usage(self) -> Usage:
        if self._finished is not None:
            return self._finished.usage
        if self._counted is not None:
            return self._counted
        written = len(self._texts) + len(self._calls.deltas) + self._unread
        if self._refusal is not None and not written and not isinstance(self._refusal, MAY_HAVE_READ):
            return Usage(input_tokens=0, output_tokens=0)
        if self._request is None:
            return Usage(input_tokens=0, output_tokens=0, estimated=True)
        return estimate_usage(self._request, output_tokens=written)

    @property
    def cost(self) -> float | None:
        """Dollars, by the price that was known when its provider was chosen."""
        price, used = (self._choice.price if self._choice else None), self.usage
        if price is None:
            return None
        return price.cost(input_tokens=used.input_tokens, output_tokens=used.output_tokens) / 1_000_000

    @property
    def finish_reason(self) -> str:
        return "cancelled" if self._finished is None else self._finished.reason

    def answered(self) -> Answered:
        """The end value, also of an answer that was stopped."""
        choice, finished = self._choice, self._finished
        return Answered(
            run=self._ticket.run,
            completion=self._ticket.completion,
            text=self.text,
            finish_reason=self.finish_reason,
            usage=self.usage,
            model=finished.model if finished else choice.model if choice else "",
            provider=self._provider,
            model_sha256=choice.sha256 if choice else None,
            conversation=self._plan.payload.conversation if self._plan else None,
            duration_ms=self._since(self._context.now()),
            first_token_ms=self._first_token_ms,
            resumed_from=self._plan.resumes if self._plan else None,
            tool_calls=self._whole_calls(),
            cost=self.cost,
            price=choice.price if choice else None,
        )

    @property
    def _provider(self) -> str:
        if self._finished is not None:
            return self._finished.provider
        return self._choice.provider if self._choice else ""

    @property
    def _first_token_ms(self) -> float | None:
        return None if self._first_at is None else self._since(self._first_at)

    def _since(self, moment: datetime) -> float:
        """Milliseconds from the request to ``moment``; never less than 0, for the machine's clock may go back."""
        return max(0.0, round((moment - self._began_at).total_seconds() * 1000, 1))


async def _primed(first: str | None, texts: AsyncIterator[str]) -> AsyncGenerator[str, None]:
    """``first``, and what comes behind it."""
    if first is not None:
        yield first
        async for text in texts:
            yield text


def _again(chunks: Sequence[Any], completed: Any) -> Iterator[AnyChunk]:
    """What the provider gave, out of what the log holds."""
    for chunk in chunks:
        yield TextDelta(text=chunk["text"])
    if completed is not None and completed["finish_reason"] == "cancelled":
        yield Counted(usage=msgspec.convert(completed["usage"], Usage))
    elif completed is not None:
        yield from msgspec.convert(completed.get("tool_calls", []), list[ToolCallDelta])
        yield msgspec.convert({name: completed[name] for name in Finished.__struct_fields__}, Finished)
