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


class _Edition(msgspec.Struct):
    """What was made of the events of one moment."""

    specs: list[EventSpec]
    catalogue: Catalogue
    texts: dict[Format, str] = {}


class Descriptions:
    """Those of a registry, kept until it changes. Made in whatever thread asks: the first one takes a while."""

    def __init__(self, registry: EventRegistry, status_of: StatusOf) -> None:
        self._registry = registry
        self._status_of = status_of
        self._edition: _Edition | None = None

    def get(self, form: Format) -> str:
        """The description of the events that there are now."""
        edition = self._current()
        if form not in edition.texts:
            edition.texts[form] = description(edition.catalogue, form, self._status_of)
        return edition.texts[form]

    def catalogue(self) -> Catalogue:
        """What they are made of."""
        return self._current().catalogue

    def _current(self) -> _Edition:
        edition, specs = self._edition, list(self._registry.events.values())
        if edition is None or edition.specs != specs:  # they compare by identity: a reload makes new ones
            edition = self._edition = _Edition(specs, catalogue_of(map(described, specs)))
        return edition


def _json(document: Mapping[str, Any]) -> str:
    return msgspec.json.encode(document).decode()
