"""A plugin with schemas of every kind: structs and models, unions, tuples, recursion, awkward names."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Annotated, Any, Literal

import msgspec
import pydantic
from msgspec import Meta

from ksi.kernel.declare import End, event, query, stream
from ksi.kernel.plugin import AsyncPlugin


class Circle(msgspec.Struct, tag="circle", forbid_unknown_fields=True):
    radius: Annotated[float, Meta(gt=0)]


class Square(msgspec.Struct, tag="square", forbid_unknown_fields=True):
    """A shape; ends a comment: */ and quotes: \"\"\"."""

    side: float


class Layer(msgspec.Struct, forbid_unknown_fields=True):
    shapes: list[Circle | Square]
    above: list[Layer] = []


class Paint(msgspec.Struct, forbid_unknown_fields=True, rename={"from_": "from", "class_": "class"}):
    """All that may stand in a payload."""

    from_: str
    layers: list[Layer]
    corner: tuple[int, str]
    class_: Literal["oil", "water", 3] | None = None
    sizes: dict[str, int] = {}
    anything: Any = None
    options: bool = False


class Promise(msgspec.Struct):
    """Has a name that TypeScript needs."""

    kept: bool


class Painted(msgspec.Struct):
    promise: Promise


class Colour(pydantic.BaseModel):
    name: str
    mixed_of: list[Colour] = []
    strength: float | None = pydantic.Field(default=None, ge=0, le=1, description="0 to 1")


class Painting(AsyncPlugin):
    name = "painting"

    @event(
        "painting:paint", errors=["not_found", "too_wet"], examples=[{"from": "a", "layers": [], "corner": [1, "x"]}]
    )
    async def paint(self, request: Paint) -> Painted:
        """Paint."""
        return Painted(Promise(True))

    @event("painting:mix", examples=[{"name": "red"}])
    async def mix(self, colour: Colour) -> Colour | None:
        """Mix a colour.

        Slowly.
        """
        return colour

    @query("painting:count", inline=True, examples=[{}])
    def count(self, tags: list[str] | None = None, near: Circle | Square | None = None) -> int:
        """Count."""
        return 1

    @query("painting:anything", inline=True, examples=[{}])
    def anything(self) -> Any:
        """Give anything."""
        return 1

    @stream("painting:watch", examples=[{"painting": "x"}])
    async def watch(self, painting: str) -> AsyncIterator[Circle | Square | End[str]]:
        """Watch it dry."""
        yield Circle(1.0)
        yield End("dry")

    @stream("painting:smell", record=False, examples=[{}])
    async def smell(self) -> AsyncIterator[int]:
        """Has no end value."""
        yield 1
