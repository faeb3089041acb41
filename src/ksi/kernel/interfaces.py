"""Whether an object is what an interface says: its members, and how they are called. Types are left to mypy."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from inspect import Parameter, Signature
from typing import Any

Call = tuple[tuple[str, ...], Mapping[str, str]]
AWAITED = ("Awaitable", "Coroutine", "Future", "Task")
ANYTHING = "anything"


def is_protocol(interface: type) -> bool:
    return bool(getattr(interface, "_is_protocol", False))


def members(interface: type) -> list[str]:
    """Names that an implementation has, sorted."""
    return sorted(
        {
            name
            for base in interface.__mro__
            if base is not object and (base is interface or is_protocol(base))
            for name in (*vars(base), *getattr(base, "__annotations__", {}))
            if not name.startswith("_")
        }
    )


def misfits(interface: type, implementation: Any) -> list[str]:
    """What to write instead, for each method that can not be called as ``interface`` declares it.

    What a proxy makes when it is asked for is left alone.
    """
    return [
        f"write `{_shown(declared, name)}` ({reason})"
        for name in members(interface)
        if inspect.isfunction(declared := inspect.getattr_static(interface, name, None))
        and inspect.getattr_static(implementation, name, None) is not None
        and (reason := _misfit(declared, getattr(implementation, name))) is not None
    ]


def _misfit(declared: Callable[..., Any], given: Any) -> str | None:
    if not callable(given):
        return "it can not be called"
    if (wanted := _is_awaited(declared)) is not (got := _is_awaited(given)) and None not in (wanted, got):
        return "it is not async" if wanted else "it is async"
    try:
        signature = inspect.signature(given)
    except ValueError:  # one written in C does not say what it takes
        return None
    for positional, named in _calls(inspect.signature(declared)):
        try:
            signature.bind(*positional, **named)
        except TypeError as error:
            return str(error)
    return None


def _is_awaited(function: Callable[..., Any]) -> bool | None:
    """Whether a call of it is awaited; None where it does not say."""
    if inspect.iscoroutinefunction(function):
        return True
    hint = getattr(function, "__annotations__", {}).get("return")
    return None if hint is None else any(word in str(hint) for word in AWAITED)


def _calls(declared: Signature) -> Iterator[Call]:
    """Calls that ``declared`` allows: with as little as it needs and with all, by position and by name."""
    parameters = list(declared.parameters.values())[1:]
    needed = [each for each in parameters if each.default is Parameter.empty and not _is_rest(each)]
    for chosen in (needed, parameters):
        yield _call(chosen, (Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD, Parameter.VAR_POSITIONAL))
        yield _call([each for each in chosen if not _is_rest(each)], (Parameter.POSITIONAL_ONLY,))


def _call(parameters: list[Parameter], by_position: tuple[Any, ...]) -> Call:
    positional = tuple(ANYTHING for each in parameters if each.kind in by_position)
    return positional, {each.name: ANYTHING for each in parameters if each.kind not in by_position}


def _is_rest(parameter: Parameter) -> bool:
    return parameter.kind in (Parameter.VAR_POSITIONAL, Parameter.VAR_KEYWORD)


def _shown(declared: Callable[..., Any], name: str) -> str:
    keyword = "async def" if inspect.iscoroutinefunction(declared) else "def"
    return f"{keyword} {name}{inspect.signature(declared)}"
