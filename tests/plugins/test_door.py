"""What a door holds for the same request, and what it counts: pure."""

from __future__ import annotations

import random
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ksi.core import canonical
from ksi.core.errors import BudgetExceededError, UnsupportedError, ValidationError
from ksi.plugins.door.matching import Memory, Recorded, key_of, parse_ignored
from ksi.plugins.door.paid import Meter, paid_call
from ksi.plugins.door.shapes import Asked, Bytes, Head, Piece, Upstreams, changed
from ksi.plugins.door.unsaid import without_keys
from ksi.providers.base import Usage
from ksi.providers.budgets import OTHER_TOKENS

JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)
BODIES = st.dictionaries(st.text(max_size=3), JSON_VALUES, max_size=4)
SSE = Head(200, [("content-type", "text/event-stream")])
WHOLE = Head(200, [("content-type", "application/json")])


def asked(body: Any, path: str = "chat/completions") -> Asked:
    text = body if isinstance(body, str) else msgspec.json.encode(body).decode()
    return Asked(run="r", protocol="openai", method="POST", path=path, body=Bytes(text))


def recorded(bodies: list[Any]) -> list[Recorded]:
    return [Recorded(bytes([number]), number, asked(body)) for number, body in enumerate(bodies)]


# ── the same request ─────────────────────────────────────────────────────────────────────────────────────────────────
@given(bodies=st.lists(BODIES, min_size=1, max_size=6), seed=st.integers())
def test_each_recorded_request_is_found_once_in_any_order_of_arrival_and_of_keys(
    bodies: list[dict[str, Any]], seed: int
) -> None:
    memory = Memory(recorded(bodies), ())
    arriving = random.Random(seed).sample(bodies, len(bodies))
    turned = [dict(reversed(body.items())) for body in arriving]
    taken = [memory.take(asked(body)) for body in turned]
    for body, found in zip(arriving, taken, strict=True):
        assert found is not None
        assert canonical.encode(found.asked.json()) == canonical.encode(body)
    assert len({found.id for found in taken if found}) == len(bodies)
    assert (memory.left(), memory.take(asked(bodies[0]))) == ([], None)


def test_what_says_the_same_twice_is_found_in_the_order_in_which_it_was_recorded() -> None:
    memory = Memory(recorded([{"a": 1}, {"b": 1}, {"a": 1}]), ())
    found = [memory.take(asked({"a": 1})) for _ in range(3)]
    assert [call.position if call else None for call in found] == [0, 2, None]


@given(bodies=st.lists(st.text(min_size=8, max_size=40), min_size=2, max_size=6, unique=True), data=st.data())
def test_the_nearest_request_is_at_least_as_like_as_any_other(bodies: list[str], data: st.DataObject) -> None:
    memory = Memory(recorded([{"prompt": body} for body in bodies]), ())
    wanted = data.draw(st.sampled_from(bodies))
    nearest = memory.nearest(asked({"prompt": wanted}))
    assert nearest is not None
    assert nearest.asked.json() == {"prompt": wanted}


@given(body=BODIES, one=JSON_VALUES, other=JSON_VALUES)
def test_what_is_ignored_does_not_count(body: dict[str, Any], one: Any, other: Any) -> None:
    ignored = parse_ignored(["$.meta.at", "$.list[*].id"])
    first, second = (
        {**body, "meta": {"at": value, "kept": 1}, "list": [{"id": value, "text": "t"}]} for value in (one, other)
    )
    assert key_of(asked(first), ignored) == key_of(asked(second), ignored)
    assert key_of(asked({**first, "meta": {"at": one, "kept": 2}}), ignored) != key_of(asked(first), ignored)


def test_a_path_that_leads_nowhere_ignores_nothing() -> None:
    ignored = parse_ignored(["$.messages[*].id", "$.a.b.c", "$.messages[3].x"])
    for body in ({}, {"messages": "text", "a": [1]}, {"messages": [1, {"id": 2}]}, "no JSON"):
        assert key_of(asked(body), ignored)
    with pytest.raises(ValidationError):
        parse_ignored(["$"])


def test_headers_apart_method_path_query_and_protocol_count() -> None:
    base = asked({"a": 1})
    others = [
        msgspec.structs.replace(base, method="PUT"),
        msgspec.structs.replace(base, path="responses"),
        msgspec.structs.replace(base, query="a=b"),
        msgspec.structs.replace(base, is_beside=True),
        msgspec.structs.replace(base, protocol="anthropic"),
    ]
    assert len({key_of(each, ()) for each in (base, *others)}) == 6
    assert key_of(msgspec.structs.replace(base, run="another"), ()) == key_of(base, ())


@pytest.mark.parametrize(
    ("query", "recorded"),
    [
        ("", ""),
        ("limit=3&api_key=abc&x", "limit=3&api_key=redacted&x"),
        ("API-Key=a%26b&key=", "API-Key=redacted&key=redacted"),
        ("page_token=n&keys=k&key", "page_token=n&keys=k&key"),
    ],
)
def test_keys_in_a_query_string_are_left_out_and_all_else_stays_as_it_came(query: str, recorded: str) -> None:
    assert without_keys(query) == recorded


def test_what_stands_beside_the_base_url_goes_to_the_root_of_its_server() -> None:
    upstreams = Upstreams(openai="http://x:1/openai/v1/")
    assert upstreams.base(asked({})) == "http://x:1/openai/v1"
    assert upstreams.base(msgspec.structs.replace(asked({}), is_beside=True)) == "http://x:1/openai"


