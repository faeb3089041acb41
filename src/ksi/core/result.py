"""``Result``: success or failure as a value, for those who would rather match than catch.

::

    match await client.try_request("state:get", key="a"):
        case Success(value): ...
        case Failure(error): ...
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, NoReturn, TypeVar

from ksi.core.errors import KSIError

T = TypeVar("T")
U = TypeVar("U")
E = TypeVar("E", bound=KSIError)
F = TypeVar("F", bound=KSIError)


@dataclass(frozen=True, slots=True)
class Success(Generic[T]):
    """It worked; ``value`` is what it gave."""

    value: T

    def map(self, function: Callable[[T], U]) -> Success[U]:
        return Success(function(self.value))

    def flat_map(self, function: Callable[[T], Result[U, E]]) -> Result[U, E]:
        return function(self.value)

    def map_error(self, function: Callable[[Any], KSIError]) -> Success[T]:
        return self

    def unwrap(self) -> T:
        return self.value

    def unwrap_or(self, default: object) -> T:
        return self.value

    @property
    def is_success(self) -> bool:
        return True


@dataclass(frozen=True, slots=True)
class Failure(Generic[E]):
    """It did not work; ``error`` says why."""

    error: E

    def map(self, function: Callable[[Any], object]) -> Failure[E]:
        return self

    def flat_map(self, function: Callable[[Any], object]) -> Failure[E]:
        return self

    def map_error(self, function: Callable[[E], F]) -> Failure[F]:
        return Failure(function(self.error))

    def unwrap(self) -> NoReturn:
        raise self.error

    def unwrap_or(self, default: U) -> U:
        return default

    @property
    def is_success(self) -> bool:
        return False


Result = Success[T] | Failure[E]
