"""Rows of the router's table: everything about one event that can be decided when it is registered.

The hot path looks a row up and calls it. A query whose one handler never waits is answered right there, without a task,
a future or an :class:`~ksi.kernel.execution.Execution`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from ksi.core import canonical
from ksi.core.envelope import EventEnvelope
from ksi.core.errors import (
    CancelledError,
    HandlersFailedError,
    InternalError,
    InvalidResponseError,
    KSIError,
    NoAnswerError,
    NoHandlerError,
    ValidationError,
)
from ksi.core.events import MAIN
from ksi.core.hints import is_struct
from ksi.kernel.context import EventContext
from ksi.kernel.deciding import compile_deciding
from ksi.kernel.door import Call, Done, Session
from ksi.kernel.execution import CANCEL_GRACE, Execution
from ksi.kernel.foreign import ENDS, FOREIGN, said_of
from ksi.kernel.latency import Latency
from ksi.kernel.middleware import Parked, Stack, wrap
from ksi.kernel.querying import REFUSED_ANSWERS, compile_async, compile_inline, end_measured, measured
from ksi.kernel.schema import invalid
from ksi.kernel.spec import EventSpec, HandlerSpec

if TYPE_CHECKING:
    from ksi.kernel.router import Router

_log = logging.getLogger("ksi.kernel")
REFUSALS = (ValidationError, msgspec.MsgspecError, ValueError, RecursionError)
"""What decoders of both kinds raise; pydantic's is a ValueError."""


