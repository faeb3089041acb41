"""What a run did: its events as a tree of causes. Pure; the plugin ``correlation`` reads the events."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any, Literal
from uuid import UUID

import msgspec

from ksi.core.envelope import trace_of
from ksi.core.events import FAILED, MAIN, RecordedEvent

EFFECTS, READ = "$effects", "effect:read"
MODEL_ASKED = "llm:stream"
"""The effect by which a completion asks its model: each chunk of its request is a token."""
Status = Literal["open", "ok", "error", "interrupted", "cancelled"]
_STATUS_OF_CODE: Mapping[str, Status] = {
    "cancelled": "cancelled",
    "interrupted": "interrupted",
    "outcome_unknown": "interrupted",
}


class Node(msgspec.Struct):
    """A request, effect or fact, with what it caused. Facts have no status; ``tokens`` are its own, not its children's.

    ``chunks`` counts those of a stream; they are not listed. A ``client`` is who asked, where that said its trace; its
    ``event_id`` is its span's. A ``commit``, and a request that was refused, are known where traces are kept, and
    have the ``position`` of the request above.
    """

    event_id: str
    name: str
    kind: Literal["request", "effect", "fact", "client", "commit"]
    status: Status | None
    position: int
    duration_ms: float | None
    tokens: int | None
    chunks: int
    children: list[Node]


class Run:
    """The events of one run, put together in position order, as it is on ``branch``.

    What was open where the branch was cut off is interrupted there: it goes on elsewhere, if at all.
    """

    def __init__(self, events: Iterable[RecordedEvent], branch: str = MAIN) -> None:
        self._branch = branch
        self.roots: list[Node] = []
        self.size = 0
        self.facts_in: Counter[str] = Counter()
        self.requests: dict[UUID, Node] = {}
        self.trace_id: str | None = None
        """The one that a client named; None where none did."""
        self.clients: dict[str, tuple[str, str]] = {}
        """By the id of a request that nothing caused: the span of its client, and the source that it is."""
        self.principal: str | None = None
        self.started_at: datetime | None = None
        self.last_at: datetime | None = None
        self._nodes: dict[UUID, Node] = {}
        self._effects: dict[tuple[Any, ...], Node] = {}
        self._began: dict[int, datetime] = {}
        for event in events:
            self._add(event)

    def requests_at_root(self) -> list[Node]:
        """The requests that nothing in the run caused."""
        return [node for node in self.roots if node.kind == "request"]

    @property
    def last_root(self) -> Node | None:
        roots = self.requests_at_root()
        return roots[-1] if roots else None

    @property
    def first_failed(self) -> Node | None:
        """Of the requests that nothing in the run caused the first that is not ok."""
        return next((node for node in self.requests_at_root() if node.status != "ok"), None)

    @property
    def status(self) -> Status:
        """That of the request that began it; of several, the first that is not ok."""
        failed = self.first_failed
        return "ok" if failed is None or failed.status is None else failed.status

    @property
    def duration_ms(self) -> float | None:
        """From its first request to its last event; None while it is open."""
        if self.started_at is None or self.last_at is None or self.status == "open":
            return None
        return milliseconds(self.started_at, self.last_at)

    @property
    def tokens(self) -> int:
        """Tokens in and out. A request that says what its own requests used is not counted twice."""
        return sum(_total(node) for node in self.roots)

    def count_chunks(self, node: Node, chunks: int) -> None:
        """``node`` streamed so many. They are its tokens where it was cut off before anybody could count those."""
        node.chunks = chunks
        if node.tokens is None and any(child.name == MODEL_ASKED for child in node.children):
            node.tokens = chunks or None

    def _add(self, event: RecordedEvent) -> None:
        self.size += 1
        self.last_at = event.recorded_at
        match event.kind:
            case "outcome" if event.name == READ:
                pass  # what a request had read when it made a nested one: of no interest here
            case "request" | "outcome" if event.stream == EFFECTS and (event.is_erased or event.is_archived):
                pass  # which effect it was is gone with it
            case "request" if event.stream == EFFECTS:
                self._effects[_effect_key(event)] = self._node(event, event.data["effect"], "effect")
            case "outcome" if event.stream == EFFECTS:
                self._end(self._effects.get(_effect_key(event)), event, event.data.get("value"))
            case "request":
                self.requests[event.event_id] = self._node(event, event.name, "request")
            case "outcome" if event.causation_id is not None:
                node = self.requests.get(event.causation_id)
                self._end(node, event, None if event.is_erased else event.data.get("data"))
                if node is not None:
                    self._end_effects(node, event)
            case _:
                self.facts_in[event.stream] += 1
                self._node(event, event.name, "fact")

    def _node(self, event: RecordedEvent, name: str, kind: Literal["request", "effect", "fact"]) -> Node:
        open_status: Status = "open" if event.branch == self._branch else "interrupted"
        status = None if kind == "fact" else open_status
        node = Node(str(event.event_id), name, kind, status, event.position, None, None, 0, [])
        began = event.occurred_at or event.recorded_at
        self._began[event.position] = began
        if self.started_at is None:
            self.started_at, self.principal = began, event.metadata.get("principal")
        above = None if event.causation_id is None else self._nodes.get(event.causation_id)
        (self.roots if above is None else above.children).append(node)
        self._nodes[event.event_id] = node
        trace_id, span_id = trace_of(event.metadata.get("traceparent"))
        self.trace_id = self.trace_id or trace_id
        if kind == "request" and event.causation_id is None and span_id is not None:
            self.clients[node.event_id] = (span_id, event.metadata.get("source", ""))
        return node

    def _end(self, node: Node | None, event: RecordedEvent, value: Any) -> None:
        if node is None:  # it began before the part of the run that is looked at
            return
        error: Mapping[str, Any] = {"code": ""} if FAILED in event.tags else {}
        if not event.is_erased:
            error = event.data.get("error") or {}
        node.status = _status_of(error, value)
        node.duration_ms = milliseconds(self._began[node.position], event.recorded_at)
        node.tokens = _tokens(value) or _tokens((error.get("details") or {}).get("partial"))

    def _end_effects(self, node: Node, event: RecordedEvent) -> None:
        """What a request that has ended left open, or stopped, ended as it did."""
        for effect in (child for child in node.children if child.kind == "effect"):
            if effect.status == "open":
                effect.duration_ms = milliseconds(self._began[effect.position], event.recorded_at)
            if effect.status == "open" or (effect.status == "cancelled" and node.status != "ok"):
                effect.status = node.status


def _status_of(error: Mapping[str, Any], value: Any) -> Status:
    if error:
        return _STATUS_OF_CODE.get(error.get("code", ""), "error")
    # A streamed effect that was stopped is completed with what there was.
    is_cut_off = isinstance(value, dict) and value.get("finish_reason") == "cancelled"
    return "cancelled" if is_cut_off else "ok"


def milliseconds(start: datetime, end: datetime) -> float:
    """Never less than 0: the two may come from different clocks."""
    return max(0.0, round((end - start).total_seconds() * 1000, 3))


def _effect_key(event: RecordedEvent) -> tuple[Any, ...]:
    data = event.data
    return event.causation_id, data["effect"], data["hash"], data["n"]


def _tokens(value: Any) -> int | None:
    """Tokens in and out, where ``value`` has a ``usage`` that says so."""
    usage = value.get("usage") if isinstance(value, dict) else None
    if not isinstance(usage, dict):
        return None
    counts = [usage.get("input_tokens"), usage.get("output_tokens")]
    return sum(count for count in counts if isinstance(count, int)) or None


def _total(node: Node) -> int:
    return sum(_total(child) for child in node.children) or node.tokens or 0
