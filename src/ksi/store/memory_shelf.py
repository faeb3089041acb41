"""Records of a view in memory."""

from __future__ import annotations

from bisect import bisect_left, insort
from typing import Any

from ksi.store.views import Key, Place, Span


class MemoryShelf:
    """A view's records in a dict, and their order by each index that was scanned."""

    is_behind = False

    def __init__(self, place_of: Place) -> None:
        self._place_of = place_of
        self._records: dict[Key, Any] = {}
        self._orders: dict[str | None, SortedPlaces] = {}

    def get(self, key: Key) -> Any | None:
        return self._records.get(key)

    def put(self, key: Key, record: Any | None) -> None:
        old = self._records.pop(key, None)
        for index, order in self._orders.items():
            if old is not None:
                order.discard(self._place_of(index, old))
            if record is not None:
                order.add(self._place_of(index, record), record)
        if record is not None:
            self._records[key] = record

    def scan(self, span: Span, limit: int) -> list[tuple[bytes, Any]]:
        order = self._orders.get(span.by)
        if order is None:
            order = SortedPlaces({self._place_of(span.by, record): record for record in self._records.values()})
            self._orders[span.by] = order
        return order.between(span, limit)


class SortedPlaces:
    """Records by their places, in order."""

    def __init__(self, records: dict[bytes, Any]) -> None:
        self._records = records
        self._places = sorted(records)

    def add(self, place: bytes, record: Any) -> None:
        if place not in self._records:
            insort(self._places, place)
        self._records[place] = record

    def discard(self, place: bytes) -> None:
        if self._records.pop(place, None) is not None:
            del self._places[bisect_left(self._places, place)]

    def between(self, span: Span, limit: int) -> list[tuple[bytes, Any]]:
        low, high = bisect_left(self._places, span.low), bisect_left(self._places, span.high)
        chosen = (
            self._places[max(low, high - limit) : high][::-1]
            if span.backwards
            else self._places[low : min(high, low + limit)]
        )
        return [(place, self._records[place]) for place in chosen]
