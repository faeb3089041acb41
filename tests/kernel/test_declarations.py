"""Declarations: what is wrong is said at registration, with what to write instead."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any

import msgspec
import pydantic
import pytest

from ksi.core.errors import (
    DeclarationError,
    DuplicateEventError,
    InvalidResponseError,
    KSIError,
    NoAnswerError,
    NotFoundError,
    ValidationError,
)
from ksi.core.events import RecordedEvent
from ksi.core.result import Failure, Result, Success
from ksi.kernel.context import EventContext
from ksi.kernel.declare import End, declarations, event, observer, query, stream
from ksi.kernel.registry import EventHandler, EventRegistry
from ksi.testing.harness import EventTestHarness
from tests.kernel.running import plugin, recorded

pytestmark = pytest.mark.virtual


class Loose(msgspec.Struct):
    text: str


class Strict(msgspec.Struct, forbid_unknown_fields=True):
    text: str
    size: int = 1


class Model(pydantic.BaseModel):
    text: str
    size: int = 1


class WithError(msgspec.Struct):
    error: str


def refusal(function: Callable[..., Any]) -> str:
    """What registration says of ``function``."""
    (declaration,) = declarations(function)
    with pytest.raises(DeclarationError) as caught:
        EventRegistry().register([EventHandler(function, declaration, "p")])
    assert function.__qualname__ in caught.value.message
    return caught.value.message


def test_a_parameter_without_a_hint_is_named() -> None:
    @event("p:a")
    async def handler(text) -> str:
        return str(text)

    assert "'text' has no type hint" in refusal(handler)


def test_an_answer_without_a_hint_is_refused() -> None:
    @event("p:a")
    async def handler(text: str):
        return text

    assert "-> None" in refusal(handler)


def test_what_can_not_come_out_of_json_is_refused() -> None:
    @event("p:a")
    async def many(*texts: str) -> None: ...

    @event("p:a")
    async def named(**texts: str) -> None: ...

    @event("p:a")
    async def positional(text: str, /) -> None: ...

    for handler in (many, named, positional):
        assert "give every field a name" in refusal(handler)


def test_a_plain_def_must_say_how_it_is_called() -> None:
    @query("p:a")
    def handler() -> str:
        return ""

    assert "inline=True" in refusal(handler)


def test_an_async_def_is_not_inline() -> None:
    @query("p:a", inline=True)
    async def handler() -> str:
        return ""

    assert "plain `def`" in refusal(handler)


def test_a_payload_that_drops_unknown_fields_in_silence_is_refused() -> None:
    @event("p:a")
    async def handler(request: Loose) -> None: ...

    assert "forbid_unknown_fields=True" in refusal(handler)


def test_an_answer_with_a_field_of_the_flat_dialect_is_refused() -> None:
    @query("p:a")
    async def handler() -> WithError:
        return WithError("")

    assert "'error'" in refusal(handler)


def test_an_event_that_yields_is_told_to_be_a_stream() -> None:
    @event("p:a")
    async def handler() -> AsyncIterator[int]:
        yield 1

    assert "@stream" in refusal(handler)


def test_a_stream_that_does_not_yield_or_says_not_what_is_refused() -> None:
    @stream("p:a")
    async def silent() -> AsyncIterator[int]:
        raise NotImplementedError

    @stream("p:a")
    async def vague() -> int:  # type: ignore[misc]  # that is the point
        yield 1

    assert "yields" in refusal(silent)
    assert "AsyncIterator[Chunk | End[Answer]]" in refusal(vague)


def test_an_observer_takes_a_recorded_event() -> None:
    @observer("p:*")
    async def handler(event: dict[str, Any]) -> None: ...

    assert "RecordedEvent" in refusal(handler)


@pytest.mark.parametrize("name", ["noverb", ":x", "x:", "a b:c", "a:*"])
def test_a_name_is_namespace_and_verb(name: str) -> None:
    @event(name)
    async def handler() -> None: ...

    assert "namespace:verb" in refusal(handler)


def test_two_owners_of_a_name_are_both_named() -> None:
    @event("p:a")
    async def one() -> None: ...

    @event("p:a")
    async def two() -> None: ...

    registry = EventRegistry()
    registry.register([EventHandler(one, declarations(one)[0], "first")])
    with pytest.raises(DuplicateEventError) as caught:
        registry.register([EventHandler(two, declarations(two)[0], "second")])
    assert [place.rpartition(".")[2] for place in caught.value.places] == ["one", "two"]
    assert list(registry.events) == ["p:a"]


def test_those_who_share_an_event_share_its_schemas() -> None:
    @event("p:a", shared=True)
    async def one(text: str) -> None: ...

    @event("p:a", shared=True)
    async def two(text: int) -> None: ...

    registry = EventRegistry()
    registry.register([EventHandler(one, declarations(one)[0], "first")])
    with pytest.raises(DuplicateEventError, match="two schemas"):
        registry.register([EventHandler(two, declarations(two)[0], "second")])


async def test_classes_of_a_function_resolve_and_both_kinds_of_models_are_strict() -> None:
    class Local(msgspec.Struct, forbid_unknown_fields=True):
        size: int

    @query("p:struct")
    async def struct(self: Any, request: Local) -> int:
        return request.size

    @query("p:model")
    async def model(self: Any, context: EventContext, request: Model) -> str:
        return request.text * request.size

    async with EventTestHarness(plugin(struct, model)) as ksi:
        assert await ksi.request("p:struct", {"size": 2}) == 2
        assert await ksi.request("p:model", {"text": "a", "size": 2}) == "aa"
        for unfit in ({"size": "2"}, {"size": 1, "more": 1}, {}):
            with pytest.raises(ValidationError):
                await ksi.request("p:struct", unfit)
        for wrong in ({"text": "a", "size": "2"}, {"text": "a", "more": 1}):
            with pytest.raises(ValidationError) as caught:
                await ksi.request("p:model", wrong)
            assert caught.value.errors[0]["path"] in ("size", "more")


async def test_the_log_keeps_the_canonical_form_of_the_validated_payload() -> None:
    @event("p:struct")
    async def struct(self: Any, request: Strict) -> None: ...

    @event("p:model")
    async def model(self: Any, request: Model) -> None: ...

    @event("p:any")
    async def anything(self: Any, value: dict[str, Any]) -> None: ...

    async with EventTestHarness(plugin(struct, model, anything)) as ksi:
        await ksi.request("p:struct", {"text": "a"})
        await ksi.request("p:model", {"text": "a"})
        await ksi.request("p:any", {"value": {"b": 1, "a": 2}})
        raws = [event.raw for event in await recorded(ksi) if event.kind == "request"]
    assert raws == [b'{"text":"a","size":1}', b'{"text":"a","size":1}', b'{"value":{"a":2,"b":1}}']


async def test_nesting_is_bounded_where_anything_is_taken() -> None:
    @query("p:any")
    async def anything(self: Any, value: Any) -> bool:
        return True

    async with EventTestHarness(plugin(anything)) as ksi:
        deep: Any = 0
        for _ in range(70):
            deep = [deep]
        with pytest.raises(ValidationError, match="nested"):
            await ksi.request("p:any", {"value": deep})


async def test_falsy_answers_are_answers_and_none_is_not_mine() -> None:
    answers: dict[str, Any] = {}

    @query("p:any")
    async def anything(self: Any, name: str) -> Any:
        return answers[name]

    @query("p:maybe")
    async def maybe(self: Any, is_mine: bool) -> int | None:
        return 0 if is_mine else None

    @query("p:none", inline=True)
    def nothing(self: Any) -> None: ...

    async with EventTestHarness(plugin(anything, maybe, nothing)) as ksi:
        for name, answer in (("empty", {}), ("zero", 0), ("false", False), ("text", "")):
            answers[name] = answer
            assert await ksi.request("p:any", {"name": name}) == answer
        answers["none"] = None
        with pytest.raises(NoAnswerError):
            await ksi.request("p:any", {"name": "none"})
        assert await ksi.request("p:maybe", {"is_mine": True}) == 0
        with pytest.raises(NoAnswerError):
            await ksi.request("p:maybe", {"is_mine": False})
        assert await ksi.request("p:none") == {}


async def test_an_answer_outside_its_schema_is_invalid() -> None:
    @query("p:inline", inline=True)
    def inline(self: Any) -> int:
        return "x"  # type: ignore[return-value]  # that is the point

    @event("p:command")
    async def command(self: Any) -> list[Strict]:
        return [{"text": 1}]  # type: ignore[list-item]  # that is the point

    async with EventTestHarness(plugin(inline, command)) as ksi:
        for name in ("p:inline", "p:command"):
            with pytest.raises(InvalidResponseError) as caught:
                await ksi.request(name)
            assert caught.value.event_name == name


async def test_a_result_is_unwrapped() -> None:
    @query("p:inline", inline=True)
    def inline(self: Any, name: str) -> Result[int, KSIError]:
        return Success(len(name)) if name else Failure(NotFoundError("name", name))

    @event("p:command")
    async def command(self: Any, name: str) -> Result[int, KSIError]:
        return Success(len(name)) if name else Failure(NotFoundError("name", name))

    async with EventTestHarness(plugin(inline, command)) as ksi:
        for name in ("p:inline", "p:command"):
            assert await ksi.request(name, {"name": "abc"}) == 3
            with pytest.raises(NotFoundError):
                await ksi.request(name, {"name": ""})


async def test_models_inside_of_answers_and_chunks_are_encoded() -> None:
    @query("p:models")
    async def models(self: Any) -> list[Model]:
        return [Model(text="a")]

    @stream("p:stream", record=False)
    async def chunks(self: Any) -> AsyncIterator[Model | End[list[Model]]]:
        yield Model(text="a")
        yield Model(text="b")
        yield End([Model(text="c")])

    async with EventTestHarness(plugin(models, chunks)) as ksi:
        assert await ksi.request("p:models") == [{"text": "a", "size": 1}]
        opened = ksi.stream("p:stream")
        assert [chunk["text"] async for chunk in opened] == ["a", "b"]
        assert opened.answer == [{"text": "c", "size": 1}]


def test_a_model_among_plain_arguments_is_refused() -> None:
    @query("p:a")
    async def handler(one: Model, two: int) -> None: ...

    assert "pydantic" in refusal(handler)


async def test_a_number_that_is_none_is_refused_by_both_kinds_of_models() -> None:
    class Number(pydantic.BaseModel):
        value: float

    @event("p:model")
    async def model(self: Any, request: Number) -> None: ...

    async with EventTestHarness(plugin(model)) as ksi:
        with pytest.raises(ValidationError):
            await ksi.kernel.router.call("p:model", b'{"value":NaN}')


def test_observers_are_registered() -> None:
    @observer("p:*")
    async def handler(event: RecordedEvent, context: EventContext) -> None: ...

    registry = EventRegistry()
    registry.register([EventHandler(handler, declarations(handler)[0], "p")])
    assert len(registry.observers) == 1
