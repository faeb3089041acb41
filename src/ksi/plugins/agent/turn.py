"""One message to an agent, and its answer: steps of a model, and between them the tools that it calls."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from typing import Any
from uuid import UUID

import msgspec

from ksi.core.envelope import path_of
from ksi.core.errors import ConflictError, InterruptedRunError, InvalidAnswerError, NotFoundError, ValidationError
from ksi.core.events import Filter
from ksi.core.ports import EventLog
from ksi.core.threads import settle
from ksi.kernel.context import EventContext
from ksi.kernel.declare import End
from ksi.kernel.router import Router
from ksi.plugins.agent.form import RETRIES, Form, correction
from ksi.plugins.agent.shapes import SendMessage, Turn
from ksi.plugins.agent.tools import called, offered_tools
from ksi.plugins.agent.view import CATEGORY, AgentAnswered, AgentCalledTool, AgentRecord
from ksi.plugins.usage import NOTHING, added, used
from ksi.providers.base import Message, Tool, ToolCallPart, ToolResultPart, Usage
from ksi.providers.conversation import MessageAdded, stream_of, waiting_calls

SEND_MESSAGE = "agent:send_message"


class Answering:
    """One turn under way.

    After a crash it runs again: it meets the completions that it had asked for, with their chunks, and the tools that
    it had called, and says all that it had said, which the router keeps to itself; a completion that was cut off is
    gone on with by one more resume.
    """

    def __init__(self, context: EventContext, agent: AgentRecord, request: SendMessage) -> None:
        self._context = context
        self._agent = agent
        self._request = request
        self._said: list[str] = []
        self._answer: dict[str, Any] = {}
        self._usage = NOTHING
        self._cost: float | None = 0.0
        self._asked = 0
        """How many completions it has asked for in this life."""
        self._finish_reason = "cancelled"
        self._handed_over: tuple[ToolCallPart, ...] = ()
        self._schema = request.response_schema or agent.response_schema
        self._form = None if self._schema is None else Form(self._schema)
        self._corrected = 0
        self._structured: Any = None

    async def texts(self) -> AsyncGenerator[str, None]:
        """The pieces of the answer, of all steps; of one that has a form it is one piece, when it fits."""
        if self._form or self._agent.tools or self._request.tools or self._request.results:
            await _wait_for_turn(self._context, self._agent)
        tools = [*await offered_tools(self._context, self._agent), *self._request.tools]
        await self._check(tools)
        said: Mapping[str, Any] | None = self._request.said()
        step = 0
        while said is not None:
            step += 1
            async with aclosing(self._step({**said, "tools": tools} if tools else said)) as texts:
                async for text in texts:
                    if self._form is None:
                        yield text
            said = await self._next(step)
        own, others = self._calls()
        if others:
            await self._hand_over(step, own, others)
            return
        if self._form is not None and not own:
            self._structured = self._fitting(self._form)
            yield self._text
        self._end("max_steps" if own else self._answer["finish_reason"])

    async def _next(self, step: int) -> dict[str, Any] | None:
        """What the model is told next; None where the turn is over."""
        own, others = self._calls()
        if others or step == self._agent.max_steps:
            return None
        if own:
            return {"messages": [{"role": "tool", "parts": await self._results(step, own)}]}
        problem = None if self._form is None else self._form.read(self._text)[1]
        if problem is None or self._corrected == RETRIES:
            return None
        self._corrected += 1
        return {"prompt": correction(problem)}

    def _fitting(self, form: Form) -> Any:
        """The value of the answer. Raises InvalidAnswerError."""
        value, problem = form.read(self._text)
        if problem is None:
            return value
        error = InvalidAnswerError(problem, provider=self._answer["provider"])
        error.partial = msgspec.to_builtins(self.ended())
        raise error

    async def _check(self, tools: Sequence[Tool]) -> None:
        """Refuse what can not be said.

        Raises:
            ValidationError: Two tools have one name.
            ConflictError: A result is of no call that waits for one.
        """
        if len({tool.name for tool in tools}) < len(tools):
            raise ValidationError("two tools have the same name; those of the agent count too")
        given = {result.id for result in self._request.results}
        if not given:
            return
        found = await self._context.request("conversation:get", conversation=self._agent.conversation)
        told = [msgspec.convert({"role": said["role"], "parts": said["parts"]}, Message) for said in found["messages"]]
        unasked = sorted(given - waiting_calls(told))
        if unasked:
            raise ConflictError(f"nobody waits for the result of {unasked[0]!r}", agent=self._agent.agent)

    def _calls(self) -> tuple[list[ToolCallPart], list[ToolCallPart]]:
        """What the model asks for: of the agent's own tools, or of nobody's; and of those of who speaks."""
        calls = msgspec.convert(self._answer.get("tool_calls", ()), list[ToolCallPart])
        theirs = {tool.name for tool in self._request.tools}
        return [call for call in calls if call.name not in theirs], [call for call in calls if call.name in theirs]

    async def _hand_over(self, step: int, own: Sequence[ToolCallPart], others: Sequence[ToolCallPart]) -> None:
        """End the turn: who speaks has the next word. What the own tools gave stands before it in the conversation."""
        if own:
            results = tuple(await self._results(step, own))
            told = MessageAdded(role="tool", parts=results, completion=self._answer["completion"])
            self._context.append(stream_of(self._agent.conversation), told)
        self._handed_over = tuple(others)
        self._end("tool_calls")

    async def _step(self, said: Mapping[str, Any]) -> AsyncGenerator[str, None]:
        """One answer of the model."""
        self._answer = {}
        if self._form is not None:
            self._said.clear()  # what did not fit was given to nobody
        root = self._asked
        asked = {
            **said,
            "conversation": self._agent.conversation,
            "system": self._agent.system,
            "model": self._agent.model,
            "provider": self._agent.provider,
            "max_tokens": self._request.max_tokens or self._agent.max_tokens,
            "temperature": self._agent.temperature,
            "agent": self._agent.agent,
            "when_full": self._agent.when_full,
            "window": self._agent.window,
        }
        if self._agent.failover is not None:
            asked["failover"] = self._agent.failover
        if self._schema is not None:
            asked["response_schema"] = self._schema
        completion = self._ask("completion:create", asked)
        while not self._answer:
            try:
                async with aclosing(completion) as items:
                    async for item in items:
                        if isinstance(item, End):
                            self._answer = item.answer
                            self._add(item.answer)
                        else:
                            self._said.append(item["text"])
                            yield item["text"]
            except InterruptedRunError:  # only by an earlier crash, so not more often than the turn was run again
                completion = self._ask("completion:resume", {"run": str(await self._count_cut_off(root))})

    def _add(self, answer: Mapping[str, Any]) -> None:
        """Count what an answer has used."""
        self._usage = added(self._usage, msgspec.convert(answer["usage"], Usage))
        cost = answer.get("cost")
        self._cost = None if cost is None or self._cost is None else self._cost + cost

    def _ask(self, event: str, asked: Mapping[str, Any]) -> AsyncGenerator[Any, None]:
        self._asked += 1
        return self._context.stream(event, asked)

    # ── tools ────────────────────────────────────────────────────────────────────────────────────────────────────────
    async def _results(self, step: int, calls: Sequence[ToolCallPart]) -> list[ToolResultPart]:
        """What the tools gave, one after another; it is on disk before the model is asked again."""
        results = []
        for number, call in enumerate(calls, 1):
            result = await called(self._context, self._agent, call, step=f"tool {step}.{number}")
            self._note(call, result)
            results.append(result)
        await self._context.commit()
        return results

    def _note(self, call: ToolCallPart, result: ToolResultPart) -> None:
        was_called = AgentCalledTool(
            agent=self._agent.agent,
            completion=self._answer["completion"],
            call=call.id,
            tool=call.name,
            is_error=result.is_error,
        )
        self._context.append(f"{CATEGORY}/{self._agent.agent}", was_called)

    # ── how it ends ──────────────────────────────────────────────────────────────────────────────────────────────────
    def _end(self, reason: str) -> None:
        self._finish_reason = reason
        answered = AgentAnswered(
            agent=self._agent.agent,
            completion=self._answer["completion"],
            sender=self._request.sender,
            usage=self._usage,
        )
        self._context.append(f"{CATEGORY}/{self._agent.agent}", answered)

    async def stopped(self) -> None:
        """It was cancelled, and with it its completion: what that has used counts."""
        asked = await self._completions()
        if not self._answer and len(asked) >= self._asked > 0:
            await self._count(asked[self._asked - 1])

    async def _count_cut_off(self, root: int) -> UUID:
        """Count what the completion that a crash cut off has used; the answer is the one that the step began with."""
        asked = await self._completions()
        if len(asked) < self._asked:
            raise NotFoundError("completion of turn", self._context.event_id)
        await self._count(asked[self._asked - 1])
        return asked[root]

    async def _count(self, completion: UUID) -> None:
        services = self._context.services
        usage = await used(completion, services.get(Router), services.get(EventLog))
        self._usage, self._cost = added(self._usage, usage), None

    async def _completions(self) -> list[UUID]:
        """Those that this turn has asked for, also in earlier lives, in order; without those of its tools."""
        envelope = self._context.envelope
        own = f"{path_of(envelope, '')}/completion:"
        names = ("completion:create", "completion:resume")
        query = (Filter(names=names, kinds=("request",), causation_id=UUID(bytes=envelope.event_id)),)
        requests = self._context.services.get(EventLog).read_all(query, branch=envelope.branch)
        return [each.event_id async for each in requests if each.metadata.get("path", "").startswith(own)]

    @property
    def _text(self) -> str:
        return "".join(self._said)

    def ended(self) -> Turn:
        """The end value, also of a turn that was cancelled."""
        return Turn(
            agent=self._agent.agent,
            run=self._context.correlation_id,
            completion=self._answer.get("completion"),
            conversation=self._agent.conversation,
            text=self._text,
            structured=self._structured,
            finish_reason=self._finish_reason,
            usage=self._usage,
            model=self._answer.get("model"),
            provider=self._answer.get("provider"),
            cost=self._cost,
            tool_calls=self._handed_over,
        )


async def _wait_for_turn(context: EventContext, agent: AgentRecord) -> None:
    """Wait until the agent's turns that began before have ended: nothing may stand between a tool call and its result.

    Raises:
        ConflictError: One of them waits for this very turn.
        OverloadedError: Too many wait already.
    """
    router = context.services.get(Router)
    turn = router.running[context.envelope.event_id]
    each = turn.parent
    while each is not None:
        if each.row.name == SEND_MESSAGE and each.payload.agent == agent.agent:
            raise ConflictError(f"agent {agent.agent!r} is in a turn that waits for this one", agent=agent.agent)
        each = each.parent
    key = f"turn/{agent.conversation}"
    got: asyncio.Future[None] = router.loop.create_future()
    router.keys.acquire(key, turn, lambda: settle(got, None, None))
    try:
        await got
    except asyncio.CancelledError:
        if not router.keys.forget(key, turn):
            router.keys.release(key, turn)
        raise
    turn.watch(lambda *_: router.keys.release(key, turn), None)
