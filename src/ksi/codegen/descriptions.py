"""Every description by the name of its format, as text; made once for each state of a registry."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal

import msgspec

from ksi.codegen import asyncapi, openapi, python, typescript
from ksi.codegen.catalogue import Catalogue, catalogue_of
from ksi.codegen.described import described
from ksi.codegen.problems import StatusOf
from ksi.kernel.registry import EventRegistry
from ksi.kernel.spec import EventSpec

Format = Literal["openapi", "asyncapi", "typescript", "python", "registry"]
JSON_FORMATS: tuple[Format, ...] = ("openapi", "asyncapi", "registry")

WRITERS: Mapping[Format, Callable[[Catalogue, StatusOf], str]] = {
    "openapi": lambda catalogue, status_of: _json(openapi.document(catalogue, status_of)),
    "asyncapi": lambda catalogue, _: _json(asyncapi.document(catalogue)),
    "typescript": lambda catalogue, _: typescript.module(catalogue),
    "python": lambda catalogue, _: python.module(catalogue),
    "registry": lambda catalogue, _: catalogue.saved().decode(),
}


def description(catalogue: Catalogue, form: Format, status_of: StatusOf) -> str:
    """``catalogue`` in the format ``form``, JSON without white space; ``status_of``: how HTTP answers an error."""
    return WRITERS[form](catalogue, status_of)


class Descriptions:
    """Those of a registry, kept until it changes."""

    def __init__(self, registry: EventRegistry, status_of: StatusOf) -> None:
        self._registry = registry
        self._status_of = status_of
        self._specs: list[EventSpec] = []
        self._catalogue: Catalogue | None = None
        self._made: dict[Format, str] = {}

    def get(self, form: Format) -> str:
        """The description of the events that there are now."""
        catalogue = self._current()
        found = self._made.get(form)
        if found is None:
            found = self._made[form] = description(catalogue, form, self._status_of)
        return found

    def _current(self) -> Catalogue:
        specs = list(self._registry.events.values())
        if self._catalogue is None or specs != self._specs:  # they compare by identity: a reload makes new ones
            self._specs = specs
            self._made = {}
            self._catalogue = catalogue_of(map(described, specs))
        return self._catalogue


def _json(document: Mapping[str, Any]) -> str:
    return msgspec.json.encode(document).decode()
