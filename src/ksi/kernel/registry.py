"""The registry: which events there are, who owns them, what they take and give."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import msgspec

from ksi.core.errors import DeclarationError, DuplicateEventError, UnknownEventError
from ksi.core.patterns import matches
from ksi.kernel.declare import Declaration, declarations, event
from ksi.kernel.schema import answer_codec, payload_codec
from ksi.kernel.spec import EventSpec, HandlerSpec, build, build_observer


class EventHandler(msgspec.Struct, frozen=True):
    """A function with its owner, ready to be registered."""

    function: Callable[..., Any]
    declaration: Declaration
    owner: str
    is_concurrent: bool = True


class EventRegistry:
    """Events by name. Several plugins may handle one event where their schemas are the same."""

    def __init__(self) -> None:
        self.events: dict[str, EventSpec] = {}
        self.observers: list[HandlerSpec] = []
        self._idle: dict[str, list[EventSpec]] = {}

    def register(self, handlers: Iterable[EventHandler]) -> list[str]:
        """Add handlers, all or none; the answer is the names of the events they handle.

        Raises:
            DeclarationError: One of them is declared wrong.
            DuplicateEventError: Another owner has the name, and the two are not meant to share it.
        """
        built = [self._build(handler) for handler in handlers]
        events = dict(self.events)
        for spec in built:
            if isinstance(spec, EventSpec):
                events[spec.name] = _merged(events.get(spec.name), spec)
        self.events = events
        self.observers = self.observers + [spec for spec in built if isinstance(spec, HandlerSpec)]
        return [spec.name for spec in built if isinstance(spec, EventSpec)]

    def register_event(
        self, event_name: str, request_schema: type, response_schema: Any, handler: Callable[..., Any] | None = None
    ) -> None:
        """Declare an event by its types alone; it answers ``no_handler`` until somebody handles it."""
        if handler is not None:
            noted = event(event_name)(handler)
            self.register([EventHandler(noted, declarations(noted)[-1], "daemon")])
            return
        payload = payload_codec(request_schema, where=event_name)
        answer = answer_codec(response_schema, where=event_name)
        declaration = Declaration(kind="command", name=event_name, durability="together")
        spec = EventSpec(event_name, declaration, payload, answer, None, "", event_name, [])
        self.events[event_name] = _merged(self.events.get(event_name), spec)

    def declare(self, handlers: Iterable[EventHandler], *, owner: str) -> None:
        """Keep the events of a plugin that does not run: they answer ``no_handler`` where nobody else handles them."""
        specs = []
        for handler in handlers:
            try:
                spec = self._build(handler)
            except DeclarationError:
                continue  # one that can not be declared may be the reason why it does not run
            if isinstance(spec, EventSpec):
                specs.append(msgspec.structs.replace(spec, handlers=[], declared_by=owner))
        self._idle[owner] = specs

    def forget(self, owner: str) -> None:
        """What :meth:`declare` kept of ``owner``: it runs now, or is gone."""
        self._idle.pop(owner, None)

    @property
    def all_events(self) -> dict[str, EventSpec]:
        """Those that are handled, and those that are only declared."""
        return {spec.name: spec for specs in self._idle.values() for spec in specs} | self.events

    def withdraw(self, owner: str) -> list[str]:
        """Take out all that ``owner`` handles; the answer is the names of the events that changed."""
        changed = []
        for name, spec in list(self.events.items()):
            left = [handler for handler in spec.handlers if handler.owner != owner]
            if len(left) == len(spec.handlers):
                continue
            changed.append(name)
            if left:
                self.events[name] = msgspec.structs.replace(spec, handlers=left)
            else:
                del self.events[name]
        self.observers = [observer for observer in self.observers if observer.owner != owner]
        return changed

    def get(self, name: str) -> EventSpec:
        """Raises UnknownEventError."""
        spec = self.events.get(name)
        if spec is None:
            raise UnknownEventError(name)
        return spec

    def find(self, pattern: str = "*") -> list[EventSpec]:
        """Events whose names match, by name."""
        return [self.events[name] for name in sorted(self.events) if matches(pattern, name)]

    @staticmethod
    def _build(handler: EventHandler) -> EventSpec | HandlerSpec:
        if handler.declaration.kind == "observer":
            return build_observer(handler.function, handler.declaration, owner=handler.owner)
        return build(handler.function, handler.declaration, owner=handler.owner, is_concurrent=handler.is_concurrent)


def _merged(held: EventSpec | None, spec: EventSpec) -> EventSpec:
    """Both handle the event. The schemas must be the same, and only what answers at once can be shared."""
    if held is None:
        return spec
    places = [held.where, spec.where]
    if held.handlers and spec.handlers and not _may_share(held, spec):
        reason = "has two owners (to share it, both declare `shared=True` with the same `answers=` and durability)"
        raise DuplicateEventError(spec.name, places, reason=reason)
    if _schemas(held) != _schemas(spec):
        raise DuplicateEventError(spec.name, places, reason="has two schemas")
    handlers = sorted([*held.handlers, *spec.handlers], key=lambda handler: handler.declaration.order)
    first = held if held.handlers else spec
    return msgspec.structs.replace(first, handlers=handlers)


def _may_share(held: EventSpec, spec: EventSpec) -> bool:
    one, other = held.declaration, spec.declaration
    owners = {handler.owner for handler in (*held.handlers, *spec.handlers)}
    return (
        len(owners) > 1
        and one.kind == other.kind != "stream"
        and one.shared
        and other.shared
        and (one.answers, one.durability) == (other.answers, other.durability)
        and one.durability != "before"
    )


def _schemas(spec: EventSpec) -> tuple[Any, ...]:
    def schema(codec: Any) -> Any:
        return None if codec is None else anonymous(codec.schema())

    return schema(spec.payload), schema(spec.answer), schema(spec.chunk)


def anonymous(schema: Any) -> Any:
    """A schema without the names of the Python types it came from."""
    if isinstance(schema, dict):
        kept = {key: anonymous(value) for key, value in schema.items() if key not in ("title", "description")}
        if "properties" in kept:  # a field may be called title
            kept["properties"] = {name: anonymous(value) for name, value in schema["properties"].items()}
        if "$ref" in kept:
            kept["$ref"] = ""
        if "$defs" in kept:
            kept["$defs"] = list(kept["$defs"].values())
        return kept
    return [anonymous(item) for item in schema] if isinstance(schema, list) else schema
