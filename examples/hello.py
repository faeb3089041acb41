"""The smallest plugin: a query and a command with a fact.

ksi plugin load examples/hello.py
ksi send hello:greet who=Ada
ksi show greeting/Ada
"""

from __future__ import annotations

import msgspec

from ksi import AsyncPlugin, EventContext, event, fact, query


@fact("hello:greeted")
class Greeted(msgspec.Struct, frozen=True):
    """Somebody was greeted."""

    who: str


class Hello(AsyncPlugin):
    """Greets people and remembers it."""

    name = "hello"

    @query("hello:preview")
    async def preview(self, who: str) -> str:
        """What the greeting would be."""
        return f"Hello, {who}!"

    @event("hello:greet")
    async def greet(self, who: str, context: EventContext) -> str:
        """Greet someone; the log keeps it."""
        context.append(f"greeting/{who}", Greeted(who=who))
        return f"Hello, {who}!"
