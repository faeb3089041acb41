"""What is left of a row: every envelope, every key, and the digest by which its commit is checked."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from ksi.core import ids
from ksi.core.events import Position
from ksi.core.ports import Entry, Outcome, Unit
from ksi.store.build import NO_CAUSE, NO_RUN, build
from ksi.store.chain import GENESIS, next_link, sealed
from ksi.store.query import keys_of
from ksi.store.row import Row, events_of, pack, unpack
from ksi.store.stub import AWAY, category, checked_row, leaves, stub_of
from ksi.testing.counters import request

ARCHIVE = b"8 bytes."
OTHER = ids.new_id()
STREAMS = st.sampled_from(
    [("$effects", "request"), ("$effects", "outcome"), ("own", "chunk"), ("s/1", "chunk"), ("s/1", "fact")]
)
ENTRIES = st.builds(
    lambda stream, more: Entry(stream=stream[0], name="a:b", data=b'{"text":"secret"}', kind=stream[1], **more),
    STREAMS,
    st.fixed_dictionaries(
        {},
        optional={
            "event_id": st.uuids().map(lambda one: one.bytes),
            "tags": st.just(frozenset({"t"})),
            "schema_version": st.just(2),
            "subject": st.just("person/1"),
            "occurred_us": st.just(7),
            "metadata": st.just({"more": 1}),
            "correlation": st.sampled_from(["run", NO_RUN]),
            "cause": st.sampled_from([OTHER, NO_CAUSE]),
        },
    ),
)


def made(entries: list[Entry], *, recorded: bool, closes: bool, correlation: str | None) -> Row:
    origin = request(correlation=correlation)
    for entry in entries:
        if entry.stream == "own":
            entry.stream = f"completion/{ids.text(origin.event_id)}"
    outcome = Outcome(True, b"{}") if closes else None
    unit = Unit(origin=origin, request=recorded, entries=entries, outcome=outcome)
    return unpack(pack(build(unit, Position(100), 5, range(1, len(entries) + 1))))


@given(st.lists(ENTRIES, max_size=70), st.booleans(), st.booleans(), st.sampled_from([None, "run"]))
def test_all_but_payloads_is_as_it_was(
    entries: list[Entry], recorded: bool, closes: bool, correlation: str | None
) -> None:
    row = made(entries, recorded=recorded, closes=closes, correlation=correlation)
    stored = sealed(pack(row))
    stub = stub_of(row, stored, ARCHIVE)
    assert stub is not None
    found = checked_row(stub)
    assert found is not None
    away = [replace(line, raw=AWAY + ARCHIVE, metadata={}) if leaves(line) else line for line in row.lines]
    assert found.lines == tuple(away)
    assert keys_of(found) == keys_of(row)
    assert [(event.id, event.position) for event in events_of(found)] == [
        (event.id, event.position) for event in events_of(row)
    ]
    assert next_link(GENESIS, 1, 2, [stub]) == next_link(GENESIS, 1, 2, [stored])
    assert (category(row) is None) == (not any(map(leaves, row.lines)))


@given(st.lists(ENTRIES, min_size=1, max_size=3), st.data())
def test_a_bit_that_is_flipped_in_a_stub_is_noticed(entries: list[Entry], data: st.DataObject) -> None:
    row = made(entries, recorded=False, closes=False, correlation=None)
    stub = bytearray(stub_of(row, sealed(pack(row)), ARCHIVE) or b"")
    stub[data.draw(st.integers(0, 10_000)) % len(stub)] ^= 1 << data.draw(st.integers(0, 7))
    assert checked_row(bytes(stub)) is None
