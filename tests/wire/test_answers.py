"""Frames of the daemon: built around ready JSON, read back by the client as the same."""

import contextlib
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ksi.core.errors import InternalError, InvalidFrameError, UnknownEventError, ValidationError
from ksi.wire import answers, dialects
from ksi.wire.frames import Frame
from tests.wire.strategies import json_values, text

frame_ids = st.integers(-(2**63), 2**63 - 1) | text


@given(frame_ids, json_values)
def test_an_answer_is_read_as_it_was_given(frame_id: int | str, value: Any) -> None:
    line = answers.answer(frame_id, msgspec.json.encode(value))
    read = answers.decode(line)
    assert line.index(b"\n") == len(line) - 1
    assert (read.id, read.ok) == (frame_id, True)
    assert msgspec.json.decode(read.data) == value


@given(frame_ids, st.integers(1, 10**6), st.none() | text, json_values)
def test_a_chunk_is_read_as_it_was_given(frame_id: int | str, seq: int, at: str | None, value: Any) -> None:
    read = answers.decode(answers.chunk(answers.id_json(frame_id), seq, at, msgspec.json.encode(value)))
    assert (read.id, read.seq, read.at, read.end) == (frame_id, seq, at, False)
    assert msgspec.json.decode(read.data) == value


@given(st.binary(max_size=200) | json_values.map(msgspec.json.encode))
def test_garbage_is_no_answer(line: bytes) -> None:
    with contextlib.suppress(InvalidFrameError):
        answers.decode(line)


def test_an_error_comes_back_as_its_own_class_with_its_facts() -> None:
    sent = UnknownEventError("system:pnig", suggestions=["system:ping"])
    wire = answers.decode(answers.failure(7, sent)).error
    assert wire is not None
    error = wire.raised()
    assert isinstance(error, UnknownEventError)
    assert error.suggestions == ["system:ping"]
    assert str(error) == str(sent)


def test_an_error_without_a_json_form_still_goes_out() -> None:
    wire = answers.decode(answers.failure(7, InternalError("a handler", "lone \ud800 surrogate"))).error
    assert wire is not None
    assert wire.code == "internal_error"


def test_an_end_without_value_is_null() -> None:
    assert answers.end(b"8", None, None) == b'{"id":8,"end":true,"data":null}\n'


@given(json_values, st.none() | text)
def test_a_flat_success_has_no_error_and_echoes_the_correlation(value: Any, correlation_id: str | None) -> None:
    frame = Frame(event="a:b", correlation_id=correlation_id)
    reply = msgspec.json.decode(dialects.flat(frame, msgspec.json.encode(value)))
    assert "error" not in reply
    assert reply.pop("correlation_id", None) == correlation_id
    assert value in (reply, reply.get("result", ...))


@pytest.mark.parametrize("value", [{"error": None}, {"correlation_id": "x"}, [], "text", 0, None])
def test_what_would_be_misread_is_wrapped(value: Any) -> None:
    reply = msgspec.json.decode(dialects.flat(Frame(event="a:b"), msgspec.json.encode(value)))
    assert reply == {"result": value}


def test_a_key_named_error_deep_inside_is_no_error() -> None:
    assert dialects.flat(Frame(event="a:b"), b'{"a":{"error":1}}') == b'{"a":{"error":1}}\n'


def test_the_newer_dialect() -> None:
    frame = Frame(event="a:b", correlation_id="c1", client_id="me")
    reply = msgspec.json.decode(dialects.with_client_id(frame, b'[{"x":1},{}]', datetime(2026, 1, 2, tzinfo=UTC)))
    assert reply == {
        "event": "a:b",
        "data": [{"x": 1}, {}],
        "count": 2,
        "correlation_id": "c1",
        "timestamp": "2026-01-02T00:00:00Z",
    }


def test_a_failure_of_the_original_dialects_is_a_text_at_top_level() -> None:
    reply = msgspec.json.decode(dialects.failure(Frame(event="a:b", correlation_id="c1"), ValidationError("no key")))
    assert reply == {"error": "no key", "code": "validation_error", "correlation_id": "c1"}
