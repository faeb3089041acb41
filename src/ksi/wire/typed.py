"""Frames whose payload has a type: one pass over the line decodes both.

The event's name says which type it is, as the tag of a union. Events are learned as they are used; a line that is not
of a learned event, or that has any fault, is read again as a plain :class:`~ksi.wire.frames.Frame`, which says why.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Annotated, Any, ClassVar, Union

import msgspec

from ksi.wire.frames import NO_DATA, FrameId, Head

LEARNED_MAX = 1_024
"""Events that one union holds; those beyond it are read as plain frames."""


class TypedFrame(Head, kw_only=True, gc=False):
    """A request of a learned event."""

    target: ClassVar[Any]
    """What :meth:`TypedFrames.learn` was told to find here."""
    data: Any


class BareFrame(msgspec.Struct, kw_only=True, forbid_unknown_fields=True, gc=False):
    """A request of a learned event that says nothing beside its id and data, as most do: a fifth less to decode."""

    target: ClassVar[Any]
    id: FrameId
    data: Any


class _NoEvent(msgspec.Struct, tag_field="event", tag=""):
    """With it every union has two types: of a single one msgspec would not ask for its tag. No line is one."""

    none_is_so: Annotated[int, msgspec.Meta(gt=0, lt=1)]


class TypedFrames:
    """Reads lines of learned events."""

    def __init__(self) -> None:
        self._types: dict[str, type[msgspec.Struct]] = {}
        self._bare_types: dict[str, type[msgspec.Struct]] = {}
        self.read: Callable[[bytes], TypedFrame] = _unlearned
        """The frame that a line holds. Raises ValueError or RecursionError where it is to be read as a plain one."""
        self.read_bare: Callable[[bytes], BareFrame] = _unlearned
        """The same of a line that says nothing but id, event and data; raises where it says more, or less."""

    def forget(self) -> None:
        """Know no event: their types may have changed."""
        self._types.clear()
        self._bare_types.clear()
        self.read = self.read_bare = _unlearned

    def learn(self, event: str, payload: Any, target: Any) -> None:
        """Read the data of ``event`` as ``payload`` from now on; ``msgspec.Raw`` leaves it as it is."""
        if not event or event in self._types or len(self._types) >= LEARNED_MAX:
            return
        data = ("data", payload, NO_DATA) if payload is msgspec.Raw else ("data", payload)
        self._types[event] = _tagged(TypedFrame, event, data, target)
        self._bare_types[event] = _tagged(BareFrame, event, data, target)
        self.read = _reader(self._types.values())
        self.read_bare = _reader(self._bare_types.values())


def _tagged(base: type[msgspec.Struct], event: str, data: tuple[Any, ...], target: Any) -> type[msgspec.Struct]:
    return msgspec.defstruct(
        base.__name__,
        [data],
        bases=(base,),
        namespace={"target": target},
        tag_field="event",
        tag=event,
        kw_only=True,
        gc=False,
    )


def _reader(types: Iterable[type[msgspec.Struct]]) -> Callable[[bytes], Any]:
    return msgspec.json.Decoder(Union[(_NoEvent, *types)]).decode


def _unlearned(line: bytes) -> Any:
    raise msgspec.ValidationError("no event is learned")
