"""Values of the log: a fact knows its name, a recorded event gives its payload."""

from datetime import UTC, datetime
from uuid import UUID

import msgspec
import pytest

from ksi.core.clock import microseconds
from ksi.core.events import Position, RecordedEvent, fact, fact_name


@fact("counter:was_raised", schema_version=2)
class CounterWasRaised(msgspec.Struct, frozen=True):
    by: int
    note: str = ""


def recorded(raw: bytes) -> RecordedEvent:
    return RecordedEvent(
        position=Position(7),
        stream="counter/a",
        version=3,
        name="counter:was_raised",
        raw=raw,
        id=UUID(int=1).bytes,
        recorded_us=microseconds(datetime(2026, 1, 1, tzinfo=UTC)),
    )


def test_a_struct_knows_the_fact_that_it_stands_for() -> None:
    assert fact_name(CounterWasRaised) == ("counter:was_raised", 2)
    assert fact_name(RecordedEvent) is None


def test_a_recorded_event_gives_its_payload_as_builtins_or_as_a_struct() -> None:
    event = recorded(b'{"by":2,"since_version_3":true}')
    assert event.data == {"by": 2, "since_version_3": True}
    assert event.data is event.data
    assert event.into(CounterWasRaised) == CounterWasRaised(by=2)


def test_a_payload_of_another_shape_is_refused() -> None:
    with pytest.raises(msgspec.ValidationError):
        recorded(b'{"by":"two"}').into(CounterWasRaised)


def test_the_address_is_where_reading_goes_on() -> None:
    assert recorded(b"{}").address == "counter/a@3"
