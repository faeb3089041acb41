"""Codecs of pydantic models: two encoders, one JSON."""

from functools import cached_property
from typing import Annotated, Any

import msgspec
import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ksi.core.errors import ValidationError
from ksi.kernel.models import model_codec

text = st.text(st.characters(exclude_categories=["Cs"]))


class Plain(pydantic.BaseModel):
    name: str
    count: int = 0
    ratio: float = 0.0
    tags: list[str] = []
    note: str | None = None


@given(
    st.builds(
        Plain,
        name=text,
        count=st.integers(-(2**63), 2**64 - 1),
        ratio=st.floats(allow_nan=False, allow_infinity=False),
        tags=st.lists(text),
        note=st.none() | text,
    )
)
def test_a_plain_model_is_written_as_what_pydantic_says_of_it(model: Plain) -> None:
    raw = model_codec(Plain).encode(model)
    assert msgspec.json.decode(raw) == msgspec.json.decode(model.model_dump_json())
    assert list(msgspec.json.decode(raw)) == list(Plain.model_fields)


def test_a_nan_is_refused() -> None:
    with pytest.raises(ValidationError):
        model_codec(Plain).encode(Plain(name="a", ratio=float("nan")))


def test_an_answer_in_another_form_is_made_a_model() -> None:
    assert b'"count":3' in model_codec(Plain).encode({"name": "a", "count": 3})


class Shouting(pydantic.BaseModel):
    name: str

    @pydantic.field_serializer("name")
    def loud(self, name: str) -> str:
        return name.upper()


class Renamed(pydantic.BaseModel):
    name: Annotated[str, pydantic.Field(serialization_alias="called")]


class Marked(pydantic.BaseModel):
    name: Annotated[str, pydantic.PlainSerializer(str.upper)]


class Hidden(pydantic.BaseModel):
    name: str = pydantic.Field(exclude=True)
    count: int = 1


class Computed(pydantic.BaseModel):
    name: str

    @pydantic.computed_field  # type: ignore[prop-decorator]  # as pydantic's own documentation writes it
    @property
    def size(self) -> int:
        return len(self.name)


class Cached(pydantic.BaseModel):
    name: str

    @cached_property
    def size(self) -> int:
        return len(self.name)


class Nested(pydantic.BaseModel):
    inner: Shouting


@pytest.mark.parametrize(
    "model",
    [
        Shouting(name="a"),
        Renamed(name="a"),
        Marked(name="a"),
        Hidden(name="a"),
        Computed(name="a"),
        Cached(name="a"),
        Nested(inner=Shouting(name="a")),
    ],
    ids=lambda model: type(model).__name__,
)
def test_what_a_model_says_of_its_own_form_counts(model: Any) -> None:
    assert not hasattr(model, "size") or model.size == 1
    assert msgspec.json.decode(model_codec(type(model)).encode(model)) == msgspec.json.decode(model.model_dump_json())


def test_a_subclass_is_written_by_the_fields_that_were_declared() -> None:
    class More(Plain):
        secret: str = "hidden"

    assert b"hidden" not in model_codec(Plain).encode(More(name="a"))
