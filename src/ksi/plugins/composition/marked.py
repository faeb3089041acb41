"""YAML whose values know their lines: what a file says as JSON-able values, and where each of them stands."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from itertools import takewhile
from typing import Any

import msgspec
import yaml

from ksi.core.errors import CompositionError

TEXT_BYTES_MAX = 64 << 10
"""Of one file."""
DEPTH_MAX = 32
Path = tuple[str | int, ...]
_STEP = re.compile(r"\.([A-Za-z_]\w*)|\[(\d+)\]")
_BLOCKS = ("|", ">")


class Place(msgspec.Struct, frozen=True):
    """Line and column in a file, from 1."""

    line: int
    column: int


class Marked(msgspec.Struct, frozen=True):
    """``places`` are those of keys and items, ``texts`` those where the words of a text begin."""

    file: str
    value: Any
    places: dict[Path, Place]
    texts: dict[Path, Place]

    def error(self, message: str, path: Path = ()) -> CompositionError:
        """An error at ``path``, or at the nearest thing around it that has a place."""
        while path not in self.places and path:
            path = path[:-1]
        place = self.places.get(path, Place(1, 1))
        return CompositionError(message, file=self.file, line=place.line, column=place.column)

    def convert(self, kind: Any, value: Any, at: Path = ()) -> Any:
        """``value``, which stands ``at`` there, as a ``kind``. Raises CompositionError."""
        try:
            return msgspec.convert(value, kind)
        except msgspec.ValidationError as error:
            message, _, found = str(error).partition(" - at `$")
            path = (*at, *_path_of(found))
            if "unknown field" in message:
                path = (*path, message.split("`")[1])
            raise self.error(message, path) from None


def read(text: str, file: str) -> Marked:
    """What ``text`` says. Raises CompositionError with line and column."""
    encoded = text.encode()
    if len(encoded) > TEXT_BYTES_MAX:
        raise CompositionError(f"longer than {TEXT_BYTES_MAX} bytes", file=file, line=1)
    reader = _Reader(file)
    try:
        value = reader.document(yaml.parse(text, Loader=yaml.CSafeLoader))
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = Place(1, 1) if mark is None else _place(mark)
        raise CompositionError(error.problem or "no YAML", file=file, line=place.line, column=place.column) from None
    except yaml.reader.ReaderError as error:
        line = encoded.count(b"\n", 0, error.position) + 1
        raise CompositionError(f"a character that is not allowed: {error.reason}", file=file, line=line) from None
    return Marked(file, value, reader.places, reader.texts)


class _Reader:
    """Makes values out of the parser's events, so that its own recursion, in C and without a bound, is not used."""

    def __init__(self, file: str) -> None:
        self.places: dict[Path, Place] = {}
        self.texts: dict[Path, Place] = {}
        self._file = file
        self._scalars = yaml.SafeLoader("")

    def document(self, events: Iterator[yaml.Event]) -> Any:
        """The one document that there is; an empty one is an empty mapping."""
        value: Any = {}
        for each in events:
            match each:
                case yaml.StreamStartEvent() | yaml.DocumentEndEvent():
                    continue
                case yaml.StreamEndEvent():
                    return value
                case yaml.DocumentStartEvent() if value == {}:
                    value = self._value(next(events), events, ())
                case _:
                    raise self._error("a file holds one document", each)
        return value

    def _value(self, begin: yaml.Event, events: Iterator[yaml.Event], path: Path) -> Any:
        self.places.setdefault(path, _place(begin.start_mark))
        if len(path) > DEPTH_MAX:
            raise self._error("nested too deep", begin)
        match begin:
            case yaml.MappingStartEvent():
                return self._mapping(events, path)
            case yaml.SequenceStartEvent():
                until = iter(lambda: next(events), None)
                items = takewhile(lambda each: not isinstance(each, yaml.SequenceEndEvent), until)
                return [self._value(item, events, (*path, number)) for number, item in enumerate(items)]
            case yaml.ScalarEvent():
                return self._scalar(begin, path)
        raise self._error("aliases (*name) are not taken here: use extends or mixins", begin)

    def _mapping(self, events: Iterator[yaml.Event], path: Path) -> dict[str, Any]:
        found: dict[str, Any] = {}
        while not isinstance(key := next(events), yaml.MappingEndEvent):
            if not isinstance(key, yaml.ScalarEvent):
                raise self._error("a key is a text: a value that begins with {{ needs quotes", key)
            if key.value in found:
                raise self._error(f"{key.value!r} is there twice", key)
            self.places[(*path, key.value)] = _place(key.start_mark)
            found[key.value] = self._value(next(events), events, (*path, key.value))
        return found

    def _scalar(self, said: yaml.ScalarEvent, path: Path) -> Any:
        try:
            value = self._scalars.construct_object(yaml.ScalarNode(self._tag(said), said.value))
        except yaml.MarkedYAMLError as error:
            raise self._error(error.problem or "no YAML", said) from None
        except (ValueError, OverflowError) as error:
            raise self._error(f"{said.value!r}: {error}", said) from None
        if isinstance(value, str):
            begin = _place(said.start_mark)
            self.texts[path] = Place(begin.line + 1, 1) if said.style in _BLOCKS else begin
        return value

    def _tag(self, said: yaml.ScalarEvent) -> str:
        resolve: Callable[..., str] = self._scalars.resolve
        return said.tag or resolve(yaml.ScalarNode, said.value, said.implicit)

    def _error(self, message: str, event: yaml.Event) -> CompositionError:
        place = _place(event.start_mark)
        return CompositionError(message, file=self._file, line=place.line, column=place.column)


def _place(mark: Any) -> Place:
    return Place(mark.line + 1, mark.column + 1)


def _path_of(said: str) -> Path:
    """``.budget.tools[0]`` as steps, up to the first that names nothing (``[...]``)."""
    steps: list[str | int] = []
    at = 0
    while (step := _STEP.match(said, at)) is not None:
        steps.append(step[1] if step[1] is not None else int(step[2]))
        at = step.end()
    return tuple(steps)
