"""The facts that plugins declare: one name and version, one shape."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from types import ModuleType

import msgspec

from ksi.core.errors import DuplicateEventError
from ksi.core.events import fact_name
from ksi.kernel.registry import anonymous

Named = tuple[str, int]
"""Name and schema version."""


class FactRegistry:
    """Structs marked with ``@fact`` in the modules of loaded plugins."""

    def __init__(self) -> None:
        self._owned: dict[str, dict[Named, type]] = {}

    def register(self, plugin: type, *, owner: str) -> None:
        """Take in the facts of ``plugin``'s module, or of its package where that gives the plugin to others.

        Raises:
            DuplicateEventError: A fact of this name and version has other fields; it names both places.
        """
        found: dict[Named, type] = {}
        for named, kind in _facts(plugin):
            known = found.get(named) or self._find(named)
            if known is not None and _shape(known) != _shape(kind):
                reason = "is a fact with two shapes (give one another name, or a schema_version of its own)"
                raise DuplicateEventError(named[0], [_place(known), _place(kind)], reason=reason)
            found[named] = kind
        self._owned[owner] = found

    def withdraw(self, owner: str) -> None:
        self._owned.pop(owner, None)

    def newest(self) -> dict[str, tuple[int, type]]:
        """Of each fact the last schema version, and its struct."""
        found: dict[str, tuple[int, type]] = {}
        for facts in self._owned.values():
            for (name, version), kind in facts.items():
                if version > found.get(name, (0, kind))[0]:
                    found[name] = (version, kind)
        return found

    def _find(self, named: Named) -> type | None:
        return next((facts[named] for facts in self._owned.values() if named in facts), None)


def _facts(plugin: type) -> Iterator[tuple[Named, type]]:
    seen: set[type] = set()
    for module in _modules(plugin):
        for kind in list(vars(module).values()):  # to read the hints of a type may add names to its module
            if not isinstance(kind, type) or kind in seen or "__fact_name__" not in vars(kind):
                continue  # one that only inherits from a fact is none
            seen.add(kind)
            if (named := fact_name(kind)) is not None:
                yield named, kind


def _modules(plugin: type) -> list[ModuleType]:
    root = package = plugin.__module__
    while package in sys.modules and vars(sys.modules[package]).get(plugin.__name__) is plugin:
        root, package = package, package.rpartition(".")[0]
    return [module for name, module in list(sys.modules.items()) if name == root or name.startswith(f"{root}.")]


def _shape(kind: type) -> object:
    try:
        return anonymous(msgspec.json.schema(kind))
    except TypeError:  # it has a field of a type that JSON does not know
        return {name: str(hint) for name, hint in kind.__annotations__.items()}


def _place(kind: type) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"
