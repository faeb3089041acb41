"""Facts of older schema versions, read as the newest: the log stays as it was written."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

from msgspec.structs import replace

from ksi.core import canonical
from ksi.core.errors import DuplicateEventError, InternalError
from ksi.core.events import RecordedEvent
from ksi.core.views import NamedVersion, Upcaster
from ksi.store.row import Row

E = TypeVar("E", bound=RecordedEvent)


class Upcasters:
    """Implements :class:`ksi.core.views.UpcasterBook`. Read from any thread; changed on the loop."""

    def __init__(self) -> None:
        self._owned: dict[str, Mapping[NamedVersion, Upcaster]] = {}
        self._steps: dict[NamedVersion, Upcaster] = {}

    def register(self, upcasters: Mapping[NamedVersion, Upcaster], *, owner: str) -> None:
        for other, theirs in self._owned.items():
            for name, version in theirs.keys() & upcasters.keys() if other != owner else ():
                raise DuplicateEventError(name, [other, owner], reason=f"has two upcasters from version {version}")
        self._owned[owner] = upcasters
        self._collect()

    def withdraw(self, owner: str) -> None:
        self._owned.pop(owner, None)
        self._collect()

    def _collect(self) -> None:
        self._steps = {named: step for owned in self._owned.values() for named, step in owned.items()}

    @property
    def names(self) -> set[str]:
        """Of the facts for which there is any."""
        return {name for name, _ in self._steps}

    def applied(self, events: list[RecordedEvent]) -> list[RecordedEvent]:
        """``events`` in their newest versions. Raises InternalError, which names it, where an upcaster raised."""
        steps = self._steps
        if not steps:
            return events
        return [self.newest(event) if (event.name, event.schema_version) in steps else event for event in events]

    def row(self, row: Row) -> Row:
        """The same for the lines of a row."""
        steps = self._steps
        if not steps or not any((line.name, line.schema_version) in steps for line in row.lines):
            return row
        return replace(row, lines=tuple([self.newest(line) for line in row.lines]))

    def has(self, event: RecordedEvent) -> bool:
        return (event.name, event.schema_version) in self._steps

    def newest(self, event: E) -> E:
        """``event`` in its newest version. Raises InternalError, which names it, where an upcaster raised."""
        if event.is_erased or event.kind != "fact":
            return event
        data, version = canonical.decode(event.raw), event.schema_version
        while (step := self._steps.get((event.name, version))) is not None:
            try:
                data = step(data)
                version += 1
            except Exception as error:  # an upcaster is a plugin's code
                place = f"the upcaster of {event.name} from version {version}, @{event.position},"
                raise InternalError(place, f"{type(error).__name__}: {error}") from error
        return replace(event, raw=canonical.encode(data), schema_version=version)