@given(st.binary(max_size=200))
def test_bytes_are_kept_as_they_are(raw: bytes) -> None:
    assert msgspec.json.decode(msgspec.json.encode(Bytes.of(raw)), type=Bytes).raw() == raw


def test_a_request_is_changed_by_path() -> None:
    body = {"model": "m", "messages": [{"content": "a"}]}
    after = changed(asked(body), {"messages.0.content": "b", "temperature": 0})
    assert after.json() == {"model": "m", "messages": [{"content": "b"}], "temperature": 0}
    for path in ("messages.7.content", "messages.x", "model.a"):
        with pytest.raises(UnsupportedError):
            changed(asked(body), {path: 1})
    with pytest.raises(UnsupportedError):
        changed(asked("text"), {"a": 1})


# ── what it costs ────────────────────────────────────────────────────────────────────────────────────────────────────
def test_only_what_asks_a_model_is_paid() -> None:
    assert paid_call("c", asked({"input": 1}), "uid:1") is None
    assert paid_call("c", asked({"model": "m"}, "messages/count_tokens"), "uid:1") is None
    assert paid_call("c", msgspec.structs.replace(asked({"model": "m"}), method="GET"), "uid:1") is None
    assert paid_call("c", asked("no JSON"), "uid:1") is None


@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens", "max_output_tokens"])
def test_a_call_is_bounded_by_its_bytes_and_what_it_says_of_its_answer(name: str) -> None:
    call = paid_call("c", asked({"model": "m", name: 10, "n": 3}), "uid:1")
    assert call is not None
    assert (call.output_tokens, call.scopes) == (30, ("all", "principal:uid:1", "provider:openai"))
    assert call.input_tokens >= len(asked({"model": "m", name: 10, "n": 3}).body.text)


def test_a_picture_is_bounded_by_itself() -> None:
    body = {"model": "m", "messages": [{"image_url": {"url": "data:image/png;base64," + "A" * 1_000_000}}]}
    call = paid_call("c", asked(body), "uid:1")
    assert call is not None
    assert call.input_tokens < 10_000


@pytest.mark.parametrize("part", [{"type": "image_url", "image_url": {"url": "https://x/a.png"}}, {"type": "image"}])
def test_a_picture_that_lies_elsewhere_is_bounded_too(part: Any) -> None:
    call = paid_call("c", asked({"model": "m", "messages": [{"content": [part, part]}]}), "uid:1")
    assert call is not None
    assert call.input_tokens > 2 * OTHER_TOKENS


@pytest.mark.parametrize(("prompt", "prompts"), [("a", 1), (["a", "b"], 2), ([1, 2, 3], 1), ([[1], [2]], 2)])
def test_prompts_that_are_asked_at_once_are_bounded_together(prompt: Any, prompts: int) -> None:
    call = paid_call("c", asked({"model": "m", "prompt": prompt, "max_tokens": 10, "best_of": 2}), "uid:1")
    assert call is not None
    assert call.output_tokens == 20 * prompts


def read(head: Head, *pieces: bytes, granted: int | None = None, is_whole: bool = True) -> Usage:
    meter = Meter(asked({"model": "m"}), granted)
    meter.take(head)
    for piece in pieces:
        meter.take(Piece(Bytes.of(piece)))
    return meter.usage(is_whole=is_whole)


def said(**fields: Any) -> bytes:
    return b"data: %b\n\n" % msgspec.json.encode(fields)


def test_usage_is_what_the_answer_says() -> None:
    chat = msgspec.json.encode({"usage": {"prompt_tokens": 5, "completion_tokens": 7}})
    assert read(WHOLE, chat[:9], chat[9:]) == Usage(input_tokens=5, output_tokens=7)
    embedding = msgspec.json.encode({"usage": {"prompt_tokens": 5, "total_tokens": 5}})
    assert read(WHOLE, embedding) == Usage(input_tokens=5, output_tokens=0)
    responses = said(type="response.completed", response={"usage": {"input_tokens": 5, "output_tokens": 7}})
    assert read(SSE, said(delta="a"), responses) == Usage(input_tokens=5, output_tokens=7)
    cached = {"input_tokens": 1, "cache_read_input_tokens": 3, "cache_creation_input_tokens": 1, "output_tokens": 1}
    start, end = said(type="message_start", message={"usage": cached}), said(usage={"output_tokens": 7})
    assert read(SSE, start, end) == Usage(input_tokens=5, output_tokens=7)


def test_usage_that_nobody_said_is_estimated_and_marked() -> None:
    cut = read(
        SSE, said(type="message_start", message={"usage": {"input_tokens": 5, "output_tokens": 1}}), is_whole=False
    )
    assert (cut.input_tokens, cut.output_tokens, cut.estimated) == (5, 1, True)
    assert read(SSE, *[said(delta="a")] * 4).output_tokens == 4
    assert read(WHOLE, b"x" * 40, is_whole=False).output_tokens == 10


def test_a_refusal_costs_nothing() -> None:
    assert read(Head(429, [("content-type", "application/json")]), b'{"error":1}') == Usage(
        input_tokens=0, output_tokens=0
    )


def test_an_answer_does_not_go_on_where_the_budget_ends() -> None:
    assert read(SSE, *[said(delta="a")] * 3, granted=3).output_tokens == 3
    with pytest.raises(BudgetExceededError):
        read(SSE, *[said(delta="a")] * 4, granted=3)
