"""Coroutines that never wait are told from those that may, by their code alone."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from ksi.kernel.coroutines import never_waits, stepping


async def plain(payload: Any, context: Any) -> Any:
    return payload


async def awaiting(payload: Any, context: Any) -> Any:
    await asyncio.sleep(0)
    return payload


async def entering(payload: Any, context: Any) -> Any:
    async with asyncio.timeout(1):  # noqa: ASYNC100  # what is tested
        return payload


async def gathering(payload: Any, context: Any) -> Any:
    async def numbers() -> Any:
        yield payload

    return [number async for number in numbers()]


async def making(payload: Any, context: Any) -> Any:
    async def inner() -> Any:
        await asyncio.sleep(0)

    return inner


class Holder:
    async def method(self, payload: Any, context: Any) -> Any:
        return payload


@pytest.mark.parametrize("function", [plain, making, Holder().method])
def test_without_an_await_of_its_own_it_never_waits(function: Callable[..., Any]) -> None:
    assert never_waits(function)


@pytest.mark.parametrize("function", [awaiting, entering, gathering, print])
def test_with_one_or_without_code_it_may_wait(function: Callable[..., Any]) -> None:
    assert not never_waits(function)


def test_it_is_run_as_a_plain_function() -> None:
    assert stepping(plain)(3, None) == 3


def test_what_it_raises_comes_out() -> None:
    async def failing(payload: Any, context: Any) -> Any:
        raise LookupError(payload)

    with pytest.raises(LookupError, match="here"):
        stepping(failing)("here", None)
