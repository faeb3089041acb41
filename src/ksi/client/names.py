"""``client.state.set(key="a", value=1)`` for ``client.request("state:set", key="a", value=1)``."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

Verb = Callable[..., Awaitable[Any]]


class Namespace:
    """The events of one namespace. It can not be called, so that a misspelt method is a type error.

    A name that Python keeps for itself ends in an underscore: ``client.completion.async_(…)``.
    """

    def __init__(self, request: Verb, name: str) -> None:
        self._request = request
        self._name = name

    def __getattr__(self, verb: str) -> Verb:
        return partial(self._request, f"{self._name}:{event_part(verb)}")


def event_part(name: str) -> str:
    """The part of an event's name that an attribute stands for.

    Raises:
        AttributeError: It is a private name, which events do not have.
    """
    if name.startswith("_"):
        raise AttributeError(name)
    return name.removesuffix("_")
