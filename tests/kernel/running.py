"""What the tests of the kernel share: plugins made on the spot, and what the log holds."""

from __future__ import annotations

import asyncio
from typing import Any

from ksi.core import ids
from ksi.core.events import Filter, RecordedEvent
from ksi.kernel.plugin import AsyncPlugin
from ksi.testing.harness import EventTestHarness

ALL = (Filter(kinds=("fact", "request", "outcome", "chunk")),)


def plugin(*functions: Any, name: str = "p", **members: Any) -> type[AsyncPlugin]:
    """A plugin whose handlers are these functions: their first parameter is the plugin itself."""
    return type(name, (AsyncPlugin,), {"name": name, **{each.__name__: each for each in functions}, **members})


def new_id() -> str:
    return ids.text(ids.new_id())


async def recorded(ksi: EventTestHarness) -> list[RecordedEvent]:
    return [event async for event in ksi.log.read_all(ALL)]


async def story(ksi: EventTestHarness) -> list[str]:
    """Kind and name of all that is recorded, in order."""
    return [f"{event.kind} {event.name}" for event in await recorded(ksi)]


async def turns(count: int = 20) -> None:
    """Let everything that is ready happen."""
    for _ in range(count):
        await asyncio.sleep(0)
