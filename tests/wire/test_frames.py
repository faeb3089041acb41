"""Frames of clients: what is written is read; garbage is an InvalidFrameError and nothing else."""

import contextlib
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ksi.core.errors import InvalidFrameError
from ksi.wire.frames import Frame, Kind, Request, Shape, decode, encode, id_bytes
from tests.wire.strategies import json_values, payloads, text


@given(payloads, st.integers(0, 2**63 - 1), text, st.booleans(), st.none() | text, st.integers(-1000, 1000))
def test_what_a_client_writes_is_what_the_daemon_reads(
    data: dict[str, Any], frame_id: int, event: str, stream: bool, correlation_id: str | None, priority: int
) -> None:
    raw = msgspec.Raw(msgspec.json.encode(data))
    line = encode(
        Request(id=frame_id, event=event, data=raw, stream=stream, correlation_id=correlation_id, priority=priority)
    )
    assert line.endswith(b"\n")
    assert line.count(b"\n") == 1
    frame = decode(line[:-1])
    assert (frame.id, frame.event, frame.stream) == (frame_id, event, stream)
    assert (frame.correlation_id, frame.priority) == (correlation_id, priority)
    assert msgspec.json.decode(frame.raw) == data


@given(st.binary(max_size=200) | json_values.map(msgspec.json.encode))
def test_garbage_is_an_invalid_frame_and_nothing_else(line: bytes) -> None:
    with contextlib.suppress(InvalidFrameError):
        frame = decode(line)
        _ = frame.kind, frame.shape, frame.raw


@given(
    st.dictionaries(st.sampled_from(Frame.__struct_encode_fields__), json_values, min_size=1).map(msgspec.json.encode)
)
def test_known_keys_with_any_values_are_a_frame_or_an_invalid_frame(line: bytes) -> None:
    with contextlib.suppress(InvalidFrameError):
        _ = decode(line).kind


@pytest.mark.parametrize(
    ("line", "kind", "shape"),
    [
        (b'{"hello":1,"client":"x"}', Kind.HELLO, Shape.PROTOCOL),
        (b'{"id":1,"event":"a:b"}', Kind.REQUEST, Shape.PROTOCOL),
        (b'{"id":"x","event":"a:b","stream":true,"credit":4}', Kind.STREAM, Shape.PROTOCOL),
        (b'{"id":1,"credit":4}', Kind.CREDIT, Shape.PROTOCOL),
        (b'{"id":1,"cancel":true}', Kind.CANCEL, Shape.PROTOCOL),
        (b'{"id":1,"resume":"s@3","credit":4}', Kind.RESUME, Shape.PROTOCOL),
        (b'{"event":"a:b"}', Kind.FLAT, Shape.FLAT),
        (b'{"event":"a:b","_client_id":"me","other":[1]}', Kind.FLAT, Shape.CLIENT_ID),
    ],
)
def test_the_kind_of_a_frame(line: bytes, kind: Kind, shape: Shape) -> None:
    frame = decode(line)
    assert (frame.kind, frame.shape) == (kind, shape)


@pytest.mark.parametrize("line", [b"{}", b'{"id":1}', b'{"event":"a:b","stream":true}', b'{"credit":1}'])
def test_a_frame_that_asks_for_nothing_is_refused(line: bytes) -> None:
    with pytest.raises(InvalidFrameError):
        _ = decode(line).kind


def test_the_id_of_a_frame_with_a_wrong_field_is_among_the_facts() -> None:
    with pytest.raises(InvalidFrameError) as caught:
        decode(b'{"id":7,"event":"a:b","priority":"high"}')
    assert caught.value.details()["id"] == 7


def test_nesting_without_end_is_an_invalid_frame() -> None:
    with pytest.raises(InvalidFrameError):
        decode(b'{"id":1,"event":"a:b","data":{"a":' + b"[" * 100_000)


@pytest.mark.parametrize("data", [b"", b',"data":null'])
def test_no_data_is_an_empty_object(data: bytes) -> None:
    assert decode(b'{"id":1,"event":"a:b"' + data + b"}").raw == b"{}"


@given(st.uuids())
def test_event_ids_are_read_in_every_usual_form(value: Any) -> None:
    assert id_bytes(str(value), field="event_id") == id_bytes(value.hex, field="event_id") == value.bytes


@given(st.text(max_size=40) | st.text("0123456789abcdef-", min_size=36, max_size=36))
def test_another_text_is_no_event_id(value: str) -> None:
    with contextlib.suppress(InvalidFrameError):
        assert len(id_bytes(value, field="event_id")) == 16