class Row:
    """One event, ready to be called."""

    def __init__(self, router: Router, spec: EventSpec, stack: Stack) -> None:
        declaration = spec.declaration
        self.router = router
        self.spec = spec
        self.name = spec.name
        self.declaration = declaration
        self.handlers = spec.handlers
        self.owner = spec.handlers[0].owner if spec.handlers else spec.declared_by or "nobody"
        self.stack = stack
        self.is_query = declaration.durability == "none"
        self.is_recorded = not self.is_query
        self.is_before = declaration.durability == "before"
        self.is_stream = declaration.kind == "stream"
        self.only_shows = self.is_stream and self.is_query and spec.answer.hint is None
        """Whether it is a stream of what is recorded elsewhere, or of nothing that lasts, and has no end value."""
        self.timeout = declaration.timeout
        self.has_locks = declaration.key is not None or declaration.concurrent is not None
        self.can_wait = any(handler.mode != "inline" for handler in spec.handlers) or bool(stack.onions)
        self.decode = self._decoder()
        is_plain = is_struct(spec.payload.hint) and not spec.payload.is_deep
        self.frame_type = spec.payload.hint if is_plain else msgspec.Raw
        """What a frame's data may be decoded into at once: not what needs a look at its depth, nor a model."""
        self.category = declaration.category or spec.name.partition(":")[0]
        self.chunk_name = spec.name
        self.on_end: Callable[[], None] | None = None
        """Called after each of its requests, while a generation that was replaced drains."""
        self.calls = 0
        self.latency = Latency()
        self.errors: dict[str, int] = {}
        self.dispatch: Callable[..., Call | None]
        self.answer_now: Callable[..., bytes | None] | None
        self.compile()

    # ── values ───────────────────────────────────────────────────────────────────────────────────────────────────────
    def _decoder(self) -> Callable[[bytes], Any]:
        decode = self.spec.payload.decode
        if not self.spec.payload.is_deep:
            return decode

        def decode_deep(raw: bytes) -> Any:
            canonical.refuse_depth(raw)
            return decode(raw)

        return decode_deep

    def payload(self, envelope: EventEnvelope) -> Any:
        """The typed payload; what is recorded of it is the canonical form. Raises ValidationError."""
        try:
            payload = envelope.typed or self.decode(envelope.raw)
            if self.is_recorded:
                envelope.raw, envelope.typed = self.spec.payload.encode(payload), None
        except REFUSALS as error:
            raise invalid(self.name, error) from None
        return payload

    def encode_answer(self, answer: Any) -> bytes:
        """JSON of a handler's answer. Raises what :meth:`explain_answer` says."""
        try:
            return self.spec.answer.encode(answer)
        except REFUSED_ANSWERS as error:
            raise self.explain_answer(answer, error) from None

    def encode_chunk(self, chunk: Any) -> bytes:
        """Raises InvalidResponseError."""
        try:
            return self.spec.chunk.encode(chunk)  # type: ignore[union-attr]  # a stream's row has one
        except REFUSED_ANSWERS as error:
            raise InvalidResponseError(self.name, str(error)) from None

    def explain_answer(self, answer: Any, refused: Exception) -> KSIError:
        """What an answer that can not be encoded means: "not mine", or one outside its schema."""
        if answer is None:
            return NoAnswerError(self.name)
        return InvalidResponseError(self.name, str(refused))

    def locks(self, payload: Any, branch: str) -> Sequence[tuple[str, int]]:
        """Key and slot that a request needs, with their capacities. Raises InternalError where the key does."""
        if not self.has_locks:
            return ()
        locks = []
        if self.declaration.key is not None:
            try:
                key = self.declaration.key(payload)
                locks.append((key if branch == MAIN else f"{key} on {branch}", 1))
            except ENDS as error:  # the router's door: the key function is the plugin's
                raise self.explain(error) from None
        if self.declaration.concurrent is not None:
            locks.append((f"slot of {self.name}", self.declaration.concurrent))
        return locks

    def count(self, error: KSIError | None) -> None:
        self.calls += 1
        if error is not None:
            self.errors[error.code] = self.errors.get(error.code, 0) + 1

    # ── permission and the like ──────────────────────────────────────────────────────────────────────────────────────
    def check(self, envelope: EventEnvelope, session: Session, *, is_nested: bool) -> Any:
        """Run the checks that come before decoding; the answer is None, or Parked. Raises what they raise."""
        for check in self.stack.identity:
            check(envelope, session)
        asked: Parked | None = None
        if self.stack.permission is not None:
            rule = self.stack.permission(envelope, session)
            asked = rule if isinstance(rule, Parked) else None
            envelope.rule = rule if asked is None else asked.reason
        for check in self.stack.inner if is_nested else self.stack.door:
            parked = check(envelope, session)
            if parked is not None:
                return parked
        return asked

    # ── compiled ─────────────────────────────────────────────────────────────────────────────────────────────────────
    def compile(self) -> None:
        """Choose the way of this event's requests; again when its middleware has changed."""
        self.answer_now = None
        self.dispatch = self._shortest_way()
        if self.router.tracer is not None and self.is_query and not self.is_stream:
            self.answer_now = None
            self.dispatch = measured(self.dispatch, self.router.tracer)

    def _shortest_way(self) -> Callable[..., Call | None]:
        if not self.handlers:
            return self._unhandled
        single = self.handlers[0] if len(self.handlers) == 1 else None
        if self.is_query and single is not None and not self.stack.onions and self.declaration.concurrent is None:
            if single.mode == "inline" and not single.wants_context:
                return compile_inline(self, single)
            if single.mode == "async" and not single.wants_context:
                return compile_async(self, single)
        if self._only_decides and single is not None and single.mode == "inline" and not self.stack.onions:
            return compile_deciding(self, single)
        return self.router.dispatch_row_for(self)

    @property
    def _only_decides(self) -> bool:
        """Whether nothing of it is on disk before its outcome, and it waits for nothing."""
        has_place = self.declaration.belongs_to is not None
        return self.is_recorded and not (self.is_before or self.is_stream or self.has_locks or has_place)

    def _unhandled(self, envelope: EventEnvelope, session: Session, done: Done, token: Any) -> None:
        self.refuse(NoHandlerError(self.name, plugin=self.spec.declared_by), envelope, done, token)

    def refuse(self, error: KSIError, envelope: EventEnvelope, done: Done, token: Any) -> None:
        """Answer with an error from before the handler began."""
        self.calls += 1
        self.refuse_counted(error, envelope, done, token)

    def refuse_counted(self, error: KSIError, envelope: EventEnvelope, done: Done, token: Any) -> None:
        """The same for what is counted as a call already."""
        self.errors[error.code] = self.errors.get(error.code, 0) + 1
        if done is end_measured:
            self.router.answer_refused(error, envelope, done, token)
        else:
            self.router.refuse(error, envelope, done, token)
        self.look(envelope, error)

    def look(self, envelope: EventEnvelope, error: KSIError | None) -> None:
        """Let the ``after`` pieces see what came out; the answer has gone, so one that fails harms nobody."""
        for look in self.stack.after:
            try:
                look(envelope, error)
            except FOREIGN:  # a plugin's code, behind the answer
                _log.exception("%s: middleware after %s failed", self.owner, self.name)

    def explain_refusal(self, raised: BaseException) -> KSIError:
        """What the caller is told of something that was raised before the handler began."""
        if isinstance(raised, KSIError) and raised.code != ValidationError.code:
            return raised
        return invalid(self.name, raised) if isinstance(raised, REFUSALS) else self.explain(raised)

    def explain(self, raised: BaseException) -> KSIError:
        """What the caller is told of something that a handler raised."""
        if isinstance(raised, KSIError):
            return raised
        if isinstance(raised, asyncio.CancelledError):
            return CancelledError(self.name)
        self.router.log_failure(self, raised)
        return InternalError(f"handler of {self.name!r}", said_of(raised))

    def scope_of(self, handler: HandlerSpec) -> str:
        """What tells ``handler`` from the others in the log: its plugin, which is the same in the next life."""
        if len(self.handlers) == 1:
            return ""
        same = [each for each in self.handlers if each.owner == handler.owner]
        return handler.owner if len(same) == 1 else f"{handler.owner}.{same.index(handler) + 1}"

    # ── several handlers ─────────────────────────────────────────────────────────────────────────────────────────────
    async def handle_many(self, execution: Execution) -> None:
        """Run all handlers, or a single one inside its onions, as the event's rule of answers says."""
        try:
            if self.declaration.answers == "all":
                await self._all(execution)
            else:
                await self._first(execution)
        except ENDS as error:  # the router's door
            execution.failed(error)

    async def _all(self, execution: Execution) -> None:
        together = [handler for handler in self.handlers if handler.is_concurrent]
        tasks = {handler: asyncio.ensure_future(self._one(execution, handler)) for handler in together}
        ends: dict[HandlerSpec, tuple[Any, EventContext] | KSIError] = {}
        try:
            for handler in self.handlers:
                ends[handler] = await (tasks[handler] if handler in tasks else self._one(execution, handler))
        finally:
            await _stop(tasks.values())
        answers = [end for end in ends.values() if not isinstance(end, KSIError) and end[0] is not None]
        self._conclude_many(execution, answers, [end for end in ends.values() if isinstance(end, KSIError)])

    def _conclude_many(
        self, execution: Execution, answers: list[tuple[Any, EventContext]], errors: list[KSIError]
    ) -> None:
        if not answers:
            raise self._nobody(errors)
        raws = [self.encode_answer(answer) for answer, _ in answers]
        execution.conclude(b"[" + b",".join(raws) + b"]", [context for _, context in answers])

    async def _first(self, execution: Execution) -> None:
        errors: list[KSIError] = []
        together = [handler for handler in self.handlers if handler.is_concurrent]
        found = await self._race(execution, together, errors)
        for handler in self.handlers:
            if found is None and not handler.is_concurrent:
                end = await self._one(execution, handler)
                found = self._answer_of(end, errors)
        if found is None:
            raise self._nobody(errors)
        execution.conclude(self.encode_answer(found[0]), [found[1]])

    async def _race(
        self, execution: Execution, handlers: list[HandlerSpec], errors: list[KSIError]
    ) -> tuple[Any, EventContext] | None:
        """The first answer in order of completion; the losers are cancelled and what they buffered is dropped."""
        tasks = [asyncio.ensure_future(self._one(execution, handler)) for handler in handlers]
        try:
            for done in asyncio.as_completed(tasks):
                found = self._answer_of(await done, errors)
                if found is not None:
                    return found
            return None
        finally:
            await _stop(tasks)

    @staticmethod
    def _answer_of(end: tuple[Any, EventContext] | KSIError, errors: list[KSIError]) -> tuple[Any, EventContext] | None:
        if isinstance(end, KSIError):
            errors.append(end)
            return None
        return None if end[0] is None else end

    def _nobody(self, errors: list[KSIError]) -> KSIError:
        if not errors:
            return NoAnswerError(self.name)
        if len(errors) == 1:
            return errors[0]
        return HandlersFailedError(self.name, [{"code": error.code, "message": error.message} for error in errors])

    async def _one(self, execution: Execution, handler: HandlerSpec) -> tuple[Any, EventContext] | KSIError:
        """One handler's answer with its own buffer, or its error."""
        context = execution.new_context(self.scope_of(handler))
        given = execution.envelope.raw

        async def innermost(envelope: EventEnvelope) -> Any:
            # An onion may have changed the payload.
            payload = execution.payload if envelope.raw is given else self.payload(envelope)
            return await self._call(handler, payload, context)

        try:
            return await wrap(self.stack.onions, innermost)(execution.envelope), context
        except FOREIGN as error:  # the router's door
            return self.explain(error)

    async def _call(self, handler: HandlerSpec, payload: Any, context: EventContext) -> Any:
        match handler.mode:
            case "inline":
                return handler.invoke(payload, context)
            case "blocking":
                return await self.router.threads.run("blocking", lambda: handler.invoke(payload, context))
            case _:
                return await handler.invoke(payload, context)


async def _stop(tasks: Iterable[asyncio.Task[Any]]) -> None:
    """Cancel what still runs and wait for its end, but not for ever."""
    running = [task for task in tasks if not task.done()]
    for task in running:
        task.cancel()
    if running:
        await asyncio.wait(running, timeout=CANCEL_GRACE)
