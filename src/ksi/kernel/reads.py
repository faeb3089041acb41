"""What a recorded request has read: without it, a what-if would not know who depends on whom.

What was read before a nested commit is on disk with that commit, and is served again to a rerun, which would otherwise
read what it has itself brought about since, and ask its nested requests for something else.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any

import msgspec

from ksi.core import canonical
from ksi.core.envelope import EventEnvelope
from ksi.core.errors import KSIError, from_wire
from ksi.core.events import RecordedEvent
from ksi.core.views import Page, ViewReader
from ksi.kernel.effects import Recorded

READS_MAX = 256
STREAM = "$stream"
"""In the place of a view's name: a stream of the log."""


class Reads:
    """The read set of one request: at most :data:`READS_MAX` entries, then only their number.

    Where it holds no values, ``at`` says what they were read from: the head when the first of what is unsaved was read.
    """

    __slots__ = ("_left_out", "_unsaved", "at", "entries", "recorded", "with_values")

    def __init__(self, *, with_values: bool, recorded: Recorded | None) -> None:
        self.with_values = with_values
        self.recorded = recorded
        self.entries: list[Any] = []
        self.at: int | None = None
        self._unsaved: list[tuple[list[Any], Any, KSIError | None]] = []
        self._left_out = 0

    def view(self, name: str, how: Any, value: Any, *, again: bool = False) -> None:
        """``how`` is the key, or the scan; ``again``: it came from the log."""
        self._note([name, how, msgspec.to_builtins(value)] if self.with_values else [name, how])
        if not again:
            self._save(["view", name, how], value, None)

    def stream(self, name: str, version: int) -> None:
        """A stream of the log, read up to ``version``."""
        self._note([STREAM, [name], version])

    def query(self, envelope: EventEnvelope, raw: bytes | None, error: KSIError | None, reads: Reads | None) -> None:
        """A nested query, with its result and what it read itself."""
        self._note(
            {
                "query": envelope.name,
                "path": envelope.path,
                "request": msgspec.Raw(envelope.raw),
                "answer": None if raw is None else msgspec.Raw(raw),
                "error": None if error is None else _facts(error),
                "reads": [] if reads is None else reads.entries,
            }
        )
        what = ["query", envelope.name, msgspec.Raw(envelope.raw)]
        self._save(what, None if raw is None else msgspec.Raw(raw), error)

    def as_metadata(self) -> Mapping[str, Any] | None:
        if not self.entries:
            return None
        metadata: dict[str, Any] = {"reads": msgspec.json.encode(self.entries).decode()}
        if self.at is not None:
            metadata["reads_at"] = self.at
        if self._left_out:
            metadata["reads_left_out"] = self._left_out
        return metadata

    def take_unsaved(self) -> bytes | None:
        """What was read since the last time, as the data of an entry of the log; None where that is nothing."""
        if not self._unsaved:
            return None
        reads = [_saved(what, value, error) for what, value, error in self._unsaved]
        self._unsaved.clear()
        self.at = None
        return canonical.encode({"reads": reads})

    def again(self, *what: Any) -> Any:
        """What this request was given for ``what`` before the crash. Raises LookupError where that is not known."""
        if self.recorded is None or not self.recorded.reads:
            raise LookupError
        return self.recorded.read_again(canonical.decode(canonical.encode(list(what))))

    def _note(self, entry: Any) -> None:
        if len(self.entries) < READS_MAX:
            self.entries.append(entry)
        else:
            self._left_out += 1

    def _save(self, what: list[Any], value: Any, error: KSIError | None) -> None:
        if len(self._unsaved) < READS_MAX:
            self._unsaved.append((what, value, error))


def _saved(what: list[Any], value: Any, error: KSIError | None) -> dict[str, Any]:
    if error is None:
        return {"what": what, "value": value}
    return {"what": what, "error": _facts(error)}


def _facts(error: KSIError) -> dict[str, Any]:
    return {"code": error.code, "message": error.message, "details": error.details()}


def reads_of(outcome: RecordedEvent) -> Sequence[Any]:
    """The read set that an outcome was recorded with.

    It holds ``[view, how]``, ``[view, how, value]``, ``["$stream", [name], version]``, and mappings of queries.
    """
    raw = outcome.metadata.get("reads")
    return () if raw is None else msgspec.json.decode(raw)


def with_values(reads: Iterable[Any]) -> list[Mapping[str, Any]]:
    """Those of a read set that can be served again, in the form that :meth:`Reads.again` looks for."""
    found: list[Mapping[str, Any]] = []
    for read in reads:
        match read:
            case {"query": name, "request": request, "error": None, "answer": answer}:
                found.append({"what": ["query", name, request], "value": answer})
            case {"query": name, "request": request, "error": error}:
                found.append({"what": ["query", name, request], "error": error})
            case [name, how, value] if name != STREAM:
                found.append({"what": ["view", name, how], "value": value})
    return found


def served(saved: Mapping[str, Any]) -> Any:
    """The value that was saved, or raises the error that was."""
    error = saved.get("error")
    if error is not None:
        raise from_wire(error["code"], error["message"], error["details"])
    return saved["value"]


class RecordingReader:
    """A view's reader that notes what is read through it, and of which ``head`` of the log."""

    __slots__ = ("_head", "_name", "_reader", "_reads", "_record")

    def __init__(
        self, reader: ViewReader[Any], name: str, record: type, reads: Reads, head: Callable[[], Awaitable[int | None]]
    ) -> None:
        self._reader = reader
        self._head = head
        self._name = name
        self._record = record
        self._reads = reads

    async def get(self, *key: Any) -> Any | None:
        how = list(key)
        try:
            record = _typed(self._reads.again("view", self._name, how), self._record | None)
        except LookupError:
            await self._note_head()
            record = await self._reader.get(*key)
            self._reads.view(self._name, how, record)
        else:
            self._reads.view(self._name, how, record, again=True)
        return record

    async def scan(
        self,
        index: str | None = None,
        *prefix: Any,
        begins: str = "",
        after: str | None = None,
        limit: int = 100,
        backwards: bool = False,
    ) -> Page[Any]:
        how = {"index": index, "prefix": list(prefix), "after": after, "limit": limit, "backwards": backwards}
        if begins:
            how["begins"] = begins
        try:
            page: Page[Any] = _typed(self._reads.again("view", self._name, how), Page[self._record])  # type: ignore[name-defined]  # a value
        except LookupError:
            await self._note_head()
            page = await self._reader.scan(index, *prefix, begins=begins, after=after, limit=limit, backwards=backwards)
            self._reads.view(self._name, how, page)
        else:
            self._reads.view(self._name, how, page, again=True)
        return page

    async def _note_head(self) -> None:
        if self._reads.at is None and not self._reads.with_values:
            self._reads.at = await self._head() or 0


def _typed(saved: Any, kind: Any) -> Any:
    return msgspec.json.decode(canonical.encode(served(saved)), type=kind)
