"""The events of compositions, and the look at their files."""

from __future__ import annotations

import asyncio
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from ksi.core.errors import CompositionError, KSIError, NotFoundError
from ksi.core.events import fact
from ksi.kernel.context import EventContext
from ksi.kernel.declare import event, query
from ksi.kernel.plugin import AsyncPlugin
from ksi.kernel.router import Router
from ksi.plugins.composition.composing import composed, parts_of, problems_of, variables_of
from ksi.plugins.composition.library import Library, Stamp, entry_of, library_of, stamp_of
from ksi.plugins.composition.shapes import (
    Checked,
    Composed,
    Compositions,
    Listed,
    Problem,
    Shown,
    ShownVariable,
    Value,
    Word,
)

FOLDER = "profiles"
LOOK_S = 2.0
"""Seconds between two looks at the files. A request looks too, so that it never meets an old one."""
CHANGES_MAX = 100
"""Names that one fact of a change lists."""
Named = Annotated[str, Meta(min_length=1, max_length=100, description="as composition:list shows it")]
Text = Annotated[str, Meta(max_length=64 << 10, description="what would stand in the file")]


@fact("composition:were_changed")
class CompositionsWereChanged(msgspec.Struct, frozen=True):
    """Files of the home's folder have other words from here on; ``problems`` are of all that can not be used."""

    changed: list[str]
    problems: list[Problem]


class Changes(msgspec.Struct, frozen=True):
    """What a look found; nothing where ``changed`` is empty."""

    changed: list[str]
    problems: list[Problem]


class Composition(AsyncPlugin):
    """Reads the compositions of the home and those that come with KSI; files that change count at once."""

    name = "composition"

    async def initialize(self) -> None:
        home = self.host.home
        self._folder = None if home is None else home / FOLDER
        self._threads = self.host.services.get(Router).threads
        self._stamp = await self._threads.run("blocking", lambda: stamp_of(self._folder))
        self._library = await self._threads.run("blocking", lambda: library_of(self._folder))
        self._announced = self._library
        if self._folder is not None:
            self.host.spawn(self._watch())

    # ── events ───────────────────────────────────────────────────────────────────────────────────────────────────────
    @query("composition:list", examples=[{}, {"kind": "agent"}])
    async def list_compositions(self, kind: Literal["agent", "prompt"] | None = None) -> Compositions:
        """List compositions by name, those of the home's folder `profiles` and those that come with KSI."""
        library = await self._fresh()
        listed = [_listed(library, name) for name in sorted({*library.entries, *library.broken})]
        return Compositions([each for each in listed if kind in (None, each.kind)])

    @query("composition:get", errors=["not_found", "composition_error"], examples=[{"name": "writer"}])
    async def get_composition(self, name: Named) -> Shown:
        """Show a composition as it is written, with the variables that it takes."""
        library = await self._fresh()
        entry = library.get(name)
        parts = parts_of(library, entry)
        return Shown(
            name=name,
            kind=entry.said.kind,
            description=entry.said.description,
            source=entry.source,
            file=entry.file,
            text=entry.text,
            parts=tuple(part.name for part in parts),
            variables=[
                ShownVariable(name=word, default=variable.default, description=variable.description)
                for word, variable in variables_of(parts).items()
            ],
        )

    @query(
        "composition:compose",
        errors=["not_found", "composition_error"],
        examples=[{"name": "writer", "variables": {"tone": "dry"}}],
    )
    async def compose(self, name: Named, variables: dict[Word, Value] | None = None) -> Composed:
        """Put a composition together: what it extends, its mixins, itself, its variables filled in."""
        library = await self._fresh()
        for problem in problems_of(library, library.get(name)):
            raise problem
        return composed(library, name, variables or {})

    @query("composition:validate", errors=["not_found"], examples=[{}, {"name": "draft", "text": "prompt: Be kind."}])
    async def validate(self, name: Named | None = None, text: Text | None = None) -> Checked:
        """Say what is wrong in the files, or in one; or what would be, if `text` stood in it."""
        library = await self._fresh()
        if text is not None:
            return await self._threads.run("blocking", lambda: _checked_text(library, name or "draft", text))
        if name is not None and name not in library.entries and name not in library.broken:
            raise NotFoundError("composition", name)
        names = sorted({*library.entries, *library.broken}) if name is None else [name]
        return Checked(len(names), [problem for each in names for problem in _problems(library, each)])

    @event("composition:reload", key=lambda _: FOLDER, examples=[{}])
    async def reload(self, context: EventContext) -> Changes:
        """Look at the files now, and record which have changed. The daemon asks for it by itself."""

        async def look() -> Changes:
            before, self._announced = self._announced, await self._fresh()
            return _changes(before, self._announced)

        found: Changes = await context.observe("composition:look", {}, look, result=Changes)
        if found.changed:
            context.append(
                f"composition/{FOLDER}", CompositionsWereChanged(found.changed[:CHANGES_MAX], found.problems)
            )
        return found

    # ── files ────────────────────────────────────────────────────────────────────────────────────────────────────────
    async def _fresh(self) -> Library:
        """The library as the files are now; they are looked at, and read where they changed, in a thread."""
        before, known = self._stamp, self._library
        stamp, library = await self._threads.run("blocking", lambda: self._look(before, known))
        if self._stamp == before:  # else another look was faster
            self._stamp, self._library = stamp, library
        return library

    def _look(self, before: Stamp, known: Library) -> tuple[Stamp, Library]:
        stamp = stamp_of(self._folder)
        return (before, known) if stamp == before else (stamp, library_of(self._folder))

    async def _watch(self) -> None:
        await self.host.up()
        while True:
            await asyncio.sleep(LOOK_S)
            if await self._fresh() is not self._announced:
                await self._reload()

    async def _reload(self) -> None:
        try:
            found = await self.host.request("composition:reload")
        except KSIError as error:
            self.host.logger.warning("changed compositions can not be recorded: %s", error.message)
            return
        for problem in found["problems"]:
            self.host.logger.warning("%s:%d: %s", problem["file"], problem["line"], problem["message"])


def _listed(library: Library, name: str) -> Listed:
    problem = next(iter(_problems(library, name)), None)
    entry = library.entries.get(name)
    if entry is None:
        return Listed(name=name, kind="agent", description="", source="home", problem=problem)
    said = entry.said
    return Listed(name=name, kind=said.kind, description=said.description, source=entry.source, problem=problem)


def _problems(library: Library, name: str) -> list[Problem]:
    if name in library.broken:
        return [_problem(library.broken[name])]
    return [_problem(error) for error in problems_of(library, library.entries[name])]


def _problem(error: CompositionError) -> Problem:
    return Problem(error.file, error.line, error.column, error.message.removeprefix(f"{error.file}:{error.line}: "))


def _checked_text(library: Library, name: str, text: str) -> Checked:
    try:
        entry = entry_of(name, text, source="home", file=f"{name}.yaml")
    except CompositionError as error:
        return Checked(1, [_problem(error)])
    return Checked(1, [_problem(error) for error in problems_of(library.having(entry), entry)])


def _changes(before: Library, now: Library) -> Changes:
    names = sorted({*before.entries, *before.broken, *now.entries, *now.broken})
    changed = [name for name in names if _words(before, name) != _words(now, name)]
    return Changes(changed, [problem for name in sorted(now.broken) for problem in _problems(now, name)])


def _words(library: Library, name: str) -> object:
    if name in library.broken:
        return str(library.broken[name])
    entry = library.entries.get(name)
    return None if entry is None else (entry.source, entry.text)
