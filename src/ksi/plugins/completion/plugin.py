"""The events of completions."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Set
from typing import Any
from uuid import UUID

from ksi.core import canonical, ids
from ksi.core.config import Config
from ksi.core.errors import AmbiguousError, ConflictError, KSIError, NotFoundError
from ksi.core.ports import EventLog
from ksi.kernel.context import EventContext
from ksi.kernel.declare import End, event, query, stream
from ksi.kernel.plugin import AsyncPlugin
from ksi.kernel.router import Router
from ksi.plugins.completion.answering import Answering
from ksi.plugins.completion.choosing import Plan
from ksi.plugins.completion.fold import CompletionFold
from ksi.plugins.completion.past import Past
from ksi.plugins.completion.pushed import PushedResults
from ksi.plugins.completion.shapes import (
    Answered,
    CompletionStatus,
    CreateCompletion,
    OfferedModel,
    OfferedModels,
    RunName,
    ShownCompletion,
    Stopped,
    Text,
    Tokens,
)
from ksi.plugins.completion.view import CATEGORY, CompletionRecord, CompletionsView
from ksi.plugins.shapes import MODEL_ERRORS
from ksi.plugins.usage import estimated, used
from ksi.providers.base import Usage
from ksi.providers.configured import desk_of
from ksi.providers.conversation import conversation_of
from ksi.providers.desk import Desk, Ticket

_OWNER = "desk"
"""Owner of the desk among the services: no plugin, for it outlives their generations."""


class Completion(PushedResults, AsyncPlugin):
    """Asks language models, and keeps every token that they give."""

    name = "completion"
    views = (CompletionsView,)
    folds = (CompletionFold(),)
    _desk: Desk | None = None

    async def initialize(self) -> None:
        services = self.host.services
        if services.provider_of(Desk) is None:
            services.register(Desk, desk_of(services.get(Config)), owner=_OWNER)
        self._desk = services.get(Desk)
        self._desk.adopt()

    async def shutdown(self) -> None:
        if self._desk is not None and await self._desk.release():
            self.host.services.withdraw(_OWNER)

    # ── answers ──────────────────────────────────────────────────────────────────────────────────────────────────────
    @stream(
        "completion:create",
        category=CATEGORY,
        on_crash="interrupted",
        belongs_to=lambda request: conversation_of(request.conversation),
        errors=("not_found", "conflict", "overloaded", "cancelled", *MODEL_ERRORS),
        examples=({"prompt": "Tell me about the sea.", "max_tokens": 64},),
    )
    async def create(self, request: CreateCompletion, context: EventContext) -> AsyncIterator[Text | End[Answered]]:
        """Complete a prompt, or say something in a conversation; the answer comes token by token.

        Cancelled, it ends with what there is (``error.details.partial``). Cut off by a crash it is ``interrupted``, and
        ``completion:resume`` goes on with it.
        """

        async def plan() -> Plan:
            return Plan(payload=request, max_tokens=request.output_tokens, is_bounded=request.max_tokens is not None)

        answering = self._answering(context, context.event_id, plan, priority=request.priority)
        try:
            async with answering.flow() as texts:
                async for text in texts:
                    yield Text(text)
        except asyncio.CancelledError:
            pass  # the router knows who wanted it; what there is is the end value
        yield End(answering.answered())

    @stream(
        "completion:resume",
        category=CATEGORY,
        on_crash="interrupted",
        errors=("not_found", "ambiguous", "conflict", "unsupported", "overloaded", "cancelled", *MODEL_ERRORS),
        examples=({"run": "last"},),
    )
    async def resume(
        self, run: RunName, context: EventContext, max_tokens: Tokens | None = None
    ) -> AsyncIterator[Text | End[Answered]]:
        """Go on with an answer that was cut off, after its last token: nothing lost, nothing twice.

        ``max_tokens`` is for what is still to come; without it the answer ends where it would have ended.
        """
        past = self._past(context)
        root = await past.root_of(run)
        context.adopt_subject(await past.subject_of(root))

        async def plan() -> Plan:
            return await self._plan_of_resume(past, root, max_tokens, context)

        answering = self._answering(context, root, plan)
        try:
            async with answering.flow() as texts:
                async for text in texts:
                    yield Text(text)
        except asyncio.CancelledError:
            pass  # as above
        yield End(answering.answered())

    async def _plan_of_resume(self, past: Past, root: str, max_tokens: int | None, context: EventContext) -> Plan:
        chain = await past.chain(root)
        left = chain.payload.output_tokens - chain.pieces
        return Plan(
            payload=chain.payload,
            # A crash may have come between the last token and the end: one more is the least that can be asked for.
            max_tokens=max_tokens or max(1, left),
            is_bounded=(max_tokens or chain.payload.max_tokens) is not None,
            so_far=chain.text,
            resumes=chain.last,
            asked=chain.asked,
            is_spoken=await _is_spoken(chain.payload.conversation, root, context),
        )

    def _answering(
        self, context: EventContext, root: str, plan: Callable[[], Awaitable[Plan]], *, priority: int | None = None
    ) -> Answering:
        """Take the completion in at the desk, until its answer is on disk."""
        execution = self.host.services.get(Router).running[context.envelope.event_id]
        ticket = Ticket(
            context.event_id,
            context.correlation_id,
            root=root,
            cancel=execution.abort,
            priority=context.envelope.priority if priority is None else priority,
        )
        self.desk.open(ticket)
        execution.watch(self.desk.close, ticket)
        return Answering(context, self.desk, ticket, plan)

    # ── control ──────────────────────────────────────────────────────────────────────────────────────────────────────
    @event("completion:cancel", errors=("not_found", "ambiguous", "conflict"), examples=({"run": "last"},))
    async def cancel(self, run: RunName, context: EventContext) -> Stopped:
        """Stop a completion, in the queue or in the middle; answers with what it had written."""

        async def stop() -> Stopped:
            ticket = self._under_way(run)
            if ticket is None:
                record = await self._past(context).find(run)
                if record is None:
                    raise NotFoundError("completion", run)
                raise ConflictError(f"completion {record.completion} has ended already", completion=record.completion)
            context.adopt_subject(self._subject_of(ticket))
            ticket.cancel()
            raw, error = await ticket.ended
            partial = canonical.decode(raw) if raw is not None else getattr(error, "partial", None)
            return _stopped(ticket, partial or {}, error)

        # What is under way here is nowhere in the log, so what came of it is recorded; no commit comes before the stop.
        stopped: Stopped = await context.observe("completion:stop", {"run": run}, stop, result=Stopped)
        return stopped

    def _subject_of(self, ticket: Ticket) -> str | None:
        running = self.host.services.get(Router).running.get(ids.parse(ticket.completion))
        return None if running is None else running.envelope.subject

    def _under_way(self, run: str) -> Ticket | None:
        """The ticket that a client means. Raises AmbiguousError."""
        tickets = list(self.desk.tickets.values())
        if run == "last":
            return tickets[-1] if tickets else None
        matching = [ticket for ticket in tickets if ticket.run.startswith(run) or ticket.completion.startswith(run)]
        if len(matching) > 1:
            raise AmbiguousError("completion", run, [ticket.completion for ticket in matching])
        return matching[0] if matching else None

    # ── what there is ────────────────────────────────────────────────────────────────────────────────────────────────
    @query("completion:status", errors=("not_found", "ambiguous"), examples=({}, {"run": "last"}))
    async def status(
        self, context: EventContext, run: RunName | None = None, limit: int = 20, after: str | None = None
    ) -> CompletionStatus:
        """Completions that wait, run and ended; of one ``run``, or the ``limit`` newest. One comes with its text."""
        past = self._past(context)
        tickets = list(self.desk.tickets.values())
        running = sum(ticket.status == "running" for ticket in tickets)
        queued = sum(ticket.status == "queued" for ticket in tickets)
        if run is not None:
            return CompletionStatus(running=running, queued=queued, completions=[await self._one(past, run)])
        page = await past.newest(max(0, min(limit, 1000)), after)
        shown = [await self._shown(past, record) for record in reversed(page.records)]
        waiting = [] if after else self._waiting({record.completion for record in page.records})
        return CompletionStatus(running=running, queued=queued, completions=[*shown, *waiting], next=page.next)

    def _waiting(self, known: Set[str]) -> list[ShownCompletion]:
        """Those that are not in the log yet."""
        return [_waiting(ticket) for ticket in self.desk.tickets.values() if ticket.completion not in known]

    async def _one(self, past: Past, run: str) -> ShownCompletion:
        record = await past.find(run)
        if record is not None:
            root = await past.root_of(record.completion)
            text = "".join(await past.texts(await past.completions_of(root)))
            return await self._shown(past, record, text=text)
        ticket = self._under_way(run)
        if ticket is None:
            raise NotFoundError("completion", run)
        return _waiting(ticket)

    async def _shown(self, past: Past, record: CompletionRecord, **more: Any) -> ShownCompletion:
        ticket = self.desk.tickets.get(record.completion)
        is_here = ticket is not None and self._branch_of(ticket) == past.branch
        status = ticket.status if ticket is not None and is_here else await past.status(record.completion)
        return ShownCompletion(
            completion=record.completion,
            run=record.run,
            status=status,
            provider=record.provider,
            model=record.model,
            conversation=record.conversation,
            resumes=record.resumes,
            finish_reason=record.finish_reason,
            usage=await self._counted(past, record) if status == "interrupted" else record.usage,
            cost=record.cost,
            duration_ms=record.duration_ms,
            **more,
        )

    def _branch_of(self, ticket: Ticket) -> str | None:
        running = self.host.services.get(Router).running.get(ids.parse(ticket.completion))
        return None if running is None else running.envelope.branch

    async def _counted(self, past: Past, record: CompletionRecord) -> Usage:
        """Of one that was cut off, by a crash or with a branch, nobody else could say what it has used."""
        completion, log = UUID(record.completion), self.host.services.get(EventLog)
        if await past.is_of_here(record.completion):
            return await used(completion, self.host.services.get(Router), log)
        return await estimated(completion, log, past.branch)

    @query("completion:models", examples=({},))
    async def models(self) -> OfferedModels:
        """The models that can be asked for, and what they can do."""
        return OfferedModels(
            models=[
                OfferedModel(
                    id=info.name,
                    provider=info.provider,
                    sha256=info.sha256,
                    context_window=info.context_window or self.desk.provider(info.provider).capabilities.context_window,
                    capabilities=self.desk.provider(info.provider).capabilities,
                )
                for info in await self.desk.models()
            ],
            default=self.desk.default,
        )

    # ── the plugin's own ─────────────────────────────────────────────────────────────────────────────────────────────
    @property
    def desk(self) -> Desk:
        assert self._desk is not None  # initialize() came first
        return self._desk

    def _past(self, context: EventContext) -> Past:
        services = self.host.services
        return Past(services.get(Router), services.get(EventLog), context)


async def _is_spoken(conversation: str | None, root: str, context: EventContext) -> bool:
    if conversation is None:
        return False
    try:
        found = await context.request("conversation:get", conversation=conversation)
    except NotFoundError:
        return False
    return any(said["completion"] == root for said in found["messages"])


def _stopped(ticket: Ticket, partial: dict[str, Any], error: KSIError | None) -> Stopped:
    return Stopped(
        run=ticket.run,
        completion=ticket.completion,
        status="done" if error is None else "cancelled" if error.code == "cancelled" else "failed",
        text=partial.get("text", ""),
        usage=partial.get("usage"),
    )


def _waiting(ticket: Ticket) -> ShownCompletion:
    return ShownCompletion(
        completion=ticket.completion, run=ticket.run, status=ticket.status, conversation=ticket.conversation
    )
