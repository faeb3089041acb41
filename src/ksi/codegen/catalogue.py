"""The model that every description is made of: events, and their schemas under names that are unique among all.

The daemon makes it from its registry; the same comes out of a saved description, without a daemon.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Literal

import msgspec

from ksi import __version__
from ksi.codegen.described import Described
from ksi.codegen.naming import digest, identifier, is_free, pascal, stems_of
from ksi.codegen.schemas import ANYTHING, Schema, name_in, plain, reachable, rewritten, root_of
from ksi.core.errors import ValidationError

Part = Literal["request", "answer", "chunk"]
REFERENCE = "#/components/schemas/"


class Event(msgspec.Struct, frozen=True):
    """One event; ``request``, ``answer`` and ``chunk`` are names of schemas, ``stem`` is what they begin with."""

    described: Described
    stem: str

    @property
    def name(self) -> str:
        return self.described.name

    @property
    def is_query(self) -> bool:
        return self.described.kind == "query"

    @property
    def is_stream(self) -> bool:
        return self.described.kind == "stream"

    @property
    def is_recorded(self) -> bool:
        return self.described.durability != "none"

    @property
    def request(self) -> str:
        return f"{self.stem}Request"

    @property
    def answer(self) -> str:
        return f"{self.stem}Answer"

    @property
    def chunk(self) -> str:
        return f"{self.stem}Chunk"


class Saved(msgspec.Struct, frozen=True):
    """What ``ksi describe registry`` prints: enough to make every description again."""

    ksi: str
    hash: str
    events: list[Described]


class Catalogue(msgspec.Struct, frozen=True):
    """Events in the order of their names; schemas by name, each referring to others as ``#/components/schemas/NAME``.

    ``hash`` is that of all that is said of the events, so two that are equal describe the same.
    """

    events: tuple[Event, ...]
    schemas: Mapping[str, Schema]
    hash: str
    ksi: str

    def saved(self) -> bytes:
        """The catalogue as JSON, for :func:`read`."""
        return msgspec.json.encode(Saved(self.ksi, self.hash, self.described))

    @property
    def described(self) -> list[Described]:
        return [event.described for event in self.events]


def catalogue_of(events: Iterable[Described], *, ksi: str = __version__) -> Catalogue:
    # As JSON, so that nothing is seen of where they come from: a registry has tuples where a file has lists.
    plainly = msgspec.json.decode(msgspec.json.encode(list(events)), type=list[Described])
    ordered = sorted(plainly, key=lambda described: described.name)
    stems = stems_of(described.name for described in ordered)
    named = tuple(Event(described, stems[described.name]) for described in ordered)
    content = hashlib.sha256(msgspec.json.encode(ordered, order="sorted")).hexdigest()
    return Catalogue(named, _Components(named).schemas(), f"sha256:{content}", ksi)


def said(event: Event) -> dict[str, str]:
    """``summary``, and ``description`` where there is more than that."""
    summary, doc = plain(event.described.summary) or event.name, plain(event.described.doc)
    return {"summary": summary} if doc in ("", summary) else {"summary": summary, "description": doc}


def read(saved: bytes) -> Catalogue:
    """The catalogue that was saved.

    Raises:
        ValidationError: It is none.
    """
    try:
        found = msgspec.json.decode(saved, type=Saved)
        return catalogue_of(found.events, ksi=found.ksi)
    except (msgspec.MsgspecError, KeyError, RecursionError) as error:
        raise ValidationError(f"no saved description (`ksi describe registry` makes one): {error}") from None


class _Definition(msgspec.Struct, frozen=True):
    """A schema inside that of an event. ``content`` is all that it says, with what it refers to."""

    name: str
    content: str
    namespace: str
    schema: Schema

    @property
    def names(self) -> tuple[str, str]:
        """Its own, and the one with the namespace in front."""
        own = identifier(self.name)
        return own, f"{pascal(self.namespace)}{own}"


class _Root(msgspec.Struct, frozen=True):
    """What an event takes or gives, and all that it refers to."""

    name: str
    schema: Schema
    definitions: list[_Definition]


class _Components:
    """Gives each schema a name, whatever the order of the events.

    What an event takes and gives is named after the event. A definition inside keeps its own name, so that a type which
    many events share is one type; only where two of that name say different things, their namespaces tell them apart,
    and where that is not enough, a digest.
    """

    def __init__(self, events: Iterable[Event]) -> None:
        self._roots = {root.name: root for event in events for root in _roots_of(event)}
        self._claims: dict[str, set[str]] = defaultdict(set, {name: {name} for name in self._roots})
        for root in self._roots.values():
            for definition in root.definitions:
                for name in definition.names:
                    self._claims[name].add(definition.content)

    def schemas(self) -> dict[str, Schema]:
        found: dict[str, Schema] = {}
        for root in self._roots.values():
            names = {definition.name: self._name(definition) for definition in root.definitions}
            found[root.name] = _renamed(root.schema, names) or ANYTHING
            for definition in root.definitions:
                found[names[definition.name]] = _renamed(definition.schema, names)
        return dict(sorted(found.items()))

    def _name(self, definition: _Definition) -> str:
        for name in definition.names:
            if is_free(name) and self._claims[name] == {definition.content}:
                return name
        return f"{definition.names[-1]}_{digest(definition.content)}"


def _roots_of(event: Event) -> Iterator[_Root]:
    described = event.described
    yield _root(event, event.request, described.request, is_closed=True)
    yield _root(event, event.answer, described.answer)
    if described.chunk is not None:
        yield _root(event, event.chunk, described.chunk)


def _root(event: Event, name: str, schema: Schema, *, is_closed: bool = False) -> _Root:
    """``is_closed``: unknown fields are refused, which the schema of a pydantic model does not say."""
    root = root_of(schema)
    definitions: Mapping[str, Schema] = schema.get("$defs", {})
    needed = sorted(reachable(root, definitions))
    namespace = event.name.partition(":")[0]
    parts = [_Definition(each, _content(each, definitions), namespace, definitions[each]) for each in needed]
    return _Root(name, {**root, "additionalProperties": False} if is_closed else root, parts)


def _content(name: str, definitions: Mapping[str, Schema]) -> str:
    needed = reachable(definitions[name], definitions) | {name}
    return msgspec.json.encode([name, {each: definitions[each] for each in needed}], order="sorted").decode()


def _renamed(schema: Schema, names: Mapping[str, str]) -> dict[str, Any]:
    return rewritten(schema, lambda reference: REFERENCE + names[name_in(reference)])
