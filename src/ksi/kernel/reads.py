"""What a recorded request has read: without it, a what-if would not know who depends on whom."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from ksi.core.envelope import EventEnvelope
from ksi.core.errors import KSIError
from ksi.core.views import Page, ViewReader

READS_MAX = 256


class Reads:
    """The read set of one request: at most :data:`READS_MAX` entries, then only their number."""

    __slots__ = ("_left_out", "entries", "with_values")

    def __init__(self, *, with_values: bool) -> None:
        self.with_values = with_values
        self.entries: list[Any] = []
        self._left_out = 0

    def view(self, name: str, how: Any, value: Any) -> None:
        """``how`` is the key, or the scan."""
        entry = [name, how]
        if self.with_values:
            entry.append(msgspec.to_builtins(value))
        self._note(entry)

    def query(self, envelope: EventEnvelope, raw: bytes | None, error: KSIError | None, reads: Reads | None) -> None:
        """A nested query, with its result and what it read itself."""
        self._note(
            {
                "query": envelope.name,
                "path": envelope.path,
                "request": msgspec.Raw(envelope.raw),
                "answer": None if raw is None else msgspec.Raw(raw),
                "error": None if error is None else error.code,
                "reads": [] if reads is None else reads.entries,
            }
        )

    def as_metadata(self) -> Mapping[str, Any] | None:
        if not self.entries:
            return None
        left_out = {"reads_left_out": self._left_out} if self._left_out else {}
        return {"reads": msgspec.json.encode(self.entries).decode(), **left_out}

    def _note(self, entry: Any) -> None:
        if len(self.entries) < READS_MAX:
            self.entries.append(entry)
        else:
            self._left_out += 1


class RecordingReader:
    """A view's reader that notes what is read through it."""

    __slots__ = ("_name", "_reader", "_reads")

    def __init__(self, reader: ViewReader[Any], name: str, reads: Reads) -> None:
        self._reader = reader
        self._name = name
        self._reads = reads

    async def get(self, *key: Any) -> Any | None:
        record = await self._reader.get(*key)
        self._reads.view(self._name, list(key), record)
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
        page = await self._reader.scan(index, *prefix, begins=begins, after=after, limit=limit, backwards=backwards)
        how = {"index": index, "prefix": list(prefix), "after": after, "limit": limit, "backwards": backwards}
        if begins:
            how["begins"] = begins
        self._reads.view(self._name, how, page.records)
        return page
