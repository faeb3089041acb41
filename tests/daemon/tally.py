"""A plugin with a read model that is folded behind: how often each key was set. One value it can not take."""

from __future__ import annotations

import msgspec

from ksi import AsyncPlugin, EventContext, RecordedEvent, View, query
from ksi.core.events import Filter
from ksi.core.views import ViewWriter

POISON = "poison"


class Tally(msgspec.Struct, frozen=True):
    key: str
    times: int


class TallyView(View[Tally]):
    name = "tally"
    query = (Filter(names=("state:value_was_set",)),)
    record = Tally
    key = ("key",)
    inline = False

    def apply(self, writer: ViewWriter, event: RecordedEvent) -> None:
        if event.data["value"] == POISON:
            raise ValueError("this one is not counted")
        known = writer.get(event.data["key"])
        writer.put(Tally(event.data["key"], known.times + 1 if known else 1))


class TallyPlugin(AsyncPlugin):
    name = "tally"
    views = (TallyView,)

    @query("tally:all")
    async def all(self, context: EventContext) -> dict[str, int]:
        """How often each key was set."""
        page = await context.view(TallyView).scan(limit=1000)
        return {tally.key: tally.times for tally in page.records}
