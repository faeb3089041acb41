"""Coroutines that never wait: known by their code, and run without a task, which would cost more than they do."""

from __future__ import annotations

import dis
from collections.abc import Callable
from typing import Any

_WAITING = frozenset({"GET_AWAITABLE", "GET_AITER", "GET_ANEXT", "BEFORE_ASYNC_WITH", "SEND", "YIELD_VALUE"})


def never_waits(function: Callable[..., Any]) -> bool:
    """Whether an ``async def`` holds no ``await``, ``async for`` or ``async with``: then it can not be suspended."""
    code = getattr(getattr(function, "__func__", function), "__code__", None)
    return code is not None and not any(step.opname in _WAITING for step in dis.get_instructions(code))


def stepping(invoke: Callable[..., Any]) -> Callable[..., Any]:
    """``invoke``, whose coroutines never wait, as a plain function."""

    def stepped(payload: Any, context: Any) -> Any:
        try:
            invoke(payload, context).send(None)
        except StopIteration as stop:
            return stop.value
        raise RuntimeError("a coroutine without an await was suspended")

    return stepped
