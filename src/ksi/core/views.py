"""Read models and folds: state, computed from facts and nothing else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Generic, Protocol, TypeVar

import msgspec

from ksi.core.events import Query, RecordedEvent

R = TypeVar("R")
S = TypeVar("S")


class ViewWriter(Protocol):
    """Given to :meth:`View.apply`, inside the commit. Sees what earlier events of the same and earlier commits put."""

    def get(self, *key: Any) -> Any | None: ...
    def put(self, record: Any) -> None: ...
    def delete(self, *key: Any) -> None: ...


class View(Generic[R]):
    """A read model without SQL: subclass it, name its record, say how a fact changes it.

    ::

        class Counters(View[Counter]):
            name = "counters"
            query = (Filter(names=("counter:*",)),)
            record = Counter
            key = ("id",)

    The backend keeps the records, applies the view with each fact's own commit, and folds again from its position after
    a crash. ``apply`` is pure apart from the writer: no clock, no I/O. Records are frozen structs.
    """

    name: ClassVar[str]
    version: ClassVar[int] = 1  #: raise it when ``apply`` or the record changes: the view is built again
    query: ClassVar[Query] = ()
    record: type[R]
    key: ClassVar[tuple[str, ...]]  #: fields of the record
    indexes: ClassVar[Mapping[str, tuple[str, ...]]] = {}  #: ``"by_agent": ("agent", "updated_at")``

    def apply(self, writer: ViewWriter, event: RecordedEvent) -> None:
        raise NotImplementedError


class Page(msgspec.Struct, Generic[R], frozen=True):
    """Some records in order; pass ``next`` as ``after`` to go on; None at the end."""

    records: Sequence[R]
    next: str | None


class ViewReader(Protocol[R]):
    """``context.view(V)``. Does not suspend on memory and SQLite. Shows acknowledged commits only."""

    async def get(self, *key: Any) -> R | None:
        """The record with this key."""

    async def scan(
        self,
        index: str | None = None,
        *prefix: Any,
        begins: str = "",
        after: str | None = None,
        limit: int = 100,
        backwards: bool = False,
    ) -> Page[R]:
        """Records in the order of ``index`` (None: of the key) whose first index fields equal ``prefix``.

        ``begins`` is how the field behind those begins: keys are fields too, behind those of the index.
        """


class Fold(Protocol[S]):
    """Pure: no clock, no I/O, no randomness. (name, version) keys its snapshots; change the code, raise the version."""

    name: str
    version: int
    query: Query

    def initial(self) -> S: ...
    def apply(self, state: S, event: RecordedEvent) -> S: ...
    def dump(self, state: S) -> bytes: ...
    def load(self, raw: bytes) -> S: ...


class EntityFold(Protocol[S]):
    """What one entity is, out of its facts; pure like :class:`Fold`. A plugin names its own in ``folds``."""

    category: str
    """First part of the names of its streams: ``state`` for ``state/default``."""

    def initial(self) -> S: ...
    def apply(self, state: S, event: RecordedEvent) -> S: ...
