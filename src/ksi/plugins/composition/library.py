"""The files of compositions: those that come with KSI, and over them those of the home's folder ``profiles``."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal

import msgspec

from ksi.core.errors import CompositionError, NotFoundError
from ksi.plugins.composition import marked
from ksi.plugins.composition.marked import Marked
from ksi.plugins.composition.shapes import Name, Profile, Prompt, Variable

SHIPPED = Path(__file__).parent / "shipped"
FILES_MAX = 1_000
SUFFIXES = (".yaml", ".yml")
Source = Literal["home", "shipped"]
Stamp = tuple[tuple[str, int, int, int], ...]


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """A file that says what a composition should."""

    name: str
    source: Source
    file: str
    text: str
    marked: Marked
    said: Prompt
    variables: Mapping[str, Variable]


class Library(msgspec.Struct, frozen=True):
    """All compositions by name; ``broken`` are the files that say nothing that can be used, and why."""

    entries: Mapping[str, Entry]
    broken: Mapping[str, CompositionError]

    def get(self, name: str) -> Entry:
        """Raises CompositionError or NotFoundError."""
        if name in self.broken:
            raise self.broken[name]
        if name not in self.entries:
            known = [*self.entries, *self.broken]
            raise NotFoundError("composition", name, suggestions=difflib.get_close_matches(name, known))
        return self.entries[name]

    def having(self, entry: Entry) -> Library:
        """This one, with ``entry`` in its place."""
        broken = {name: error for name, error in self.broken.items() if name != entry.name}
        return Library({**self.entries, entry.name: entry}, broken)


def stamp_of(folder: Path | None) -> Stamp:
    """Another one whenever a file of the folder has changed."""
    found = []
    for path in _files(folder):
        try:
            stat = path.stat()
        except OSError:
            continue  # it is gone again
        found.append((path.name, stat.st_mtime_ns, stat.st_size, stat.st_ino))
    return tuple(found)


def library_of(folder: Path | None) -> Library:
    """Read all files."""
    entries: dict[str, Entry] = {}
    broken: dict[str, CompositionError] = {}
    sources: Sequence[tuple[Source, Path | None]] = (("shipped", SHIPPED), ("home", folder))
    for source, place in sources:
        for path in _files(place):
            name = path.stem
            entries.pop(name, None)
            try:
                entries[name] = entry_of(name, _text_of(path), source=source, file=str(path))
            except CompositionError as error:
                broken[name] = error
    return Library(entries, broken)


def entry_of(name: str, text: str, *, source: Source, file: str) -> Entry:
    """Raises CompositionError."""
    read = marked.read(text, file)
    if not isinstance(read.value, dict):
        raise read.error("a composition is made of fields, as in prompt: …")
    read.convert(Name, name)
    kind = Prompt if read.value.get("kind") == "prompt" else Profile
    said = read.convert(kind, read.value)
    variables = {word: _variable(read, word, given) for word, given in said.variables.items()}
    return Entry(name=name, source=source, file=file, text=text, marked=read, said=said, variables=variables)


def _variable(read: Marked, word: str, given: object) -> Variable:
    """``tone: warm`` is short for ``tone: {default: warm}``."""
    if not isinstance(given, dict):
        given = {"default": given}
    variable: Variable = read.convert(Variable, given, ("variables", word))
    return variable


def _text_of(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return file.read(marked.TEXT_BYTES_MAX + 1).decode()
    except UnicodeDecodeError:
        raise CompositionError("it is not UTF-8", file=str(path), line=1) from None
    except OSError as error:
        raise CompositionError(str(error.strerror), file=str(path), line=1) from None


def _files(folder: Path | None) -> Iterator[Path]:
    """Those that count, by name."""
    if folder is None or not folder.is_dir():
        return
    found = sorted(path for path in folder.iterdir() if path.suffix in SUFFIXES and not path.name.startswith("."))
    yield from found[:FILES_MAX]
