"""Which runs are kept, what their spans say, and that all of it is bounded."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest

from ksi.core import ids
from ksi.core.clock import SystemClock
from ksi.core.envelope import EventEnvelope
from ksi.core.errors import KSIError, NotFoundError, ValidationError
from ksi.core.events import Filter
from ksi.core.threads import InlineThreads
from ksi.core.tracing import Span
from ksi.kernel.assemble import Kernel, Ports
from ksi.kernel.context import EventContext
from ksi.kernel.declare import event, query, stream
from ksi.kernel.plugin import AsyncPlugin
from ksi.observe.spans import PARTS_MAX, REQUESTS_MAX, RUNS_OPEN_MAX, SPANS_KEPT_MAX, Sampling, Spans
from ksi.plugins.references import LINKED
from ksi.plugins.runs import Run
from ksi.plugins.traced import traced_tree
from ksi.store.memory import InMemoryEventStore
from ksi.testing.loop import ManualClock

CLIENT = f"00-{'a' * 32}-{'b' * 16}-01"
FAILURE = NotFoundError("thing", "x")


def spans(share: float = 0.0, slow: float = 1.0) -> tuple[Spans, ManualClock]:
    clock = ManualClock()
    return Spans(clock, Sampling(share=share, slow=slow)), clock


def asked(spans: Spans, error: KSIError | None = None, **fields: Any) -> EventEnvelope:
    """A request that was measured, from its begin to its end."""
    envelope = EventEnvelope.create("thing:get", **fields)
    measured = spans.begin(envelope)
    assert measured is not None
    measured.end(error)
    return envelope


def test_a_run_is_kept_for_its_error_its_slowness_or_by_lot() -> None:
    few, clock = spans()
    failed = asked(few, FAILURE)
    [span] = few.of_run(failed.correlation_id)
    assert (span.name, span.kind, span.error) == ("thing:get", "server", "not_found")
    assert not few.of_run(asked(few).correlation_id)
    slow = EventEnvelope.create("thing:get")
    measured = few.begin(slow)
    assert measured is not None
    clock.advance(1.5)
    measured.end(None)
    assert [span.duration_us for span in few.of_run(slow.correlation_id)] == [1_500_000]
    all_of_them, _ = spans(share=1.0)
    assert all_of_them.of_run(asked(all_of_them).correlation_id)


def test_the_lot_falls_alike_at_every_daemon_and_on_about_that_share() -> None:
    one, other = spans(share=0.25)[0], spans(share=0.25)[0]
    runs = [ids.text(ids.derived(bytes(16), number)) for number in range(1000)]
    for run in runs:
        asked(one, correlation=run)
        asked(other, correlation=run)
    kept = [run for run in runs if one.of_run(run)]
    assert kept == [run for run in runs if other.of_run(run)]
    assert 180 < len(kept) < 320


def test_one_error_keeps_the_whole_run_when_its_last_request_has_its_answer() -> None:
    few, _ = spans()
    outer = EventEnvelope.create("outer:do", traceparent=CLIENT)
    measured = few.begin(outer)
    assert measured is not None
    inner = asked(few, FAILURE)
    nested = asked(few, FAILURE, correlation=outer.correlation_id, cause=outer.id, traceparent=outer.trace_context)
    assert not few.of_run(outer.correlation_id)
    measured.part("commit", measured.now(), None)
    measured.end(None)
    commit, root, below = few.of_run(outer.correlation_id)
    assert (commit.name, commit.kind, commit.parent_id) == ("commit", "internal", root.span_id)
    assert (root.trace_id, root.parent_id, root.span_id) == ("a" * 32, "b" * 16, outer.trace[1])
    assert (below.trace_id, below.parent_id) == ("a" * 32, root.span_id)
    assert below.event_id == ids.text(nested.event_id)
    assert few.of_run(inner.correlation_id)


def test_what_comes_later_to_a_run_that_is_kept_is_kept_too() -> None:
    few, _ = spans()
    first = asked(few, FAILURE)
    asked(few, correlation=first.correlation_id, cause=first.id)
    assert len(few.of_run(first.correlation_id)) == 2


def test_nothing_grows_without_bound() -> None:
    everything, _ = spans(share=1.0)
    measured = everything.begin(EventEnvelope.create("a:b", correlation="run"))
    assert measured is not None
    for _ in range(PARTS_MAX + 1):
        measured.part("commit", 0, None)
    assert everything.dropped == 1
    for _ in range(REQUESTS_MAX - 1):
        assert everything.begin(EventEnvelope.create("a:b", correlation="run")) is not None
    assert everything.begin(EventEnvelope.create("a:b", correlation="run")) is None
    for _ in range(RUNS_OPEN_MAX - 1):
        everything.begin(EventEnvelope.create("a:b"))
    assert everything.begin(EventEnvelope.create("a:b")) is None
    assert everything.dropped == 3
    many, _ = spans(share=1.0)
    runs = [asked(many).correlation_id for _ in range(SPANS_KEPT_MAX + 5)]
    assert not any(many.of_run(run) for run in runs[:5])
    assert all(many.of_run(run) for run in runs[5:])


class Thing(AsyncPlugin):
    name = "thing"

    @query("thing:inline", inline=True)
    def inline(self) -> int:
        return 1

    @query("thing:waits")
    async def waits(self) -> int:
        return 2

    @event("thing:decide", inline=True)
    def decide(self) -> int:
        return 3

    @event("thing:number", inline=True)
    def number(self, number: int) -> int:
        return number

    @stream("thing:stream")
    async def stream(self, number: int) -> AsyncIterator[int]:
        yield number

    @event("thing:vainly")
    async def vainly(self, context: EventContext) -> str:
        try:
            await context.request("thing:number", number="none")
        except ValidationError as error:
            return error.code
        return "ok"

    @event("thing:act")
    async def act(self, context: EventContext) -> int:
        async def call() -> int:
            return 4

        await context.request("thing:waits")
        await context.request("thing:decide")
        return int(await context.effect("http:get", {}, call))


async def measured_kernel(tracer: Spans | None, log: InMemoryEventStore | None = None) -> Kernel:
    threads, clock = InlineThreads(), SystemClock()
    journal = log or InMemoryEventStore(clock=clock)
    kernel = Kernel(Ports(journal=journal, threads=threads, clock=clock, tracer=tracer))
    await kernel.start([Thing])
    return kernel


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("thing:inline", ["thing:inline"]),
        ("thing:waits", ["thing:waits"]),
        ("thing:decide", ["handler", "commit", "thing:decide"]),
    ],
)
async def test_every_kind_of_request_has_its_spans(name: str, expected: Sequence[str]) -> None:
    exported: list[Span] = []
    kernel = await measured_kernel(Spans(SystemClock(), Sampling(share=1.0, slow=1.0), exported.extend))
    await kernel.router.call(name)
    assert [span.name for span in exported] == list(expected)
    await kernel.stop()


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("thing:number", "validation_error"),
        ("thing:stream", "validation_error"),
        ("thing:inline", "validation_error"),
        ("thing:waits", "validation_error"),
        ("thing:unknown", "unknown_event"),
    ],
)
async def test_what_is_refused_is_one_span_with_its_error(name: str, code: str) -> None:
    exported: list[Span] = []
    kernel = await measured_kernel(Spans(SystemClock(), Sampling(share=0.0, slow=1.0), exported.extend))
    with pytest.raises(KSIError):
        await kernel.router.call(name, {"number": "none"})
    assert [(span.name, span.kind, span.error) for span in exported] == [(name, "server", code)]
    await kernel.stop()


async def test_what_a_handler_asks_in_vain_stands_below_its_request() -> None:
    exported: list[Span] = []
    log = InMemoryEventStore(clock=SystemClock())
    kernel = await measured_kernel(Spans(SystemClock(), Sampling(share=1.0, slow=1.0), exported.extend), log)
    assert await kernel.router.call("thing:vainly") == "validation_error"
    root = next(span for span in exported if span.name == "thing:vainly")
    (refused,) = [span for span in exported if span.error is not None]
    assert (refused.name, refused.parent_id, refused.trace_id) == ("thing:number", root.span_id, root.trace_id)
    [shown] = traced_tree(Run([event async for event in log.read_all((Filter(kinds=LINKED),))]), exported)
    assert [(node.name, node.kind, node.status) for node in shown.children] == [
        ("thing:number", "request", "error"),
        ("commit", "commit", "ok"),
    ]
    await kernel.stop()


async def test_nested_requests_effects_and_commits_stand_below_their_request() -> None:
    exported: list[Span] = []
    kernel = await measured_kernel(Spans(SystemClock(), Sampling(share=1.0, slow=1.0), exported.extend))
    await kernel.router.call("thing:act")
    root = next(span for span in exported if span.name == "thing:act")
    by_parent = sorted(span.name for span in exported if span.parent_id == root.span_id)
    assert by_parent == ["commit", "commit", "commit", "handler", "http:get", "thing:decide", "thing:waits"]
    assert {span.trace_id for span in exported} == {root.trace_id}
    assert next(span.kind for span in exported if span.name == "http:get") == "client"
    await kernel.stop()


async def test_without_a_tracer_nothing_is_measured_and_the_shortest_way_stays() -> None:
    kernel = await measured_kernel(None)
    assert kernel.router.table["thing:inline"].answer_now is not None
    assert await kernel.router.call("thing:inline") == 1
    await kernel.stop()
