"""One out of many: a composition with what it extends and mixes in, its variables filled in. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import msgspec

from ksi.core.errors import CompositionError, NotFoundError, ValidationError
from ksi.plugins.composition.library import Entry, Library
from ksi.plugins.composition.marked import Path, Place
from ksi.plugins.composition.shapes import Composed, Profile, Prompt, Value, Variable

PLACEHOLDER = re.compile(r"\{\{\s*([a-z_][a-z0-9_]*)\s*\}\}")
GIVEN_ALWAYS = "agent"
"""A variable that is the agent's name where one is spawned."""
_FIELDS = ("prompt", *(field for field in Profile.__struct_fields__ if field not in Prompt.__struct_fields__))
_ADD_UP: Mapping[str, Callable[[Any, Any], Any]] = {
    "prompt": lambda before, own: f"{before.rstrip()}\n\n{own}",
    "tools": lambda before, own: tuple(dict.fromkeys((*before, *own))),
}


def composed(library: Library, name: str, given: Mapping[str, Value]) -> Composed:
    """``name`` with all its parts.

    Raises:
        CompositionError: A file is wrong.
        NotFoundError: There is no such composition.
        ValidationError: A variable is missing, or unknown.
    """
    entry = library.get(name)
    parts = parts_of(library, entry)
    values = _values(name, variables_of(parts), given)
    fields = {field: _filled(value, values) for field, value in _merged(parts).items()}
    described = {"name": name, "kind": entry.said.kind, "description": entry.said.description}
    about = {**described, "parts": [part.name for part in parts], "variables": values}
    return msgspec.convert({**about, **fields}, Composed)


def parts_of(library: Library, entry: Entry) -> list[Entry]:
    """What ``entry`` is made of: what it extends, its mixins, itself; each once. Raises CompositionError."""
    found: dict[str, Entry] = {}
    _gather(library, entry, (), found)
    return list(found.values())


def _gather(library: Library, entry: Entry, above: tuple[str, ...], found: dict[str, Entry]) -> None:
    for path, name in _below(entry):
        if name == entry.name or name in above:
            raise entry.marked.error(f"a circle: {' → '.join((*above, entry.name, name))}", path)
        below = _found(library, entry, name, path)
        if entry.said.kind == "prompt" and below.said.kind != "prompt":
            raise entry.marked.error(f"a prompt is made of prompts, and {name!r} is an agent", path)
        if name not in found:
            _gather(library, below, (*above, entry.name), found)
    found[entry.name] = entry


def _below(entry: Entry) -> Iterator[tuple[Path, str]]:
    if entry.said.extends is not None:
        yield ("extends",), entry.said.extends
    for number, name in enumerate(entry.said.mixins):
        yield ("mixins", number), name


def _found(library: Library, entry: Entry, name: str, path: Path) -> Entry:
    try:
        return library.get(name)
    except NotFoundError as error:
        hint = f": did you mean {error.suggestions[0]}?" if error.suggestions else ""
        raise entry.marked.error(f"there is no composition {name!r}{hint}", path) from None


def variables_of(parts: list[Entry]) -> dict[str, Variable]:
    """Those of all parts; a later part's says more."""
    found: dict[str, Variable] = {}
    for part in parts:
        for word, own in part.variables.items():
            before = found.get(word, own)
            default = before.default if own.default is None else own.default
            found[word] = Variable(default=default, description=own.description or before.description)
    return found


def _merged(parts: list[Entry]) -> dict[str, Any]:
    merged: dict[str, Any] = {}
    for part in parts:
        for field, own in _said(part).items():
            add = _ADD_UP.get(field)
            merged[field] = add(merged[field], own) if add and field in merged else own
    return merged


def _said(part: Entry) -> dict[str, Any]:
    """The fields that a part gives a value."""
    return {field: part.marked.value[field] for field in _FIELDS if part.marked.value.get(field) is not None}


def _values(name: str, variables: Mapping[str, Variable], given: Mapping[str, Value]) -> dict[str, Value]:
    unknown = given.keys() - variables.keys() - {GIVEN_ALWAYS}
    if unknown:
        raise ValidationError(f"{name} has no variable {', '.join(sorted(unknown))}")
    defaults = {word: variable.default for word, variable in variables.items()}
    values = {**defaults, **given}
    missing = sorted(word for word, value in values.items() if value is None)
    if missing:
        raise ValidationError(f"{name} needs a value for {', '.join(missing)}")
    return {word: value for word, value in values.items() if value is not None}


def _filled(value: Any, values: Mapping[str, Value]) -> Any:
    """``value``, each placeholder replaced, once: what a variable says is not looked at again."""
    match value:
        case str():
            return PLACEHOLDER.sub(lambda found: _text(values, found[1]), value)
        case dict():
            return {key: _filled(below, values) for key, below in value.items()}
        case list():
            return [_filled(item, values) for item in value]
    return value


def _text(values: Mapping[str, Value], word: str) -> str:
    if word not in values:
        raise ValidationError(f"it needs a value for {word}")
    value = values[word]
    return str(value).lower() if isinstance(value, bool) else str(value)


# ── looking for faults ───────────────────────────────────────────────────────────────────────────────────────────────
def problems_of(library: Library, entry: Entry) -> Iterator[CompositionError]:
    """What is wrong with one that can be read: names that lead nowhere, circles, placeholders that nobody declares."""
    try:
        known = variables_of(parts_of(library, entry)).keys() | {GIVEN_ALWAYS}
    except CompositionError as error:
        yield error
        return
    for path, begin in entry.marked.texts.items():
        if path and path[0] in _FIELDS:
            yield from _undeclared(entry, _at(entry.marked.value, path), begin, known)


def _undeclared(entry: Entry, text: str, begin: Place, known: Any) -> Iterator[CompositionError]:
    for found in PLACEHOLDER.finditer(text):
        if found[1] not in known:
            line = begin.line + text.count("\n", 0, found.start())
            message = f"no variable {found[1]!r}: declare it in variables"
            yield CompositionError(message, file=entry.file, line=line, column=begin.column)


def _at(value: Any, path: Path) -> str:
    for step in path:
        value = value[step]
    return str(value)
