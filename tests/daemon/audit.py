"""The books after the load: what was answered, what the log holds, what a reader saw and what the world shows."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from ksi.core.errors import OutcomeUnknownError
from ksi.core.events import Filter, RecordedEvent
from ksi.core.home import Home
from ksi.core.ports import Journal
from ksi.core.result import Failure, Success
from ksi.store.sqlite_log import SqliteEventStore
from tests.daemon.ledger import OUTSIDE, lines
from tests.daemon.load import Asked, Reader

ALL = (Filter(kinds=("fact", "request", "outcome", "chunk")),)


class Books:
    """All that a log holds."""

    def __init__(self, events: Sequence[RecordedEvent], problems: Sequence[str], open_requests: Sequence[str]) -> None:
        self.events = events
        self.problems = problems
        self.open_requests = open_requests
        self.facts_of: dict[str, list[RecordedEvent]] = defaultdict(list)
        self.outcomes_of: Counter[str] = Counter()
        self.requests_of: dict[str, list[RecordedEvent]] = defaultdict(list)
        for event in events:
            self._enter(event)

    @classmethod
    async def of(cls, home: Home) -> Books:
        """The books of a daemon that has ended."""
        async with SqliteEventStore.open(home.data / "events.db") as log:
            return await cls.read(log)

    @classmethod
    async def read(cls, log: Journal) -> Books:
        events = [event async for event in log.read_all(ALL)]
        still_open = [known.request.name async for known in log.open_requests()]
        return cls(events, await log.verify(), still_open)

    def _enter(self, event: RecordedEvent) -> None:
        cause = str(event.causation_id)
        match event.kind:
            case "fact" if event.stream != "$recovery":
                self.facts_of[cause].append(event)
            case "request" if event.stream == "$requests":
                self.requests_of[cause].append(event)
            case "outcome" if event.stream == "$requests":
                self.outcomes_of[cause] += 1

    @property
    def facts(self) -> list[RecordedEvent]:
        return [event for event in self.events if event.kind == "fact"]

    # ── promises ─────────────────────────────────────────────────────────────────────────────────────────────────────
    def check_whole(self) -> None:
        assert list(self.problems) == []
        assert list(self.open_requests) == []

    def check_answers(self, asked: Sequence[Asked]) -> None:
        """Each command was answered once, stands once, and only a payment may have had an unknown end."""
        for one in asked:
            assert self.outcomes_of[one.event_id] == 1, one
            match one.result:
                case Success(answer):
                    self._check_done(one, answer)
                case Failure(error):
                    assert isinstance(error, OutcomeUnknownError), one
                    assert one.event == "ledger:pay", one

    def _check_done(self, one: Asked, answer: Any) -> None:
        facts = self.facts_of[one.event_id]
        match one.event:
            case "counter:add":
                assert [fact.data["total"] for fact in facts] == [answer], one
            case "ledger:pay":
                assert [fact.data["number"] for fact in facts] == [one.fields["number"]], one
            case "ledger:transfer":
                self._check_transfer(one, answer)
            case "ledger:note":
                (emitted,) = self.requests_of[one.event_id]
                assert [fact.data["number"] for fact in self.facts_of[str(emitted.event_id)]] == [one.fields["number"]]

    def _check_transfer(self, one: Asked, answer: int) -> None:
        nested = self.requests_of[one.event_id]
        facts = [fact for request in nested for fact in self.facts_of[str(request.event_id)]]
        assert [fact.data["name"] for fact in facts] == [one.fields["source"], one.fields["target"]], one
        assert sum(fact.data["total"] for fact in facts) == answer, one

    def check_order(self, asked: Sequence[Asked]) -> None:
        """Who sent a command after the answer of another finds them so in the log."""
        positions: dict[int, list[int]] = defaultdict(list)
        for one in asked:
            positions[one.worker] += [fact.position for fact in self.facts_of[one.event_id]]
        assert all(found == sorted(found) for found in positions.values())

    def check_counters(self) -> None:
        """Each counter goes its way in single steps: no command was lost, doubled or decided on what was old."""
        totals: dict[str, list[int]] = defaultdict(lambda: [0])
        for fact in self.facts:
            if fact.name == "counter:was_added":
                totals[fact.data["name"]].append(fact.data["total"])
        for name, found in totals.items():
            assert {abs(after - before) for before, after in pairwise(found)} == {1}, name

    def check_reader(self, reader: Reader) -> None:
        """It saw every fact once, in order, as it stands in the log."""
        stands = [(fact.position, fact.name, fact.data) for fact in self.facts]
        assert [(seen["position"], seen["name"], seen["data"]) for seen in reader.seen] == stands

    def check_world(self, home: Path, asked: Sequence[Asked]) -> None:
        """No payment was made twice; one that was answered was made."""
        made = Counter(lines(home / OUTSIDE))
        assert max(made.values(), default=1) == 1
        paid = {str(one.fields["number"]) for one in asked if one.event == "ledger:pay" and _is_success(one)}
        assert paid <= made.keys()


def _is_success(one: Asked) -> bool:
    return isinstance(one.result, Success)
