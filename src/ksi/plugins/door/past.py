"""The calls of a run, out of the log."""

from __future__ import annotations

from collections.abc import AsyncGenerator

import msgspec

from ksi.core import ids
from ksi.core.events import Filter
from ksi.core.ports import EventLog
from ksi.plugins.door.matching import Recorded
from ksi.plugins.door.shapes import CALL, CATEGORY, Asked, Part


async def calls_of(log: EventLog, run: str, *, branch: str) -> list[Recorded]:
    """In the order in which they came."""
    wanted = (Filter(names=(CALL,), kinds=("request",), correlation_id=run),)
    return [
        Recorded(event.id, event.position, msgspec.convert(event.data, Asked))
        async for event in log.read_all(wanted, branch=branch)
    ]


async def parts_of(log: EventLog, call: bytes, *, branch: str) -> AsyncGenerator[Part, None]:
    """What was answered, as it came."""
    async for event in log.read_stream(f"{CATEGORY}/{ids.text(call)}", branch=branch):
        if event.kind == "chunk":
            yield msgspec.convert(event.data, Part)
