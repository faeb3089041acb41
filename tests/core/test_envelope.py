"""Envelopes: both ways through CloudEvents unchanged, and what flows from cause to effect."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ksi.core import canonical, ids
from ksi.core.envelope import (
    HOPS_MAX,
    EventEnvelope,
    min_deadline,
    trace_of,
)
from ksi.core.errors import HopLimitError, ValidationError
from ksi.testing.loop import ManualClock

words = st.text("abc:/-", min_size=1, max_size=12)
times = st.integers(1, 253_402_300_799_999_999)
raw_ids = st.uuids().map(lambda uuid: uuid.bytes)
payloads = st.dictionaries(words, st.integers() | words | st.none(), max_size=3)
envelopes = st.builds(
    EventEnvelope,
    name=words,
    raw=(payloads | st.lists(st.integers(), max_size=3)).map(canonical.encode),
    principal=words,
    source=words,
    branch=words,
    id=raw_ids,
    correlation=words,
    cause=st.none() | raw_ids,
    time_us=times,
    deadline_us=st.none() | times,
    priority=st.integers(-9, 9),
    hops=st.integers(0, HOPS_MAX),
    subject=st.none() | words,
    rule=st.none() | words,
    traceparent=st.none() | st.just(f"00-{'a' * 32}-{'b' * 16}-01"),
    schema_version=st.integers(1, 9),
    path=st.just("") | words,
)


@given(envelopes)
def test_an_envelope_comes_back_from_its_cloudevent(envelope: EventEnvelope) -> None:
    sent = canonical.encode(envelope.to_cloudevent())
    assert EventEnvelope.from_cloudevent(canonical.decode(sent)) == envelope


@given(envelopes)
def test_a_cloudevent_has_names_and_values_that_the_standard_allows(envelope: EventEnvelope) -> None:
    event = envelope.to_cloudevent()
    assert event.keys() >= {"specversion", "id", "source", "type"}
    assert all(name.isalnum() and name == name.lower() and len(name) <= 20 for name in event)
    assert None not in event.values()


@pytest.mark.parametrize(
    "wrong",
    [
        {"specversion": "0.3"},
        {"specversion": None},
        {"id": 7},
        {"id": "no uuid"},
        {"type": None},
        {"source": ["a"]},
        {"time": "yesterday"},
        {"time": "2026-01-01T00:00:00"},
        {"time": 7},
        {"ksideadline": "soon"},
        {"ksicause": "no uuid"},
        {"data": object()},
        {"ksihops": "many"},
        {"ksiprincipal": 7},
    ],
)
def test_what_is_no_cloudevent_of_ours_is_refused(wrong: dict[str, Any]) -> None:
    event = EventEnvelope.create("a:b", {"x": 1}).to_cloudevent() | wrong
    with pytest.raises(ValidationError):
        EventEnvelope.from_cloudevent(event)


def test_a_cloudevent_of_another_house_needs_only_what_is_required() -> None:
    event = {"specversion": "1.0", "id": "0190163d-8694-739b-aea5-966c26f8ad91", "type": "a:b", "source": "/theirs"}
    envelope = EventEnvelope.from_cloudevent(event)
    assert (envelope.name, envelope.data, envelope.source) == ("a:b", {}, "/theirs")
    assert envelope.correlation_id == event["id"]


@given(envelopes, envelopes)
def test_run_trace_principal_branch_subject_and_deadline_flow_to_the_effect(
    parent: EventEnvelope, child: EventEnvelope
) -> None:
    parent.hops, own, deadline = min(parent.hops, HOPS_MAX - 1), child.subject, child.deadline_us
    kept = (child.name, child.raw, child.id)
    child.caused_by(parent)
    assert child.cause == parent.id
    assert child.correlation == parent.correlation
    assert child.traceparent == (None if parent.traceparent is None else parent.trace_context)
    assert (child.principal, child.branch, child.hops) == (parent.principal, parent.branch, parent.hops + 1)
    assert child.subject == (own or parent.subject)
    assert child.deadline_us == min_deadline(deadline, parent.deadline_us)
    assert (child.name, child.raw, child.id) == kept


def test_a_chain_of_events_ends_at_the_hop_limit() -> None:
    envelope = EventEnvelope.create("a:b")
    for _ in range(HOPS_MAX):
        envelope = EventEnvelope.create("a:b").caused_by(envelope)
    with pytest.raises(HopLimitError) as caught:
        EventEnvelope.create("c:d").caused_by(envelope)
    assert (caught.value.event_name, caught.value.limit) == ("c:d", HOPS_MAX)


def test_a_root_s_run_is_its_own_id_and_all_its_effects_share_it() -> None:
    root = EventEnvelope.create("a:b")
    child = EventEnvelope(name="c:d").caused_by(root)
    grandchild = EventEnvelope(name="e:f").caused_by(child)
    assert root.correlation_id == child.correlation_id == grandchild.correlation_id == ids.text(root.event_id)
    assert grandchild.metadata.causation_id == child.metadata.event_id


def test_an_envelope_is_stamped_by_the_clock_that_is_given() -> None:
    clock = ManualClock()
    clock.advance(1.5)
    assert EventEnvelope.create("a:b", clock=clock).time_us == clock.time_us()


def test_an_id_is_made_when_asked_for_and_then_stays() -> None:
    envelope = EventEnvelope(name="a:b")
    made = envelope.event_id
    assert envelope.event_id == made == envelope.id
    assert envelope.metadata.event_id == envelope.metadata.event_id


def test_data_follows_the_payload_that_is_there_now() -> None:
    envelope = EventEnvelope.create("a:b", {"x": 1})
    envelope.raw = b'{"x":2}'
    assert envelope.data == {"x": 2}


@given(envelopes)
def test_metadata_says_all_that_the_envelope_knows(envelope: EventEnvelope) -> None:
    metadata = envelope.metadata
    assert (metadata.trace_id, metadata.span_id) == envelope.trace == trace_of(envelope.trace_context)
    for name in ("principal", "source", "branch", "hops", "subject", "rule", "schema_version", "correlation_id"):
        assert getattr(metadata, name) == getattr(envelope, name)


@given(envelopes, envelopes)
def test_what_an_event_causes_stays_in_its_trace_below_its_span(parent: EventEnvelope, child: EventEnvelope) -> None:
    parent.hops = 0
    child.caused_by(parent)
    assert child.trace[0] == parent.trace[0]
    assert trace_of(child.traceparent)[1] == (None if parent.traceparent is None else parent.trace[1])


@pytest.mark.parametrize(
    "text", [None, "", "00-abc-def-01", f"00-{'g' * 32}-{'1' * 16}-01", f"00-{'0' * 32}-{'0' * 16}-01"]
)
def test_what_is_no_traceparent_leaves_the_trace_to_the_run(text: str | None) -> None:
    assert trace_of(text) == (None, None)
    envelope = EventEnvelope.create("a:b", traceparent=text)
    assert envelope.trace[0] == envelope.event_id.hex()


def test_a_run_that_is_no_uuid_has_a_trace_too() -> None:
    one, other = (EventEnvelope.create("a:b", correlation="run-1") for _ in range(2))
    assert one.trace[0] == other.trace[0]
    assert len(one.trace[0]) == 32
