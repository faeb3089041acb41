"""Result obeys the laws of a functor and a monad, so chains can be rewritten without thought."""

from collections.abc import Callable
from dataclasses import FrozenInstanceError

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ksi.core.errors import KSIError, NotFoundError, UnavailableError
from ksi.core.result import Failure, Result, Success

BROKEN: Failure[KSIError] = Failure(NotFoundError("run", "7f3a"))
results: st.SearchStrategy[Result[int, KSIError]] = st.integers().map(Success) | st.just(BROKEN)


def half(number: int) -> Result[int, KSIError]:
    return Success(number // 2) if number % 2 == 0 else Failure(UnavailableError("half", "odd"))


def less(number: int) -> Result[int, KSIError]:
    return Success(number - 1) if number > 0 else BROKEN


steps = st.sampled_from([half, less, Success])
Step = Callable[[int], Result[int, KSIError]]


def kind(result: Result[int, KSIError]) -> object:
    """Comparable: errors are compared by identity."""
    return result.value if isinstance(result, Success) else type(result.error)


@given(results)
def test_mapping_nothing_changes_nothing(result: Result[int, KSIError]) -> None:
    assert result.map(lambda value: value) == result
    assert result.map_error(lambda error: error) == result


@given(results, st.integers(), st.integers())
def test_two_maps_are_the_map_of_both(result: Result[int, KSIError], a: int, b: int) -> None:
    assert result.map(lambda n: n + a).map(lambda n: n * b) == result.map(lambda n: (n + a) * b)


@given(st.integers(), steps)
def test_success_is_neutral_on_the_left(number: int, step: Step) -> None:
    assert kind(Success(number).flat_map(step)) == kind(step(number))


@given(results)
def test_success_is_neutral_on_the_right(result: Result[int, KSIError]) -> None:
    assert result.flat_map(Success) == result


@given(results, steps, steps)
def test_steps_may_be_grouped_at_will(result: Result[int, KSIError], one: Step, other: Step) -> None:
    grouped = result.flat_map(lambda n: one(n).flat_map(other))
    assert kind(result.flat_map(one).flat_map(other)) == kind(grouped)


@given(results, st.integers())
def test_unwrap_gives_the_value_or_raises_the_error(result: Result[int, KSIError], default: int) -> None:
    match result:
        case Success(value):
            assert result.is_success
            assert result.unwrap() == result.unwrap_or(default) == value
        case Failure(error):
            assert not result.is_success
            assert result.unwrap_or(default) == default
            with pytest.raises(type(error)) as caught:
                result.unwrap()
            assert caught.value is error


def test_map_error_changes_the_error_alone() -> None:
    hidden = BROKEN.map_error(lambda error: UnavailableError(error.code, "hidden"))
    assert hidden.error.what == "not_found"
    assert Success(1).map_error(lambda error: UnavailableError("never", "asked")) == Success(1)


def test_a_result_can_not_be_changed() -> None:
    with pytest.raises(FrozenInstanceError):
        Success(1).value = 2  # type: ignore[misc]  # that is what is tested
