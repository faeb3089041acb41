"""One request from its key to its answer: errors, limits, handlers together, keys, middleware."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from typing import Any

import msgspec
import pytest

from ksi.core.context import event_context
from ksi.core.envelope import EventEnvelope
from ksi.core.errors import (
    CancelledError,
    ContextClosedError,
    DeadlineExceededError,
    EventTimeoutError,
    HandlersFailedError,
    HopLimitError,
    InternalError,
    KSIError,
    NoHandlerError,
    NotFoundError,
    OverloadedError,
    PartitionDeadlockError,
    PermissionDeniedError,
    QueryWroteError,
    UnknownEventError,
    UnsupportedError,
    ValidationError,
)
from ksi.core.events import NewEvent, RecordedEvent
from ksi.kernel.context import EventContext
from ksi.kernel.declare import event, observer, query
from ksi.kernel.door import Call, Session
from ksi.kernel.execution import CANCEL_GRACE
from ksi.kernel.middleware import Middleware
from ksi.kernel.router import Limits
from ksi.kernel.underway import CANCEL_PATIENCE
from ksi.testing.harness import EventTestHarness
from ksi.testing.loop import ManualClock
from tests.kernel.running import new_id, plugin, recorded, story, turns

pytestmark = [pytest.mark.virtual, pytest.mark.leakcheck]
FACT = NewEvent(name="p:happened", data={})


class Nothing(msgspec.Struct, forbid_unknown_fields=True):
    pass


class Answers:
    """What came back of requests that are given straight to the router."""

    def __init__(self, ksi: EventTestHarness) -> None:
        self._router = ksi.kernel.router
        self.got: list[tuple[Any, bytes | None, KSIError | None]] = []

    def ask(self, name: str, raw: bytes = b"{}", *, token: Any = None, **fields: Any) -> Call | None:
        envelope = EventEnvelope(name=name, raw=raw, principal="tester", **fields)
        return self._router.dispatch(envelope, Session(principal="tester", source="test"), self._take, token)

    def _take(self, token: Any, raw: bytes | None, error: KSIError | None) -> None:
        self.got.append((token, raw, error))

    @property
    def codes(self) -> list[str]:
        return [error.code if error else "ok" for _, _, error in self.got]


def idle(ksi: EventTestHarness) -> bool:
    router = ksi.kernel.router
    return not router.running and not router.under_way and not router.queries


# ── every failure its own code ───────────────────────────────────────────────────────────────────────────────────────
async def test_an_unknown_event_suggests_what_looks_like_it() -> None:
    @query("p:ping", inline=True)
    def ping(self: Any) -> str:
        return "pong"

    async with EventTestHarness(plugin(ping)) as ksi:
        with pytest.raises(UnknownEventError) as caught:
            await ksi.request("p:pnig")
    assert caught.value.suggestions == ["p:ping"]


async def test_a_declared_event_without_a_handler_says_so_to_the_door_and_to_handlers() -> None:
    @event("p:outer")
    async def outer(self: Any, context: EventContext) -> None:
        await context.request("p:declared")

    async with EventTestHarness(plugin(outer)) as ksi:
        ksi.kernel.registry.register_event("p:declared", Nothing, None)
        ksi.kernel.plugins.rebuild()
        for name in ("p:declared", "p:outer"):
            with pytest.raises(NoHandlerError):
                await ksi.request(name)
        assert idle(ksi)


async def test_what_a_handler_raises_is_an_internal_error_with_nothing_of_it_kept() -> None:
    @event("p:fail")
    async def fail(self: Any, context: EventContext) -> None:
        context.append("p/1", FACT)
        await asyncio.sleep(0)
        raise RuntimeError("boom")

    async with EventTestHarness(plugin(fail)) as ksi:
        with pytest.raises(InternalError, match="boom"):
            await ksi.request("p:fail")
        assert await story(ksi) == ["request p:fail", "outcome p:fail"]
        assert idle(ksi)


async def test_an_error_that_can_not_be_told_exactly_is_told_all_the_same() -> None:
    class OddError(KSIError):
        code = "odd"

        def __init__(self) -> None:
            super().__init__("\ud800")
            self.thing = object()

    @event("p:odd")
    async def odd(self: Any) -> None:
        raise OddError

    async with EventTestHarness(plugin(odd)) as ksi:
        with pytest.raises(OddError):
            await ksi.request("p:odd")
        assert (await recorded(ksi))[-1].data["error"]["code"] == "odd"
        assert idle(ksi)


async def test_a_handler_that_never_returns_times_out_and_keeps_its_key_until_it_ends() -> None:
    release = asyncio.Event()
    seen: list[str] = []

    @event("p:stubborn", key=lambda _: "k", timeout=1.0)
    async def stubborn(self: Any, name: str, context: EventContext) -> str:
        seen.append(name)
        while not release.is_set():
            try:
                await release.wait()
            except asyncio.CancelledError:
                seen.append("swallowed")
        if name == "first":
            with pytest.raises(ContextClosedError):
                context.append("p/1", FACT)
        return name

    async with EventTestHarness(plugin(stubborn)) as ksi:
        with pytest.raises(EventTimeoutError) as caught:
            await ksi.request("p:stubborn", {"name": "first"})
        assert caught.value.seconds == 1.0
        second = asyncio.ensure_future(ksi.request("p:stubborn", {"name": "second"}))
        await turns()
        assert seen == ["first", "swallowed"]
        release.set()
        assert await second == "second"
        assert await story(ksi) == ["request p:stubborn", "outcome p:stubborn"]  # of the second
        assert idle(ksi)


async def test_the_timeout_of_what_is_on_disk_is_final() -> None:
    runs: list[int] = []

    @event("p:slow", durability="before", timeout=1.0)
    async def slow(self: Any) -> None:
        runs.append(1)
        await asyncio.sleep(100)

    async with EventTestHarness(plugin(slow)) as ksi:
        event_id = new_id()
        for _ in range(2):
            with pytest.raises(EventTimeoutError):
                await ksi.request("p:slow", event_id=event_id)
        assert runs == [1]
        assert await story(ksi) == ["request p:slow", "outcome p:slow"]


async def test_a_deadline_in_the_past_does_not_begin(virtual_clock: ManualClock) -> None:
    runs: list[str] = []

    @event("p:inline", inline=True)
    def inline(self: Any) -> None:
        runs.append("inline")

    @event("p:keyed", key=lambda _: "k")
    async def keyed(self: Any) -> None:
        runs.append("keyed")
        await asyncio.sleep(5)

    async with EventTestHarness(plugin(inline, keyed)) as ksi:
        answers = Answers(ksi)
        answers.ask("p:inline", deadline_us=virtual_clock.time_us() - 1)
        assert answers.codes == ["deadline_exceeded"]
        first = asyncio.ensure_future(ksi.request("p:keyed"))
        await turns()
        with pytest.raises(DeadlineExceededError):
            await ksi.request("p:keyed", timeout=1)
        await first
        assert runs == ["keyed"]
        assert idle(ksi)


async def test_the_callers_deadline_is_told_from_the_events_limit() -> None:
    @event("p:slow", timeout=5.0)
    async def slow(self: Any) -> None:
        await asyncio.sleep(100)

    async with EventTestHarness(plugin(slow)) as ksi:
        with pytest.raises(DeadlineExceededError):
            await ksi.request("p:slow", timeout=1)
        with pytest.raises(EventTimeoutError):
            await ksi.request("p:slow", timeout=60)


async def test_a_limit_that_passes_while_the_request_goes_to_disk_keeps_the_handler_from_acting() -> None:
    acted: list[int] = []

    @event("p:act", durability="before")
    async def act(self: Any) -> None:
        acted.append(1)
        await asyncio.sleep(0)

    async with EventTestHarness(plugin(act)) as ksi:
        answers = Answers(ksi)
        call = answers.ask("p:act")
        assert call is not None
        call.expire()  # type: ignore[attr-defined]  # the wheel's part
        await turns()
        assert acted == []
        assert answers.codes == ["timeout"]
        assert await story(ksi) == ["request p:act", "outcome p:act"]
        assert idle(ksi)


# ── cancels ──────────────────────────────────────────────────────────────────────────────────────────────────────────
async def test_a_cancel_in_the_queue_leaves_nothing_and_the_next_one_begins() -> None:
    @event("p:keyed", key=lambda _: "k")
    async def keyed(self: Any) -> str:
        await asyncio.sleep(1)
        return "done"

    async with EventTestHarness(plugin(keyed)) as ksi:
        answers = Answers(ksi)
        answers.ask("p:keyed", token=1)
        waiting = answers.ask("p:keyed", token=2)
        answers.ask("p:keyed", token=3)
        assert waiting is not None
        waiting.cancel()
        waiting.cancel()
        await asyncio.sleep(5)
        assert [(token, error and error.code) for token, _, error in answers.got] == [
            (2, "cancelled"),
            (1, None),
            (3, None),
        ]
        assert idle(ksi)


@pytest.mark.parametrize("steps", range(6))
async def test_a_cancel_at_any_moment_is_answered_once_and_gives_the_key_back(steps: int) -> None:
    @event("p:keyed", key=lambda _: "k")
    async def keyed(self: Any) -> str:
        await asyncio.sleep(1)
        return "done"

    @query("p:query")
    async def ask(self: Any) -> str:
        await asyncio.sleep(1)
        return "done"

    async with EventTestHarness(plugin(keyed, ask)) as ksi:
        answers = Answers(ksi)
        calls = [answers.ask("p:keyed", id=bytes.fromhex(new_id().replace("-", ""))), answers.ask("p:query")]
        await turns(steps)
        for call in calls:
            assert call is not None
            call.cancel()
        await turns()
        assert answers.codes == ["cancelled", "cancelled"]
        assert await ksi.request("p:keyed") == "done"
        assert idle(ksi)


async def test_one_who_swallows_its_cancel_is_answered_for_after_the_grace() -> None:
    @event("p:deaf", timeout=None)
    async def deaf(self: Any) -> None:
        for _ in range(2):
            with pytest.raises(asyncio.CancelledError):
                await asyncio.sleep(100)
        await asyncio.sleep(100)

    async with EventTestHarness(plugin(deaf)) as ksi:
        answers = Answers(ksi)
        call = answers.ask("p:deaf")
        await turns()
        assert call is not None
        call.cancel()
        await asyncio.sleep(CANCEL_GRACE - 0.1)
        assert answers.codes == []
        await asyncio.sleep(0.2)
        assert answers.codes == ["cancelled"]
        assert not idle(ksi)
        await asyncio.sleep(100)
        assert idle(ksi)


async def test_one_who_swallows_every_cancel_holds_a_stop_back_for_its_grace_and_is_answered_for() -> None:
    released = asyncio.Event()

    @event("p:stubborn", durability="before")
    async def stubborn(self: Any) -> None:
        while not released.is_set():
            with contextlib.suppress(asyncio.CancelledError):
                await released.wait()

    async with EventTestHarness(plugin(stubborn), limits=Limits(drain_timeout=10.0)) as ksi:
        request = asyncio.ensure_future(ksi.request("p:stubborn"))
        await turns()
        began = asyncio.get_running_loop().time()
        await ksi.kernel.router.drain(10.0)
        await ksi.kernel.stop()
        assert asyncio.get_running_loop().time() - began == pytest.approx(10.0 + CANCEL_PATIENCE)
        with pytest.raises(CancelledError):
            await request
        assert await story(ksi) == ["request p:stubborn", "outcome p:stubborn"]
        released.set()
        await turns()


async def test_an_observer_that_swallows_its_cancel_does_not_hold_a_stop_back_for_ever() -> None:
    released, seen = asyncio.Event(), asyncio.Event()

    @event("p:do")
    async def do(self: Any, context: EventContext) -> None:
        context.append("p/1", FACT)

    @observer("p:happened")
    async def stubborn(self: Any, event: RecordedEvent) -> None:
        seen.set()
        while not released.is_set():
            with contextlib.suppress(asyncio.CancelledError):
                await released.wait()

    async with EventTestHarness(plugin(do, stubborn), limits=Limits(shutdown_timeout=5.0)) as ksi:
        await ksi.request("p:do")
        await seen.wait()
        began = asyncio.get_running_loop().time()
        await ksi.kernel.stop()
        assert asyncio.get_running_loop().time() - began == pytest.approx(5.0)
        released.set()
        await turns()


async def test_a_cancelled_command_is_final() -> None:
    @event("p:slow")
    async def slow(self: Any, context: EventContext) -> None:
        context.append("p/1", FACT)
        await asyncio.sleep(100)

    async with EventTestHarness(plugin(slow)) as ksi:
        event_id = new_id()
        task = asyncio.ensure_future(ksi.request("p:slow", event_id=event_id))
        await turns()
        task.cancel()
        await turns()
        with pytest.raises(CancelledError):
            await ksi.request("p:slow", event_id=event_id)
        assert await story(ksi) == ["request p:slow", "outcome p:slow"]


async def test_one_of_several_who_wait_for_an_answer_can_leave() -> None:
    @event("p:slow")
    async def slow(self: Any) -> str:
        await asyncio.sleep(1)
        return "done"

    async with EventTestHarness(plugin(slow)) as ksi:
        answers = Answers(ksi)
        event_id = bytes.fromhex(new_id().replace("-", ""))
        answers.ask("p:slow", id=event_id, token="first")
        joined = answers.ask("p:slow", id=event_id, token="second")
        assert joined is not None
        joined.cancel()
        await asyncio.sleep(2)
        assert [(token, error and error.code) for token, _, error in answers.got] == [
            ("second", "cancelled"),
            ("first", None),
        ]


async def test_a_callback_that_fails_keeps_no_key() -> None:
    @event("p:keyed", key=lambda _: "k")
    async def keyed(self: Any) -> str:
        await asyncio.sleep(0)
        return "done"

    def broken(*_: Any) -> None:
        raise RuntimeError("the connection is gone")

    async with EventTestHarness(plugin(keyed)) as ksi:
        envelope = EventEnvelope(name="p:keyed")
        ksi.kernel.router.dispatch(envelope, Session(principal="t", source="t"), broken, None)
        assert await ksi.request("p:keyed") == "done"
        assert idle(ksi)


# ── queries ──────────────────────────────────────────────────────────────────────────────────────────────────────────
@pytest.mark.parametrize("what", ["append", "emit", "effect", "request", "commit"])
async def test_a_query_that_writes_is_told_to_be_an_event(what: str) -> None:
    async def call() -> None: ...

    @query("p:ask")
    async def ask(self: Any, context: EventContext) -> str:
        match what:
            case "append":
                context.append("p/1", FACT)
            case "emit":
                context.emit("p:do")
            case "effect":
                await context.effect("x:y", {}, call)
            case "request":
                await context.request("p:do")
            case _:
                await context.commit()
        return ""

    @event("p:do", inline=True)
    def do(self: Any) -> None: ...

    async with EventTestHarness(plugin(ask, do)) as ksi:
        with pytest.raises(QueryWroteError) as caught:
            await ksi.request("p:ask")
        assert "@event" in caught.value.message
        assert await story(ksi) == []


async def test_events_that_cause_each_other_for_ever_are_stopped() -> None:
    @event("p:loop")
    async def loop(self: Any, context: EventContext) -> None:
        await context.request("p:loop")

    async with EventTestHarness(plugin(loop)) as ksi:
        with pytest.raises(HopLimitError) as caught:
            await ksi.request("p:loop")
        assert caught.value.limit == 64
        assert idle(ksi)


async def test_what_can_not_be_emitted_is_said_where_it_is_emitted() -> None:
    @event("p:outer")
    async def outer(self: Any, context: EventContext, name: str) -> None:
        context.emit(name, {"wrong": 1})

    @query("p:ask")
    async def ask(self: Any, wrong: int) -> None: ...

    @event("p:do")
    async def do(self: Any) -> None: ...

    async with EventTestHarness(plugin(outer, ask, do)) as ksi:
        for name, kind in (("p:nobody", UnknownEventError), ("p:ask", UnsupportedError), ("p:do", ValidationError)):
            with pytest.raises(kind):
                await ksi.request("p:outer", {"name": name})


# ── several handlers ─────────────────────────────────────────────────────────────────────────────────────────────────
def sharing(name: str, seconds: float | None, answer: Any, *, together: bool = True, answers: Any = "first") -> Any:
    """A plugin that handles ``p:who`` with others: after ``seconds`` it appends and answers, or raises ``answer``."""

    @event("p:who", shared=True, answers=answers)
    async def handle(self: Any, context: EventContext) -> Any:
        context.append(f"p/{name}", NewEvent(name=f"p:{name}", data={}))
        if seconds is not None:
            await asyncio.sleep(seconds)
        if isinstance(answer, Exception):
            raise answer
        return answer

    return plugin(handle, name=name, supports_concurrent_execution=together)


async def test_the_first_answer_in_order_of_completion_wins_and_only_its_facts_count() -> None:
    plugins = [sharing("slow", 2, "slow"), sharing("quick", 1, "quick"), sharing("none", 0, None)]
    async with EventTestHarness(*plugins) as ksi:
        assert await ksi.request("p:who") == "quick"
        assert [fact.name for fact in await ksi.facts("p:*")] == ["p:quick"]


async def test_those_that_may_not_run_together_are_asked_one_after_another() -> None:
    plugins = [
        sharing("alone", None, "alone", together=False),
        sharing("failing", 1, NotFoundError("x", "y")),
        sharing("last", None, "last", together=False),
    ]
    async with EventTestHarness(*plugins) as ksi:
        assert await ksi.request("p:who") == "alone"


async def test_if_all_fail_the_error_carries_all_of_them() -> None:
    plugins = [sharing("one", 1, NotFoundError("x", "y")), sharing("two", 0, RuntimeError("boom"))]
    async with EventTestHarness(*plugins) as ksi:
        with pytest.raises(HandlersFailedError) as caught:
            await ksi.request("p:who")
        assert [error["code"] for error in caught.value.errors] == ["internal_error", "not_found"]
        assert await ksi.facts("p:*") == []


async def test_all_answers_come_in_declared_order_with_the_facts_of_those_that_succeeded() -> None:
    plugins = [
        sharing("slow", 2, "slow", answers="all"),
        sharing("failing", 0, NotFoundError("x", "y"), answers="all"),
        sharing("quick", 1, "quick", answers="all"),
    ]
    async with EventTestHarness(*plugins) as ksi:
        assert await ksi.request("p:who") == ["slow", "quick"]
        assert {fact.name for fact in await ksi.facts("p:*")} == {"p:slow", "p:quick"}


# ── keys ─────────────────────────────────────────────────────────────────────────────────────────────────────────────
async def test_what_is_read_under_a_key_is_current() -> None:
    @event("p:add", key=lambda _: "k")
    async def add(self: Any, context: EventContext) -> int:
        total = await self.host.services.get(EventTestHarness).log.version("p/total")
        await asyncio.sleep(0.01)
        context.append("p/total", FACT, expected_version=total)
        return int(total + 1)

    async with EventTestHarness(plugin(add)) as ksi:
        ksi.kernel.services.register(EventTestHarness, ksi)
        assert await asyncio.gather(*(ksi.request("p:add") for _ in range(20))) == list(range(1, 21))


async def test_a_held_key_is_lent_to_nested_requests_and_gathered_siblings_take_turns() -> None:
    running = 0

    @event("p:inner", key=lambda _: "k")
    async def inner(self: Any, number: int) -> int:
        nonlocal running
        running += 1
        assert running == 1
        await asyncio.sleep(0.01)
        running -= 1
        return number

    @event("p:outer", key=lambda _: "k")
    async def outer(self: Any, context: EventContext) -> list[int]:
        return list(await asyncio.gather(*(context.request("p:inner", number=number) for number in range(5))))

    async with EventTestHarness(plugin(inner, outer)) as ksi:
        assert list(await asyncio.gather(ksi.request("p:outer"), ksi.request("p:outer"))) == [[0, 1, 2, 3, 4]] * 2
        assert idle(ksi)


async def test_a_circle_of_two_roots_is_named_and_nobody_hangs() -> None:
    @event("p:take", key=lambda payload: payload.key)
    async def take(self: Any, key: str, then: str, context: EventContext) -> str:
        await asyncio.sleep(0.01)
        return str(await context.request("p:take", key=then, then="")) if then else key

    async with EventTestHarness(plugin(take)) as ksi:
        ends = await asyncio.gather(
            ksi.request("p:take", {"key": "a", "then": "b"}),
            ksi.request("p:take", {"key": "b", "then": "a"}),
            return_exceptions=True,
        )
        assert ends[0] == "b"
        assert isinstance(ends[1], PartitionDeadlockError)
        assert ends[1].cycle == ["a", "b"]
        assert idle(ksi)


async def test_a_frame_that_a_holder_causes_and_waits_for_is_a_circle() -> None:
    @event("p:outer", key=lambda _: "k")
    async def outer(self: Any, context: EventContext) -> str:
        answers = Answers(self.host.services.get(EventTestHarness))
        answers.ask("p:outer", cause=context.envelope.event_id)
        await turns()
        return answers.codes[0]

    async with EventTestHarness(plugin(outer)) as ksi:
        ksi.kernel.services.register(EventTestHarness, ksi)
        assert await ksi.request("p:outer") == "partition_deadlock"


async def test_slots_bound_how_many_run_and_the_queue_is_bounded() -> None:
    running: list[int] = []

    @query("p:slow", concurrent=2, queued_max=3)
    async def slow(self: Any, number: int) -> int:
        running.append(number)
        await asyncio.sleep(1)
        running.remove(number)
        return number

    async with EventTestHarness(plugin(slow)) as ksi:
        asked = [asyncio.ensure_future(ksi.request("p:slow", {"number": number})) for number in range(6)]
        await turns()
        assert running == [0, 1]
        ends = await asyncio.gather(*asked, return_exceptions=True)
        assert ends[:5] == [0, 1, 2, 3, 4]
        assert isinstance(ends[5], OverloadedError)
        assert idle(ksi)


# ── middleware ───────────────────────────────────────────────────────────────────────────────────────────────────────
def around(*pieces: Middleware) -> dict[str, Any]:
    return {"middleware": lambda self: pieces}


async def test_checks_run_in_the_order_of_stages_and_looks_see_every_end() -> None:
    seen: list[str] = []

    def check(name: str) -> Callable[..., Any]:
        def note(envelope: EventEnvelope, session: Session) -> Any:
            seen.append(name)
            return "rule-1" if name == "permission" else None

        return lambda spec: note

    def look(envelope: EventEnvelope, error: KSIError | None) -> None:
        seen.append(f"{envelope.name} {error.code if error else 'ok'}")

    @query("p:inline", inline=True)
    def inline(self: Any) -> None: ...

    @event("p:command")
    async def command(self: Any, fails: bool = False) -> None:
        if fails:
            raise NotFoundError("x", "y")

    stages: tuple[Any, ...] = ("before", "admission", "permission", "identity")
    pieces = [Middleware(name=stage, stage=stage, bind=check(stage)) for stage in stages]
    pieces.append(Middleware(name="after", stage="after", after=look))
    async with EventTestHarness(plugin(inline, command, **around(*pieces))) as ksi:
        for name in ("p:inline", "p:command"):
            seen.clear()
            await ksi.request(name)
            assert seen == ["identity", "permission", "admission", "before", f"{name} ok"]
            with pytest.raises(ValidationError):
                await ksi.request(name, {"nonsense": 1})
            assert seen[-1] == f"{name} validation_error"
        with pytest.raises(NotFoundError):
            await ksi.request("p:command", {"fails": True})
        assert seen[-1] == "p:command not_found"
        assert (await recorded(ksi))[0].metadata["rule"] == "rule-1"


async def test_a_check_that_is_broken_is_an_internal_error_everywhere() -> None:
    def broken(envelope: EventEnvelope, session: Session) -> None:
        raise RuntimeError("boom")

    @query("p:inline", inline=True)
    def inline(self: Any) -> None: ...

    @event("p:command")
    async def command(self: Any) -> None: ...

    piece = Middleware(name="broken", bind=lambda spec: broken)
    async with EventTestHarness(plugin(inline, command, **around(piece))) as ksi:
        for name in ("p:inline", "p:command"):
            with pytest.raises(InternalError):
                await ksi.request(name)


async def test_an_onion_sees_the_answer_and_may_change_the_payload() -> None:
    async def louder(envelope: EventEnvelope, call_next: Callable[[EventEnvelope], Awaitable[Any]]) -> Any:
        envelope.raw = envelope.raw.upper().replace(b"TEXT", b"text")
        return f"<{await call_next(envelope)}>"

    @query("p:echo")
    async def echo(self: Any, text: str) -> str:
        return text

    async with EventTestHarness(
        plugin(echo, **around(Middleware(name="louder", stage="handle", around=louder)))
    ) as ksi:
        assert await ksi.request("p:echo", {"text": "a"}) == "<A>"


async def test_a_denial_is_on_disk_before_its_answer_and_the_rest_of_a_second_is_counted() -> None:
    def deny(envelope: EventEnvelope, session: Session) -> str:
        raise PermissionDeniedError(envelope.name, principal=session.principal, rule="deny *")

    @event("p:do")
    async def do(self: Any) -> None: ...

    piece = Middleware(name="deny", stage="permission", bind=lambda spec: deny)
    async with EventTestHarness(plugin(do, **around(piece))) as ksi:
        for asked in range(12):
            with pytest.raises(PermissionDeniedError):
                await ksi.request("p:do")
            assert len(await ksi.facts("permission:denied")) == min(asked + 1, 10)
        await asyncio.sleep(1)
        with pytest.raises(PermissionDeniedError):
            await ksi.request("p:do")
        denied = await ksi.facts("permission:denied")
        assert [fact.data["uncounted"] for fact in denied] == [0] * 10 + [2]
        assert {fact.stream for fact in denied} == {"permission/tester"}


# ── contexts ─────────────────────────────────────────────────────────────────────────────────────────────────────────
VALUE: ContextVar[str] = ContextVar("VALUE", default="none")


async def test_the_event_is_known_in_tasks_and_threads_and_nothing_leaks_to_other_requests() -> None:
    def name() -> str:
        known = event_context()
        return f"{known.name if known else None} {VALUE.get()}"

    @event("p:task", key=lambda _: "k")
    async def task(self: Any) -> str:
        VALUE.set("mine")

        async def inside() -> str:
            return name()

        return await asyncio.create_task(inside())

    @event("p:thread", blocking=True)
    def thread(self: Any) -> str:
        return name()

    @event("p:inline", inline=True, key=lambda _: "k")
    def inline(self: Any) -> str:
        return name()

    async with EventTestHarness(plugin(task, thread, inline)) as ksi:
        asked = [ksi.request(event) for event in ("p:task", "p:inline", "p:thread", "p:task", "p:inline")]
        assert await asyncio.gather(*asked) == [
            "p:task mine",
            "p:inline none",
            "p:thread none",
            "p:task mine",
            "p:inline none",
        ]
        assert event_context() is None
