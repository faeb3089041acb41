"""Partition keys: order, lending, circles and bounds; a state machine against a model that is plainly right."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from ksi.core.errors import OverloadedError, PartitionDeadlockError
from ksi.kernel.keys import AGING, Keys, ancestors, lenders


class Someone:
    """A holder."""

    def __init__(
        self, name: str, *, parent: Someone | None = None, above: Someone | None = None, rank: int = 0
    ) -> None:
        self.name = name
        self.parent = parent
        self.above = above or parent
        self.rank = rank

    def __repr__(self) -> str:
        return self.name


class Room:
    """Keys, and who has begun with which."""

    def __init__(self) -> None:
        self.keys = Keys()
        self.began: list[str] = []

    def acquire(self, name: str, holder: Someone, **options: int) -> None:
        self.keys.acquire(name, holder, lambda: self.began.append(holder.name), **options)


@pytest.fixture
def room() -> Room:
    return Room()


def test_a_key_is_given_in_the_order_of_asking(room: Room) -> None:
    people = [Someone(name) for name in "abc"]
    for one in people:
        room.acquire("k", one)
    assert room.began == ["a"]
    for one in people:
        room.keys.release("k", one)
    assert room.began == ["a", "b", "c"]
    assert room.keys.holds("k") == (0, 0)


def test_different_keys_do_not_wait_for_each_other(room: Room) -> None:
    room.acquire("k", Someone("a"))
    room.acquire("l", Someone("b"))
    assert room.began == ["a", "b"]


def test_a_higher_priority_goes_first(room: Room) -> None:
    first = Someone("first")
    room.acquire("k", first)
    room.acquire("k", Someone("plain"))
    room.acquire("k", Someone("urgent", rank=1))
    room.keys.release("k", first)
    assert room.began == ["first", "urgent"]


@given(st.integers(1, 5))
def test_nobody_is_overtaken_for_ever(rank: int) -> None:
    """One who waits sees no more than ``rank * AGING`` later ones of that priority go before it, and no fewer."""
    room = Room()
    holder = Someone("holder")
    room.acquire("k", holder)
    room.acquire("k", Someone("patient"))
    overtakers = 0
    while "patient" not in room.began:
        urgent = Someone("urgent", rank=rank)
        room.acquire("k", urgent)
        room.keys.release("k", holder)
        holder = urgent
        overtakers += 1
        assert overtakers <= rank * AGING
    assert overtakers == rank * AGING


def test_a_full_queue_is_overloaded_and_says_its_bound(room: Room) -> None:
    room.acquire("k", Someone("a"), queued_max=1)
    room.acquire("k", Someone("b"), queued_max=1)
    with pytest.raises(OverloadedError) as caught:
        room.acquire("k", Someone("c"), queued_max=1)
    assert caught.value.limit == 1


def test_one_who_stops_waiting_is_passed_over(room: Room) -> None:
    a, b, c = (Someone(name) for name in "abc")
    for one in (a, b, c):
        room.acquire("k", one)
    assert room.keys.forget("k", b)
    assert not room.keys.forget("k", b)
    assert not room.keys.forget("k", a)
    room.keys.release("k", a)
    assert room.began == ["a", "c"]


def test_a_long_queue_of_those_who_release_at_once_is_no_recursion(room: Room) -> None:
    keys, people = room.keys, [Someone(str(n)) for n in range(5000)]
    first = Someone("first")
    room.acquire("k", first)
    ended: list[Someone] = []

    def begin_and_end(one: Someone) -> Callable[[], None]:
        def begin() -> None:
            ended.append(one)
            keys.release("k", one)

        return begin

    for one in people:
        keys.acquire("k", one, begin_and_end(one), queued_max=5000)
    keys.release("k", first)
    assert ended == people
    assert keys.holds("k") == (0, 0)


# ── lending ──────────────────────────────────────────────────────────────────────────────────────────────────────────
def test_a_held_key_is_lent_to_whom_the_holder_awaits(room: Room) -> None:
    outer = Someone("outer")
    inner = Someone("inner", parent=Someone("between", parent=outer))
    room.acquire("k", outer)
    room.acquire("k", inner)
    assert room.began == ["outer", "inner"]


def test_a_held_key_is_not_lent_to_a_frame_that_names_the_holder_as_its_cause(room: Room) -> None:
    holder = Someone("holder")
    room.acquire("k", holder)
    with pytest.raises(PartitionDeadlockError) as caught:
        room.acquire("k", Someone("frame", above=holder))
    assert caught.value.cycle == ["k"]


def test_siblings_that_borrow_take_turns(room: Room) -> None:
    outer = Someone("outer")
    one, two = Someone("one", parent=outer), Someone("two", parent=outer)
    for each in (outer, one, two):
        room.acquire("k", each)
    assert room.began == ["outer", "one"]
    room.keys.release("k", one)
    assert room.began == ["outer", "one", "two"]


def test_a_stranger_waits_until_lender_and_borrower_are_done(room: Room) -> None:
    outer, stranger = Someone("outer"), Someone("stranger")
    inner = Someone("inner", parent=outer)
    for each in (outer, inner, stranger):
        room.acquire("k", each)
    room.keys.release("k", outer)  # a detached task of it still borrows
    assert "stranger" not in room.began
    room.keys.release("k", inner)
    assert room.began == ["outer", "inner", "stranger"]


# ── circles ──────────────────────────────────────────────────────────────────────────────────────────────────────────
def test_a_circle_across_two_roots_is_named(room: Room) -> None:
    a, b = Someone("a"), Someone("b")
    room.acquire("k", a)
    room.acquire("l", b)
    room.acquire("l", Someone("a's", parent=a))
    with pytest.raises(PartitionDeadlockError) as caught:
        room.acquire("k", Someone("b's", parent=b))
    assert caught.value.key == "k"
    assert caught.value.cycle == ["k", "l"]


def test_a_circle_through_a_frame_of_a_holder_is_named(room: Room) -> None:
    a, b = Someone("a"), Someone("b")
    room.acquire("k", a)
    room.acquire("l", b)
    room.acquire("l", Someone("a's frame", above=a))
    with pytest.raises(PartitionDeadlockError):
        room.acquire("k", Someone("b's frame", above=b))


def test_one_who_waits_behind_a_running_sibling_closes_no_circle(room: Room) -> None:
    """``c1``'s child waits only for ``c3``, which runs; that its lender awaits ``c2`` too is no circle."""
    outer = Someone("outer")
    c1, c2, c3 = (Someone(name, parent=outer) for name in ("c1", "c2", "c3"))
    room.acquire("b", outer)
    room.acquire("b", c3)
    room.acquire("k", c1)
    room.acquire("b", Someone("c1's", parent=c1))
    room.acquire("k", Someone("c2's", parent=c2))
    assert room.began == ["outer", "c3", "c1"]


