"""What the registry knows of an event: its schemas, its handlers, its rules. Built from declarations and type hints."""

from __future__ import annotations

import inspect
import typing
from collections.abc import AsyncIterator, Callable
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

import msgspec

from ksi.core.errors import DeclarationError
from ksi.core.events import RecordedEvent
from ksi.core.hints import is_model, is_struct
from ksi.core.result import Failure, Success
from ksi.kernel.codec import Codec
from ksi.kernel.context import EventContext
from ksi.kernel.coroutines import never_waits, stepping
from ksi.kernel.declare import Addressed, Declaration, End, Gap, Opened
from ksi.kernel.schema import answer_codec, parameters_codec, payload_codec

Mode = Literal["inline", "async", "blocking", "generator"]
Invoke = Callable[[Any, EventContext | None], Any]
_RESERVED = {"error", "correlation_id"}


class HandlerSpec(msgspec.Struct, frozen=True, eq=False):
    """One function that handles an event; ``invoke(payload, context)`` calls it.

    ``alone(payload)`` does so too, at one call less, where it wants no context: a query's way has few calls.
    """

    owner: str
    where: str
    mode: Mode
    invoke: Invoke
    wants_context: bool
    is_concurrent: bool
    declaration: Declaration
    generation: int = 1
    alone: Callable[[Any], Any] | None = None


class EventSpec(msgspec.Struct, eq=False):
    """One event: everything that transports, clients and descriptions need to know."""

    name: str
    declaration: Declaration
    payload: Codec
    answer: Codec
    chunk: Codec | None
    doc: str
    where: str
    handlers: list[HandlerSpec]
    declared_by: str | None = None
    """The plugin that would handle it, of an event that nobody handles."""

    @property
    def summary(self) -> str:
        return self.doc.partition("\n")[0]

    @property
    def kind(self) -> str:
        return self.declaration.kind


def build(function: Callable[..., Any], declaration: Declaration, *, owner: str, is_concurrent: bool) -> EventSpec:
    """The event that ``function`` handles, as far as this one function says.

    Raises:
        DeclarationError: A hint is missing, the name is not ``namespace:verb``, a plain ``def`` does not say how it is
            to be called, …: the message says what to write.
    """
    where = f"{function.__module__}.{function.__qualname__}"
    _check_name(declaration, where)
    hints = _hints(function, declaration, where)
    mode = _mode(function, declaration, where)
    payload, invoke, wants_context = _binding(function, hints, declaration, where)
    alone = None if wants_context or not _is_whole(function, hints) or _is_result(hints["return"]) else function
    answer, chunk = _answers(hints, mode, where)
    if mode == "async" and never_waits(function):
        mode, invoke, alone = "inline", stepping(invoke), None
    if _is_result(hints["return"]):
        invoke = _unwrapping(invoke, mode)
    _check_answer(answer, where)
    handler = HandlerSpec(owner, where, mode, invoke, wants_context, is_concurrent, declaration, alone=alone)
    doc = inspect.cleandoc(function.__doc__ or "")
    return EventSpec(declaration.name, declaration, payload, answer, chunk, doc, where, [handler])


def build_observer(function: Callable[..., Any], declaration: Declaration, *, owner: str) -> HandlerSpec:
    """The observer that ``function`` is: it takes the recorded event and, where it wants it, the context."""
    where = f"{function.__module__}.{function.__qualname__}"
    if not inspect.iscoroutinefunction(function):
        raise DeclarationError("an observer is an `async def`", where=where)
    hints = _hints(function, declaration, where)
    names = list(inspect.signature(function).parameters)
    if not names or hints.get(names[0]) is not RecordedEvent or names[1:] not in ([], ["context"]):
        raise DeclarationError("write `async def f(self, event: RecordedEvent, context: EventContext)`", where=where)
    wants_context = len(names) == 2

    def invoke(event: Any, context: EventContext | None) -> Any:
        return function(event, context) if wants_context else function(event)

    return HandlerSpec(owner, where, "async", invoke, wants_context, False, declaration)


def _check_name(declaration: Declaration, where: str) -> None:
    namespace, colon, verb = declaration.name.partition(":")
    if not (colon and namespace and verb) or any(char.isspace() or char in "*?" for char in declaration.name):
        raise DeclarationError(f"{declaration.name!r} is no event name: write `namespace:verb`", where=where)


def _hints(function: Callable[..., Any], declaration: Declaration, where: str) -> dict[str, Any]:
    raw = inspect.unwrap(function)
    raw = getattr(raw, "__func__", raw)
    try:
        hints = typing.get_type_hints(raw, localns=dict(declaration.scope), include_extras=True)
    except NameError as error:
        raise DeclarationError(f"a type hint is unknown here: {error}", where=where) from None
    for name, parameter in inspect.signature(function).parameters.items():
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD, parameter.POSITIONAL_ONLY):
            raise DeclarationError(f"{parameter} can not come out of JSON: give every field a name", where=where)
        if name not in hints and name != "context":
            raise DeclarationError(f"parameter {name!r} has no type hint: the schema is made of them", where=where)
    if "return" not in hints and declaration.kind != "observer":
        raise DeclarationError("the answer has no type hint: write `-> Type`, or `-> None`", where=where)
    return hints


