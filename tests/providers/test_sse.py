"""Server-sent events, cut into pieces anywhere."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ksi.providers.sse import EVENT_BYTES_MAX, EventDecoder, EventTooLongError

DATA = st.text(st.characters(exclude_characters="\r\n", exclude_categories=["Cs"])).map(str.encode)


@given(events=st.lists(DATA), cuts=st.lists(st.integers(0, 400)), newline=st.sampled_from([b"\n", b"\r\n"]))
def test_events_are_the_same_wherever_the_body_is_cut(events: list[bytes], cuts: list[int], newline: bytes) -> None:
    body = b"".join(b"data: " + data + newline * 2 for data in events)
    edges = sorted({0, len(body), *(min(cut, len(body)) for cut in cuts)})
    decoder = EventDecoder()
    found = [data for start, end in pairwise(edges) for data in decoder.feed(body[start:end])]
    assert found == events


def test_comments_and_other_fields_are_passed_over() -> None:
    assert EventDecoder().feed(b": ping\n\nevent: x\nid: 7\ndata:one\ndata: two\n\n") == [b"one\ntwo"]


def test_an_event_without_its_end_is_not_given() -> None:
    assert EventDecoder().feed(b"data: half") == []


@pytest.mark.parametrize("line", [b"x", b"data: x\n"], ids=["one line", "many lines"])
def test_an_event_that_never_ends_is_refused(line: bytes) -> None:
    with pytest.raises(EventTooLongError):
        EventDecoder().feed(line * (EVENT_BYTES_MAX + 1))