def test_slots_are_a_circle_only_when_all_are_held_by_those_who_wait(room: Room) -> None:
    a, b = Someone("a"), Someone("b")
    room.acquire("slot", a, capacity=2)
    room.acquire("slot", b, capacity=2)
    room.acquire("slot", Someone("a's", parent=a), capacity=2)
    with pytest.raises(PartitionDeadlockError):
        room.acquire("slot", Someone("b's", parent=b), capacity=2)
    room.keys.release("slot", b)
    assert room.began == ["a", "b", "a's"]


# ── all of it, against a model ───────────────────────────────────────────────────────────────────────────────────────
NAMES = st.sampled_from(["k", "l", "m"])


class KeysMachine(RuleBasedStateMachine):
    """Families of requests take keys; at any moment somebody can go on, and nobody shares what must not be shared."""

    def __init__(self) -> None:
        super().__init__()
        self.keys = Keys()
        self.people: list[Someone] = []
        self.holding: dict[Someone, str] = {}
        self.waiting: dict[Someone, str] = {}
        self.asked: dict[str, list[Someone]] = {"k": [], "l": [], "m": []}

    def _ask(self, name: str, one: Someone) -> None:
        def begin() -> None:
            self.waiting.pop(one, None)
            self.holding[one] = name

        self.people.append(one)
        self.waiting[one] = name
        try:
            self.keys.acquire(name, one, begin)
        except PartitionDeadlockError as error:
            del self.waiting[one]
            assert name in error.cycle  # noqa: PT017  # most of the time it does not raise
        else:
            self.asked[name].append(one)

    @rule(name=NAMES, rank=st.integers(0, 2))
    def a_root_asks(self, name: str, rank: int) -> None:
        self._ask(name, Someone(f"root{len(self.people)}", rank=rank))

    @precondition(lambda self: self.holding)
    @rule(name=NAMES, data=st.data(), is_frame=st.booleans())
    def one_who_runs_asks_for_more(self, name: str, data: st.DataObject, is_frame: bool) -> None:
        above = data.draw(st.sampled_from(sorted(self.holding, key=repr)))
        name_of = f"child{len(self.people)}"
        self._ask(name, Someone(name_of, above=above) if is_frame else Someone(name_of, parent=above))

    @precondition(lambda self: self._free())
    @rule(data=st.data())
    def one_ends(self, data: st.DataObject) -> None:
        one = data.draw(st.sampled_from(self._free()))
        self.keys.release(self.holding.pop(one), one)

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def one_is_cancelled(self, data: st.DataObject) -> None:
        one = data.draw(st.sampled_from(sorted(self.waiting, key=repr)))
        assert self.keys.forget(self.waiting.pop(one), one)

    def _free(self) -> list[Someone]:
        """Those who hold a key and wait for nobody."""
        awaiting = {above for one in (*self.waiting, *self.holding) for above in ancestors(one)}
        return sorted((one for one in self.holding if one not in awaiting), key=repr)

    @invariant()
    def somebody_can_go_on(self) -> None:
        assert self._free() or not self.waiting

    @invariant()
    def only_lenders_and_borrowers_share_a_key(self) -> None:
        for name in self.asked:
            holders = [one for one in self.holding if self.holding[one] == name]
            for place, one in enumerate(holders):
                assert all(lender in lenders(one) for lender in holders[:place])

    @invariant()
    def the_count_is_right(self) -> None:
        for name in self.asked:
            held = sum(key == name for key in self.holding.values())
            assert self.keys.holds(name) == (held, sum(key == name for key in self.waiting.values()))

    def teardown(self) -> None:
        """Nobody is left waiting when all who run come to their end."""
        while free := self._free():
            self.keys.release(self.holding.pop(free[0]), free[0])
        assert not self.waiting
        assert not self.holding


KeysMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
TestKeys = KeysMachine.TestCase
