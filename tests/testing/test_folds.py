"""A fold that looks at more than its state and its events is found out."""

from __future__ import annotations

from typing import Any

import pytest

from ksi.core.events import NewEvent, RecordedEvent
from ksi.core.views import JsonState
from ksi.plugins.state import NamespaceFold
from ksi.store.memory import InMemoryEventStore
from ksi.testing.folds import ImpureFoldError, assert_pure

WORDS = ["sea", "lighthouse", "keeper", "fog", "bell", "gull", "rope"]


class Words(JsonState[list[str]]):
    category = "word"
    state = list[str]

    def initial(self) -> list[str]:
        return []

    def apply(self, state: list[str], event: RecordedEvent) -> list[str]:
        return [*state, event.data["word"]]


class InPlace(Words):
    def apply(self, state: list[str], event: RecordedEvent) -> list[str]:
        state.append(event.data["word"])
        return state


class OfItsPast(Words):
    def __init__(self) -> None:
        self.seen = 0

    def apply(self, state: list[str], event: RecordedEvent) -> list[str]:
        self.seen += 1
        return [*state, str(self.seen)]


class OfASet(Words):
    def apply(self, state: list[str], event: RecordedEvent) -> list[str]:
        return list({*state, event.data["word"]})


async def words() -> list[RecordedEvent]:
    async with InMemoryEventStore() as log:
        await log.append("word/1", [NewEvent(name="word:said", data={"word": word}) for word in WORDS])
        return [event async for event in log.read_stream("word/1")]


async def test_a_pure_fold_passes_and_says_what_it_made() -> None:
    assert assert_pure(Words(), await words()) == b'["sea","lighthouse","keeper","fog","bell","gull","rope"]'


@pytest.mark.parametrize(
    ("fold", "says"),
    [(InPlace(), "changes the state"), (OfItsPast(), "folds the same events again"), (OfASet(), "PYTHONHASHSEED")],
)
async def test_one_that_is_not_is_named(fold: Any, says: str) -> None:
    with pytest.raises(ImpureFoldError, match=says):
        assert_pure(fold, await words())


async def test_the_fold_of_the_built_in_state_is_pure() -> None:
    async with InMemoryEventStore() as log:
        values = [{"namespace": "d", "key": word, "value": word, "version": 1} for word in WORDS]
        await log.append("state/d", [NewEvent(name="state:value_was_set", data=value) for value in values])
        assert_pure(NamespaceFold(), [event async for event in log.read_stream("state/d")])
