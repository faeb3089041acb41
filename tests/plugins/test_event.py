"""The form of events that many follow is made once, and nothing of a person's is kept."""

from __future__ import annotations

from ksi.core import ids
from ksi.core.events import Position, RecordedEvent
from ksi.plugins.event import RECENT_BYTES_MAX, RECENT_MAX, Recent


def recorded(position: int, *, raw: bytes = b"{}", subject: str | None = None) -> RecordedEvent:
    return RecordedEvent(
        position=Position(position),
        stream="a/1",
        version=position,
        name="a:b",
        raw=raw,
        id=ids.new_id(),
        recorded_us=1,
        subject=subject,
    )


def test_who_follows_the_log_is_shown_what_was_made_for_the_first() -> None:
    recent, event = Recent(), recorded(1)
    assert recent.shown(event) is recent.shown(event)


def test_of_a_persons_data_and_of_large_events_nothing_is_kept() -> None:
    recent = Recent()
    for event in (recorded(1, subject="ada"), recorded(2, raw=b'"%b"' % (b"x" * RECENT_BYTES_MAX))):
        assert recent.shown(event) is not recent.shown(event)
    assert recent._shown == {}


def test_what_is_kept_is_bounded() -> None:
    recent = Recent()
    for position in range(3 * RECENT_MAX):
        recent.shown(recorded(position))
    assert len(recent._shown) <= RECENT_MAX
