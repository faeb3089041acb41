"""Canonical JSON: one encoding for one value, and nothing that JSON can not say."""

import math
from contextlib import suppress
from dataclasses import dataclass
from random import Random
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ksi.core import canonical
from ksi.core.errors import ValidationError

text = st.text(st.characters(exclude_categories=["Cs"]))
scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
values = st.recursive(
    scalars | text, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(text, inner, max_size=4), max_leaves=20
)


@dataclass
class Point:
    x: float


class Note(msgspec.Struct):
    title: str
    weight: float = 0.0
    inner: Any = None


def reordered(value: Any, random: Random) -> Any:
    match value:
        case dict():
            items = [(key, reordered(item, random)) for key, item in value.items()]
            random.shuffle(items)
            return dict(items)
        case list():
            return [reordered(item, random) for item in value]
        case _:
            return value


@given(values)
def test_what_is_encoded_is_decoded(value: Any) -> None:
    assert canonical.decode(canonical.encode(value)) == value


@given(values, st.randoms(use_true_random=False))
def test_the_order_of_keys_does_not_matter(value: Any, random: Random) -> None:
    assert canonical.encode(reordered(value, random)) == canonical.encode(value)


@given(values)
def test_encoding_what_was_decoded_gives_the_same_bytes(value: Any) -> None:
    raw = canonical.encode(value)
    assert canonical.encode(canonical.decode(raw)) == raw


def test_there_are_no_spaces_and_text_is_utf_8() -> None:
    assert canonical.encode({"b": [1, 2], "a": "ü"}) == '{"a":"ü","b":[1,2]}'.encode()


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize(
    "wrap",
    [
        lambda number: number,
        lambda number: {"a": [None, {"b": number}]},
        lambda number: (1, number),
        Point,
        lambda number: Note("x", number),
        lambda number: Note("x", inner=Note("y", inner={"z": number})),
    ],
)
def test_numbers_that_json_does_not_have_are_refused(number: float, wrap: Any) -> None:
    with pytest.raises(ValidationError, match="not JSON"):
        canonical.encode(wrap(number))


@pytest.mark.parametrize("value", ["\ud800", {"\udfff": 1}, ["a", "b\udc00c"], object(), {1: 1}])
def test_what_json_can_not_say_is_refused(value: Any) -> None:
    with pytest.raises(ValidationError, match="not JSON"):
        canonical.encode(value)


@pytest.mark.parametrize("depth", range(300, 1000, 50))
def test_a_deep_value_is_encoded_or_refused_and_never_overflows(depth: int) -> None:
    deep: Any = None
    for _ in range(depth):
        deep = [deep]
    with suppress(ValidationError):
        assert canonical.encode(deep) == b"[" * depth + b"null" + b"]" * depth


def test_a_value_that_holds_itself_is_refused() -> None:
    loop: list[Any] = []
    loop.append(loop)
    with pytest.raises(ValidationError):
        canonical.encode(loop)


@pytest.mark.parametrize("raw", [b"", b"{", b"NaN", b"'a'", b'{"a":1,}', b"\xff", b'"\\ud800"', b"1 2", b"[" * 100_000])
def test_what_is_not_json_is_refused(raw: bytes) -> None:
    with pytest.raises(ValidationError, match="not JSON"):
        canonical.decode(raw)


def nested(depth: int) -> bytes:
    return b'{"a":' * (depth // 2) + b"[" * (depth - depth // 2) + b"]" * (depth - depth // 2) + b"}" * (depth // 2)


def test_depth_up_to_the_limit_passes_and_one_more_is_refused() -> None:
    canonical.refuse_depth(nested(canonical.DEPTH_MAX))
    with pytest.raises(ValidationError, match="deeper than 64"):
        canonical.refuse_depth(nested(canonical.DEPTH_MAX + 1))


@given(values)
def test_depth_is_what_counting_brackets_outside_of_text_says(value: Any) -> None:
    deep: Any = value
    for _ in range(canonical.DEPTH_MAX - depth_of(value)):
        deep = [deep]
    canonical.refuse_depth(canonical.encode(deep))
    with pytest.raises(ValidationError):
        canonical.refuse_depth(canonical.encode([deep]))


def depth_of(value: Any) -> int:
    match value:
        case dict():
            return 1 + max(map(depth_of, value.values()), default=0)
        case list():
            return 1 + max(map(depth_of, value), default=0)
        case _:
            return 0


def test_brackets_in_text_are_no_depth() -> None:
    canonical.refuse_depth(canonical.encode(["[" * 200, '\\"' + "{" * 200]))


def test_a_digest_has_16_bytes_and_never_changes() -> None:
    assert canonical.digest(b"{}").hex() == "2afb9b83f9314e5d029766197f539792"
