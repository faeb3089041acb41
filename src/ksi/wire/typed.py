"""Frames whose payload has a type: one pass over the line decodes both.

The event's name says which type it is, as the tag of a union. Events are learned as they are used; a line that is not
of a learned event, or that has any fault, is read again as a plain :class:`~ksi.wire.frames.Frame`, which says why.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, Union

import msgspec

from ksi.wire.frames import NO_DATA, Head

LEARNED_MAX = 1_024
"""Events that one union holds; those beyond it are read as plain frames."""


class TypedFrame(Head, kw_only=True, gc=False):
    """A request of a learned event."""

    target: ClassVar[Any]
    """What :meth:`TypedFrames.learn` was told to find here."""
    data: Any


class _NoEvent(msgspec.Struct, tag_field="event", tag=""):
    """With it every union has two types: of a single one msgspec would not ask for its tag."""


class TypedFrames:
    """Reads lines of learned events."""

    def __init__(self) -> None:
        self._types: dict[str, type[msgspec.Struct]] = {}
        self.read: Callable[[bytes], TypedFrame] = _unlearned
        """The frame that a line holds. Raises ValueError or RecursionError where it is to be read as a plain one."""

    def forget(self) -> None:
        """Know no event: their types may have changed."""
        self._types.clear()
        self.read = _unlearned

    def learn(self, event: str, payload: Any, target: Any) -> None:
        """Read the data of ``event`` as ``payload`` from now on; ``msgspec.Raw`` leaves it as it is."""
        if event in self._types or len(self._types) >= LEARNED_MAX:
            return
        data = ("data", payload, NO_DATA) if payload is msgspec.Raw else ("data", payload)
        self._types[event] = msgspec.defstruct(
            "TypedFrame",
            [data],
            bases=(TypedFrame,),
            namespace={"target": target},
            tag_field="event",
            tag=event,
            kw_only=True,
            gc=False,
        )
        self.read = msgspec.json.Decoder(Union[(_NoEvent, *self._types.values())]).decode


def _unlearned(line: bytes) -> TypedFrame:
    raise msgspec.ValidationError("no event is learned")
