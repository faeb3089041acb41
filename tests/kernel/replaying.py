"""A run of a harness, repeated in the process of the test."""

from __future__ import annotations

from typing import Any, cast

from ksi.core.events import MAIN, Filter
from ksi.core.ports import Journal
from ksi.core.threads import InlineThreads
from ksi.kernel.assemble import Kernel, Ports
from ksi.kernel.plugin import AsyncPlugin
from ksi.kernel.replay import PastJournal, Replay, Replayed
from ksi.store.past import PastLog


async def replayed(
    log: Journal, *plugins: type[AsyncPlugin] | str, run: str | None = None, branch: str = MAIN
) -> Replayed:
    """Repeat ``run``, the newest where none is named. Raises what the replay raises."""
    replay = Replay(cast(PastJournal, PastLog(log)))
    # A proxy has every method of the log that it stands for.
    ports = Ports(journal=cast(Any, replay), threads=InlineThreads(), clock=replay, effects=replay)
    kernel = Kernel(ports)
    await kernel.start(plugins)
    try:
        return await replay.run(kernel.router, run or await newest_run(log), branch=branch)
    finally:
        await kernel.stop()


async def newest_run(log: Journal) -> str:
    async for event in log.read_all((Filter(kinds=("request",)),), backwards=True):
        if event.causation_id is None and event.correlation_id is not None:
            return event.correlation_id
    raise AssertionError("nothing ran")
