"""Frames that are read in one pass with their payload."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ksi.wire import typed
from ksi.wire.frames import Head, read
from ksi.wire.typed import TypedFrames
from tests.wire.strategies import json_values


class Point(msgspec.Struct, forbid_unknown_fields=True):
    x: int
    label: str = ""


@pytest.fixture
def frames() -> TypedFrames:
    frames = TypedFrames()
    frames.learn("point:put", Point, "the row of points")
    frames.learn("any:put", msgspec.Raw, "the row of anything")
    return frames


def test_a_learned_event_is_read_with_its_payload(frames: TypedFrames) -> None:
    frame = frames.read(b'{"id":7,"event":"point:put","data":{"x":1},"timeout":2.5}')
    assert (frame.id, frame.data, frame.timeout, frame.target) == (7, Point(1), 2.5, "the row of points")


def test_a_bare_line_is_read_as_the_same_request(frames: TypedFrames) -> None:
    line = b'{"id":7,"event":"point:put","data":{"x":1}}'
    bare, full = frames.read_bare(line), frames.read(line)
    assert (bare.id, bare.data, bare.target) == (full.id, full.data, full.target) == (7, Point(1), "the row of points")


@pytest.mark.parametrize(
    "line",
    [
        b'{"id":7,"event":"point:put","data":{"x":1},"priority":3}',
        b'{"id":7,"event":"point:put","data":{"x":1},"stream":true}',
        b'{"id":7,"event":"point:put","data":{"x":1},"nobody":"knows this"}',
        b'{"id":null,"event":"point:put","data":{"x":1}}',
        b'{"event":"point:put","data":{"x":1}}',
    ],
)
def test_a_line_that_says_more_or_has_no_id_is_not_bare(frames: TypedFrames, line: bytes) -> None:
    assert frames.read(line).data == Point(1)
    with pytest.raises(msgspec.MsgspecError):
        frames.read_bare(line)


def test_data_without_a_type_stays_as_it_is(frames: TypedFrames) -> None:
    frame = frames.read(b'{"event":"any:put","data":[1, {}],"id":"a"}')
    assert (bytes(frame.data), frame.target) == (b"[1, {}]", "the row of anything")
    assert bytes(frames.read(b'{"event":"any:put","id":"a"}').data) == b"{}"


@pytest.mark.parametrize(
    "line",
    [
        b'{"id":7,"event":"point:put","data":{"x":"1"}}',
        b'{"id":7,"event":"point:put","data":{"x":1,"y":2}}',
        b'{"id":7,"event":"point:put"}',
        b'{"id":7,"event":"other:put","data":{}}',
        b'{"id":7,"credit":16}',
        b'{"id":7,"event":"point:put","data":{"x":1}} {}',
        b"",
    ],
)
def test_whatever_is_not_quite_right_is_left_to_the_plain_reader(frames: TypedFrames, line: bytes) -> None:
    with pytest.raises(msgspec.MsgspecError):
        frames.read(line)


@pytest.mark.parametrize(
    "line",
    [
        b'{"id":7,"cancel":true}',
        b'{"id":7,"credit":1}',
        b'{"hello":1}',
        b'{"id":7,"event":""}',
        b'{"id":7,"event":"","none_is_so":1}',
        b'{"event":"","data":{},"none_is_so":0}',
    ],
)
def test_a_frame_without_an_event_is_none_of_the_only_learned_one(line: bytes) -> None:
    frames = TypedFrames()
    frames.learn("any:put", msgspec.Raw, "the row of anything")
    for read_line in (frames.read, frames.read_bare):
        with pytest.raises(msgspec.MsgspecError):
            read_line(line)


def test_what_was_learned_can_be_forgotten_and_learned_anew(frames: TypedFrames) -> None:
    frames.forget()
    for read_line in (frames.read, frames.read_bare):
        with pytest.raises(msgspec.MsgspecError):
            read_line(b'{"id":7,"event":"point:put","data":{"x":1}}')
    frames.learn("point:put", msgspec.Raw, "another row")
    assert frames.read(b'{"id":7,"event":"point:put","data":{"x":"1"}}').target == "another row"


def test_events_beyond_the_bound_are_not_learned(monkeypatch: pytest.MonkeyPatch, frames: TypedFrames) -> None:
    monkeypatch.setattr(typed, "LEARNED_MAX", 2)
    frames.learn("third:put", Point, "a row too many")
    with pytest.raises(msgspec.MsgspecError):
        frames.read(b'{"id":7,"event":"third:put","data":{"x":1}}')


@given(
    data=json_values,
    options=st.fixed_dictionaries({}, optional={"priority": st.integers(-9, 9), "reply": st.booleans()}),
)
def test_both_readers_say_the_same(data: object, options: dict[str, object]) -> None:
    frames = TypedFrames()
    frames.learn("any:put", msgspec.Raw, None)
    line = msgspec.json.encode({"id": 1, "event": "any:put", "data": data} | options)
    one, other = frames.read(line), read(line)
    assert bytes(one.data) == bytes(other.data)
    assert all(getattr(one, name) == getattr(other, name) for name in Head.__struct_fields__)