def _mode(function: Callable[..., Any], declaration: Declaration, where: str) -> Mode:
    if declaration.kind == "stream":
        if not inspect.isasyncgenfunction(function):
            raise DeclarationError("a @stream is an `async def` that yields", where=where)
        return "generator"
    if inspect.isasyncgenfunction(function):
        raise DeclarationError("it yields: declare it @stream", where=where)
    if inspect.iscoroutinefunction(function):
        if declaration.inline or declaration.blocking:
            raise DeclarationError("inline= and blocking= are for a plain `def`", where=where)
        return "async"
    if declaration.inline == declaration.blocking:
        raise DeclarationError(
            "a plain `def` must say how it is called: inline=True (it never waits and never blocks), "
            "blocking=True (it runs in a thread), or write `async def`",
            where=where,
        )
    return "inline" if declaration.inline else "blocking"


def _binding(
    function: Callable[..., Any], hints: dict[str, Any], declaration: Declaration, where: str
) -> tuple[Codec, Invoke, bool]:
    parameters = dict(inspect.signature(function).parameters)
    wants_context = parameters.pop("context", None) is not None
    if len(parameters) == 1:
        (name,) = parameters
        if is_struct(hints[name]) or is_model(hints[name]):
            return payload_codec(hints[name], where=where), _whole(function, name, wants_context), wants_context
    fields = [
        (name, hints[name], msgspec.NODEFAULT if parameter.default is parameter.empty else parameter.default)
        for name, parameter in parameters.items()
    ]
    struct_name = "".join(part.title() for part in declaration.name.replace(":", "_").split("_"))
    codec = parameters_codec(struct_name, fields, where=where)
    return codec, _spread(function, list(parameters), wants_context), wants_context


def _is_whole(function: Callable[..., Any], hints: dict[str, Any]) -> bool:
    """Whether it takes its payload as it is, and nothing else."""
    parameters = list(inspect.signature(function).parameters.values())
    return (
        len(parameters) == 1
        and parameters[0].kind is not parameters[0].KEYWORD_ONLY
        and (is_struct(hints[parameters[0].name]) or is_model(hints[parameters[0].name]))
    )


def _whole(function: Callable[..., Any], name: str, wants_context: bool) -> Invoke:
    parameters = inspect.signature(function).parameters
    if any(parameter.kind is parameter.KEYWORD_ONLY for parameter in parameters.values()):
        if wants_context:
            return lambda payload, context: function(**{name: payload, "context": context})
        return lambda payload, context: function(**{name: payload})
    if not wants_context:
        return lambda payload, context: function(payload)
    if next(iter(parameters)) == "context":
        return lambda payload, context: function(context, payload)
    return function


def _spread(function: Callable[..., Any], names: list[str], wants_context: bool) -> Invoke:
    def invoke(payload: Any, context: EventContext | None) -> Any:
        arguments = {name: getattr(payload, name) for name in names}
        if wants_context:
            arguments["context"] = context
        return function(**arguments)

    return invoke


def _answers(hints: dict[str, Any], mode: Mode, where: str) -> tuple[Codec, Codec | None]:
    hint = hints["return"]
    if mode != "generator":
        return answer_codec(_without_none(_without_result(hint)), where=where), None
    arguments = get_args(hint)
    if not arguments or not issubclass(get_origin(hint) or object, AsyncIterator):
        raise DeclarationError("a @stream answers `AsyncIterator[Chunk | End[Answer]]`", where=where)
    parts = get_args(arguments[0]) if get_origin(arguments[0]) in (Union, UnionType) else (arguments[0],)
    ends = [part for part in parts if (get_origin(part) or part) is End]
    chunks = tuple(part for part in parts if part not in ends and part not in (Addressed, Gap, Opened))
    answer: Any = (get_args(ends[0]) or (Any,))[0] if ends else None
    chunk: Any = Union[chunks] if chunks else Any  # noqa: UP007  # built from a tuple
    return answer_codec(answer, where=where), answer_codec(chunk, where=where)


def _is_result(hint: Any) -> bool:
    return {get_origin(part) for part in get_args(hint)} == {Success, Failure}


def _without_result(hint: Any) -> Any:
    """``Result[T, E]`` answers a T."""
    if not _is_result(hint):
        return hint
    return get_args(next(part for part in get_args(hint) if get_origin(part) is Success))[0]


def _unwrapping(invoke: Invoke, mode: Mode) -> Invoke:
    """The same handler, raising what its Failure holds: to the router there is one way to fail."""
    if mode != "async":
        return lambda payload, context: invoke(payload, context).unwrap()

    async def unwrapped(payload: Any, context: EventContext | None) -> Any:
        return (await invoke(payload, context)).unwrap()

    return unwrapped


def _without_none(hint: Any) -> Any:
    """``T | None`` answers a T: None means "not mine"."""
    parts = get_args(hint)
    if get_origin(hint) not in (Union, UnionType) or NoneType not in parts:
        return hint
    return Union[tuple(part for part in parts if part is not NoneType)]  # noqa: UP007  # built from a tuple


def _check_answer(answer: Codec, where: str) -> None:
    if is_struct(answer.hint):
        names = {field.encode_name for field in msgspec.structs.fields(answer.hint)}
    elif is_model(answer.hint):
        names = set(answer.hint.model_fields)
    else:
        return
    if reserved := names & _RESERVED:
        raise DeclarationError(
            f"an answer may have no field {sorted(reserved)[0]!r}: the flat dialect of the wire uses it", where=where
        )
