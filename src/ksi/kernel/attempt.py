"""One recorded request, run once more: what it is served, and whether it says the same again."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ksi.core import canonical
from ksi.core.envelope import EventEnvelope
from ksi.core.errors import ReplayDivergenceError
from ksi.core.events import Position, RecordedEvent
from ksi.core.ports import Entry, Known, Outcome, Unit
from ksi.kernel.effects import COMPLETED, EFFECTS, REQUESTED
from ksi.kernel.filled import Fill, is_same
from ksi.kernel.reads import reads_of, with_values
from ksi.kernel.rerun import History

REQUESTS = "$requests"
CUT_OFF = frozenset({"cancelled", "interrupted", "outcome_unknown", "timeout", "deadline_exceeded", "shutting_down"})
"""Codes of outcomes that came from outside: the handler itself had not ended."""
Shown = Mapping[str, Any]
Fills = Callable[[str, str], Fill | None]
"""By kind, and the name of the fact or of the event that answers."""


class Attempt:
    """Holds what is recorded of one request against what comes when its handler runs again.

    What was cut off is repeated up to there. A cancelled one is cancelled again at the same place, so that what its
    handler did then is compared as well; the rest is not.

    Args:
        events: All that it caused, in position order.
        fills: How what it records is filled up with the defaults of fields that were added since, where that is known.
    """

    def __init__(self, known: Known, events: Sequence[RecordedEvent], fills: Fills) -> None:
        self._fills = fills
        self.envelope = known.request
        self.position = known.position
        self.outcome = next((event for event in reversed(events) if _is_outcome(event)), None)
        self.history = History(recorded=_recorded(events, self.outcome))
        self.requests = {event.id: event for event in events if _is_request(event)}
        self.chunks = deque(event for event in events if event.kind == "chunk")
        self.facts = deque(event for event in events if event.kind == "fact" and not event.stream.startswith("$"))
        self.effects = [event for event in events if event.stream == EFFECTS and event.name == REQUESTED]
        self.is_concurrent = _is_concurrent(events)
        self.numbers = (len(self.facts), len(self.chunks), len(self.effects))
        self.divergence: ReplayDivergenceError | None = None
        self.is_over = False
        """What comes now is not compared."""
        self.stop: Callable[[], None] = _nothing

    # ── where it was cut off ─────────────────────────────────────────────────────────────────────────────────────────
    @property
    def code(self) -> str | None:
        """Of its error; None: it went well. One that is open was cut off by whatever comes."""
        if self.outcome is None:
            return "interrupted"
        error = self.outcome.data.get("error")
        return None if error is None else error["code"]

    @property
    def is_cut_off(self) -> bool:
        return self.code in CUT_OFF

    def ends_here(self) -> bool:
        """It asks for more than is recorded: one that was cut off came no further, and is stopped again."""
        if not self.is_cut_off or self.history.recorded.begun or any(map(_is_awaited, self.requests.values())):
            return False
        self.cut()
        return True

    def cut(self) -> None:
        """End it as it was ended."""
        self.is_over = self.is_over or self.code != "cancelled"
        self.stop()

    # ── what comes ───────────────────────────────────────────────────────────────────────────────────────────────────
    def take(self, unit: Unit) -> None:
        """Compare what it commits."""
        for entry in unit.entries:
            if not entry.stream.startswith("$"):
                self._say(entry)
        for emit in unit.emits:
            self.ask(emit)
        if unit.outcome is not None and not self.is_over:
            self._end(unit.outcome)
        if self.is_cut_off and self.numbers[1] and not self.chunks:
            self.cut()

    def ask(self, envelope: EventEnvelope, *, awaited: bool = False) -> RecordedEvent | None:
        """The recorded request that a request which it makes stands for. None: a difference, or it was cut off here.

        By its id where that fits, else by what it says: those that are made at once have their ids in the order of
        arrival, which differs from run to run.
        """
        same = [event for event in self.requests.values() if _is_same_request(event, envelope, awaited)]
        found = next((event for event in same if event.id == envelope.event_id), same[0] if same else None)
        if found is not None:
            del self.requests[found.id]
        elif not self.is_over and not (awaited and self.ends_here()):
            alike = self.requests.get(envelope.event_id) or next(iter(self.requests.values()), None)
            self.diverge(alike, _shown_request(envelope))
        return found

    def refuse_effect(self, effect: str, asked: bytes) -> ReplayDivergenceError:
        """It makes an effect that is not recorded."""
        left = {key[1:] for key in self.history.recorded.begun}
        recorded = next((event for event in self.effects if _effect_key(event) in left), None)
        requested = {"kind": "effect", "name": effect, "data": canonical.decode(asked)}
        return self.diverge(recorded, requested)

    def _say(self, entry: Entry) -> None:
        if self.is_over:
            return
        expected = self.chunks if entry.kind == "chunk" else self.facts
        if not expected and self.is_cut_off:
            self.is_over = True  # it came further than it had come: nobody knows in which step it was stopped
            self.stop()
            return
        found = self._found(self._next_of(expected), entry)
        if found is None:
            self.diverge(expected[0] if expected else None, _shown_entry(entry))
        else:
            expected.remove(found)

    def _found(self, expected: Sequence[RecordedEvent], entry: Entry) -> RecordedEvent | None:
        found = next((event for event in expected if _is_same(event, entry, None)), None)
        if found is not None or not expected:
            return found
        fill = self._fills(entry.kind, entry.name if entry.kind == "fact" else self.envelope.name)
        return next((event for event in expected if _is_same(event, entry, fill)), None)

    def _next_of(self, expected: deque[RecordedEvent]) -> list[RecordedEvent]:
        """What may come now: the next one, or any of its commit where the handler did several things at once."""
        if not expected or not self.is_concurrent:
            return list(expected)[:1]
        return [event for event in expected if event.recorded_us == expected[0].recorded_us]

    def _end(self, outcome: Outcome) -> None:
        answer = canonical.decode(outcome.data)
        requested = {"kind": "outcome", "name": self.envelope.name, **_answer(outcome.ok, answer)}
        left = self._left()
        if left is not None:
            self.diverge(left, requested)
        elif self.outcome is not None and not self._is_answer(self.outcome.data, _answer(outcome.ok, answer)):
            self.diverge(self.outcome, requested)
        self.is_over = True

    def _is_answer(self, recorded: Mapping[str, Any], came: Mapping[str, Any]) -> bool:
        if recorded == came or not (recorded["ok"] and came["ok"]):
            return recorded == came
        return is_same(recorded["data"], came["data"], self._fills("outcome", self.envelope.name))

    def _left(self) -> RecordedEvent | None:
        """The first thing that is recorded and did not come again."""
        effects = {key[1:] for key in self.history.recorded.begun}
        left = [*self.facts, *self.chunks, *self.requests.values()]
        left += [event for event in self.effects if _effect_key(event) in effects]
        return min(left, key=lambda event: event.position, default=None)

    def diverge(self, recorded: RecordedEvent | None, requested: Shown | None) -> ReplayDivergenceError:
        """Note the first difference, and stop: what follows it says nothing."""
        if self.divergence is None:
            self.divergence = ReplayDivergenceError(
                self._end_position() if recorded is None else recorded.position,
                recorded=None if recorded is None else _shown_event(recorded),
                requested=requested,
            )
        self.is_over = True
        self.stop()
        return self.divergence

    def _end_position(self) -> Position:
        return self.position if self.outcome is None else self.outcome.position


def _recorded(events: Sequence[RecordedEvent], outcome: RecordedEvent | None) -> Any:
    """What it is served: effects, and what it had read."""
    history = History()
    for event in events:
        history.note(event)
    recorded = history.recorded
    recorded.requested.clear()
    if outcome is not None:
        # The outcome has all of a `before`, and of the others the queries; what it lacks was saved on the way.
        reads = with_values(reads_of(outcome))
        known = [read["what"] for read in reads]
        recorded.reads = reads + [read for read in recorded.reads if read["what"] not in known]
    return recorded


def _nothing() -> None: ...


def _is_outcome(event: RecordedEvent) -> bool:
    return event.kind == "outcome" and event.stream == REQUESTS


def _is_request(event: RecordedEvent) -> bool:
    return event.kind == "request" and event.stream == REQUESTS


def _is_same_request(event: RecordedEvent, envelope: EventEnvelope, awaited: bool) -> bool:
    return event.name == envelope.name and _is_awaited(event) is awaited and event.data == envelope.data


def _is_concurrent(events: Sequence[RecordedEvent]) -> bool:
    """Whether it did several things at once: two effects overlap, or two requests went to disk in one moment."""
    under_way = 0
    for event in events:
        if event.stream == EFFECTS and event.name in (REQUESTED, COMPLETED):
            under_way += 1 if event.name == REQUESTED else -1
            if under_way > 1:
                return True
    moments = [event.recorded_us for event in events if _is_request(event) and _is_awaited(event)]
    return len(set(moments)) < len(moments)


def _is_awaited(request: RecordedEvent) -> bool:
    """Not emitted: the last step of its causal path says so."""
    return "!" not in request.metadata.get("path", "").rpartition("/")[2]


def _is_same(recorded: RecordedEvent, entry: Entry, fill: Fill | None) -> bool:
    """In content: place, name, tags and data; ids and times are the log's own."""
    return (recorded.stream, recorded.name, recorded.tags) == (entry.stream, entry.name, entry.tags) and (
        recorded.raw == entry.data or is_same(recorded.data, canonical.decode(entry.data), fill)
    )


def _effect_key(event: RecordedEvent) -> tuple[str, str, int]:
    return event.data["effect"], event.data["hash"], event.data["n"]


def _answer(ok: bool, answer: Any) -> dict[str, Any]:
    return {"ok": True, "data": answer} if ok else {"ok": False, "error": answer}


def _shown_event(event: RecordedEvent) -> Shown:
    shown = {"position": event.position, "kind": event.kind, "name": event.name}
    if event.stream == EFFECTS:
        return {**shown, "kind": "effect", "name": event.data["effect"], "data": event.data.get("request")}
    if event.kind == "outcome":
        return {**shown, **event.data}
    return {**shown, "stream": event.stream, "data": event.data}


def _shown_entry(entry: Entry) -> Shown:
    return {"kind": entry.kind, "name": entry.name, "stream": entry.stream, "data": canonical.decode(entry.data)}


def _shown_request(envelope: EventEnvelope) -> Shown:
    return {"kind": "request", "name": envelope.name, "data": envelope.data}
