"""What became of events since a description was saved, and what of it breaks the clients of that day.

A client that was written for the old events goes on to work if they take all that they took, and give nothing but what
they gave; fields of an answer that it does not know it passes over.
"""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from ksi.codegen.catalogue import Catalogue, Event
from ksi.codegen.fitting import Fitting, Misfit


class Change(msgspec.Struct, frozen=True):
    """One change of one event; ``where`` is a place in its request, answer or chunk, or nothing."""

    event: str
    where: str
    text: str
    breaking: bool


def changes(old: Catalogue, new: Catalogue) -> list[Change]:
    """All changes by event, those that break a client first."""
    was, now = ({event.name: event for event in catalogue.events} for catalogue in (old, new))
    found = [Change(name, "", "is gone", breaking=True) for name in was.keys() - now.keys()]
    found += [Change(name, "", "is new", breaking=False) for name in now.keys() - was.keys()]
    for name in was.keys() & now.keys():
        found += _Comparison(old, new, was[name], now[name]).changes()
    return sorted(found, key=lambda change: (not change.breaking, change.event, change.where, change.text))


class _Comparison:
    """One event, then and now."""

    def __init__(self, old: Catalogue, new: Catalogue, was: Event, now: Event) -> None:
        self._old = old
        self._new = new
        self._was = was
        self._now = now

    def changes(self) -> Iterator[Change]:
        yield from self._kind()
        yield from self._errors()
        yield from self._taken("request", self._was.request, self._now.request)
        yield from self._given("answer", self._was.answer, self._now.answer)
        if self._was.is_stream and self._now.is_stream:
            yield from self._given("chunk", self._was.chunk, self._now.chunk)

    def _kind(self) -> Iterator[Change]:
        was, now = self._was.described.kind, self._now.described.kind
        if was != now:
            # Anybody may ask for a stream's end value; nobody gets chunks, or asks by GET, where that is gone.
            yield self._change("", f"was a {was}, is a {now}", breaking=was != "command")

    def _errors(self) -> Iterator[Change]:
        was, now = set(self._was.described.errors), set(self._now.described.errors)
        for code in now - was:
            yield self._change("error", f"{code} is new")
        for code in was - now:
            yield self._change("error", f"{code} is gone")

    def _taken(self, part: str, was: str, now: str) -> Iterator[Change]:
        old, new = self._old.schemas, self._new.schemas
        broken = Fitting(old, new, inner_is_old=True).misfits(old[was], new[now])
        widened = Fitting(new, old, inner_is_old=False).misfits(new[now], old[was])
        yield from self._all(part, broken, widened)

    def _given(self, part: str, was: str, now: str) -> Iterator[Change]:
        old, new = self._old.schemas, self._new.schemas
        broken = Fitting(new, old, inner_is_old=False, is_lenient=True).misfits(new[now], old[was])
        narrowed = Fitting(old, new, inner_is_old=True).misfits(old[was], new[now])
        beside = Fitting(new, old, inner_is_old=False).misfits(new[now], old[was])
        yield from self._all(part, broken, [*beside, *narrowed])

    def _all(self, part: str, broken: list[Misfit], harmless: list[Misfit]) -> Iterator[Change]:
        """Where something broke, the other direction only says it again."""
        paths = {misfit.path for misfit in broken}
        for misfit in broken:
            yield self._change(_place(part, misfit), misfit.text, breaking=True)
        for misfit in harmless:
            if misfit.path not in paths:
                paths.add(misfit.path)
                yield self._change(_place(part, misfit), misfit.text)

    def _change(self, where: str, text: str, *, breaking: bool = False) -> Change:
        return Change(self._now.name, where, text, breaking)


def _place(part: str, misfit: Misfit) -> str:
    return f"{part}.{misfit.path}" if misfit.path else part
