"""An observer with a checkpoint: it sees each fact at least once, also those of a time when it was not loaded.

What it keeps is a read model: folded from facts, so it can be built again from the log at any time.

ksi plugin load examples/tally.py
ksi send state:set key=a value=1
ksi send tally:show
"""

from __future__ import annotations

import msgspec

from ksi import AsyncPlugin, EventContext, RecordedEvent, View, fact, observer, query
from ksi.core.events import Filter
from ksi.core.views import ViewWriter


@fact("tally:counted")
class Counted(msgspec.Struct, frozen=True):
    """One more fact of this name was seen, at this position of the log."""

    name: str
    position: int


class Tally(msgspec.Struct, frozen=True):
    """How often a fact was seen; ``last`` is the position of the last one."""

    name: str
    count: int
    last: int


class Tallies(View[Tally]):
    """A record for each name. A fact that is shown twice after a crash counts once: its position says so."""

    name = "tallies"
    query = (Filter(names=("tally:counted",)),)
    record = Tally
    key = ("name",)

    def apply(self, writer: ViewWriter, event: RecordedEvent) -> None:
        counted = event.into(Counted)
        tally = writer.get(counted.name) or Tally(counted.name, 0, 0)
        if counted.position > tally.last:
            writer.put(Tally(counted.name, tally.count + 1, counted.position))


class TallyPlugin(AsyncPlugin):
    """Counts the facts of the state by name."""

    name = "tally"
    views = (Tallies,)

    @observer("state:", checkpoint="tally")
    async def count(self, event: RecordedEvent, context: EventContext) -> None:
        """The fact below and the checkpoint are one commit."""
        context.append(f"tally/{event.name}", Counted(event.name, event.position))

    @query("tally:show")
    async def show(self, context: EventContext) -> dict[str, int]:
        """Counts by name."""
        page = await context.view(Tallies).scan()
        return {tally.name: tally.count for tally in page.records}
