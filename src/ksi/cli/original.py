"""``ksi composition import``: files of the original KSI, read, converted and written."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path, PurePosixPath

import click

from ksi.cli.invocation import Invocation
from ksi.cli.output import show_value
from ksi.cli.reach import ask
from ksi.core.errors import CompositionError
from ksi.plugins.composition.original import Converted, Note, Surroundings, converted, name_of

FILES_MAX = 1_000
TEXT_BYTES_MAX = 64 << 10
ABOVE_MAX = 6
"""Folders above a file in which its pieces of text are looked for: they lay beside that of the profiles."""
SUFFIXES = (".yaml", ".yml")
BESIDE = (".", "prompts", "fragments", "compositions/prompts")


class Import:
    """What came of it is shown, and whether a whole file could not be ported, is :attr:`failed`."""

    def __init__(self, invocation: Invocation, path: Path, to: Path, *, replace: bool, writes: bool) -> None:
        self.failed = False
        self._invocation = invocation
        self._path = path
        self._to = to
        self._replace = replace
        self._writes = writes
        self._notes: list[tuple[str, str, Note]] = []
        self._taken: dict[str, str] = {}

    def run(self) -> None:
        texts = dict(self._texts())
        around = self._surroundings(self._renamed(texts))
        for file, text in texts.items():
            try:
                self._keep(file, converted(text, str(file), around(file)))
            except CompositionError as error:
                self._refuse(file, error.line, error.message.removeprefix(f"{error.file}:{error.line}: "))

    def show(self) -> None:
        if self._invocation.json:
            for file, to, note in self._notes:
                show_value(self._invocation, {"file": file, "to": to, **_fields(note)})
            return
        for file, _, note in self._notes:
            message = f"  {note.message}" if note.message else ""
            click.echo(f"{file}:{note.line}: {note.verdict} {note.field}{message}")
        counts = Counter(note.verdict for _, _, note in self._notes)
        told = ", ".join(f"{count} {verdict}" for verdict, count in sorted(counts.items()))
        self._invocation.say(f"{len(self._taken)} files in {self._to}: {told or 'nothing'}; then ksi composition check")

    # ── files ────────────────────────────────────────────────────────────────────────────────────────────────────────
    def _texts(self) -> Iterator[tuple[Path, str]]:
        if self._path.is_dir():
            files = sorted(path for path in self._path.rglob("*") if path.suffix in SUFFIXES)[:FILES_MAX]
        else:
            files = [self._path]
        for file in files:
            try:
                yield file, _read(file)
            except (OSError, UnicodeDecodeError) as error:
                self._refuse(file, 1, f"it can not be read: {error}")

    def _keep(self, file: Path, made: Converted) -> None:
        place = self._to / f"{made.name}.yaml"
        if made.name in self._taken:
            self._refuse(file, 1, f"the name {made.name} is that of {self._taken[made.name]} too")
        elif place.exists() and not self._replace:
            self._refuse(file, 1, f"{place} is there already: --replace writes over it")
        else:
            self._taken[made.name] = str(file)
            self._notes += [(str(file), made.name, note) for note in made.notes]
            self._write(place, made.text)

    def _write(self, place: Path, text: str) -> None:
        if self._writes:
            self._to.mkdir(mode=0o700, parents=True, exist_ok=True)
            place.write_text(text)

    def _refuse(self, file: Path, line: int, message: str) -> None:
        self.failed = True
        self._notes.append((str(file), "", Note(line, "file", "refused", message)))

    # ── surroundings ─────────────────────────────────────────────────────────────────────────────────────────────────
    @staticmethod
    def _renamed(texts: dict[Path, str]) -> dict[str, str]:
        """Prompts that have the name of a profile: there both could have it."""
        names: dict[str, set[str]] = {"profile": set(), "prompt": set()}
        for file, text in texts.items():
            try:
                name, kind = name_of(text, str(file))
            except CompositionError:
                continue  # it is told when it is converted
            names[kind].add(name)
        return {name: f"{name}-prompt" for name in names["profile"] & names["prompt"]}

    def _surroundings(self, renamed: dict[str, str]) -> Callable[[Path], Surroundings]:
        discovered = ask(self._invocation, "system:discover")["events"]
        events = {each["event"] for namespace in discovered.values() for each in namespace}
        profiles = ask(self._invocation, "permission:list_profiles")["profiles"]
        return lambda file: Surroundings(events, profiles, lambda source: _fragment(file, source), renamed)


def _fragment(file: Path, source: str) -> str | None:
    """The words of ``source``, which lie in a folder above ``file``, or beside one. Nothing else is read."""
    wanted = PurePosixPath(source)
    if wanted.is_absolute() or ".." in wanted.parts:
        return None
    for above in list(file.resolve().parents)[:ABOVE_MAX]:
        for beside in BESIDE:
            found = above / beside / wanted
            with suppress(OSError, UnicodeDecodeError):
                return _read(found)
    return None


def _read(file: Path) -> str:
    with file.open("rb") as opened:
        return opened.read(TEXT_BYTES_MAX + 1).decode()


def _fields(note: Note) -> dict[str, object]:
    return {field: getattr(note, field) for field in note.__struct_fields__}
