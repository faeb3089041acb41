"""Read models and folds: state, computed from facts and nothing else."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Generic, Literal, NamedTuple, Protocol, TypeVar

import msgspec

from ksi.core import canonical
from ksi.core.events import Position, Query, RecordedEvent

R = TypeVar("R")
S = TypeVar("S")


class ViewWriter(Protocol):
    """Given to :meth:`View.apply`, inside the commit. Sees what earlier events of the same and earlier commits put."""

    def get(self, *key: Any) -> Any | None: ...
    def put(self, record: Any) -> None: ...
    def delete(self, *key: Any) -> None: ...


class View(ABC, Generic[R]):
    """A read model without SQL: subclass it, name its record, say how a fact changes it.

    ::

        class Counters(View[Counter]):
            name = "counters"
            query = (Filter(names=("counter:*",)),)
            record = Counter
            key = ("id",)

    The backend keeps the records, applies the view with each fact's own commit, and folds again from its position after
    a crash. ``apply`` is pure apart from the writer: no clock, no I/O. Records are frozen structs.

    With ``inline = False`` it is folded behind, by a task of its own: commands do not pay for it, an ``apply`` that
    raises parks the event instead of failing its command, and readers may have to wait (:meth:`Projections.wait_for`).
    """

    name: ClassVar[str]
    version: ClassVar[int] = 1  #: raise it when ``apply`` or the record changes: the view is built again
    query: ClassVar[Query] = ()
    record: type[R]
    key: ClassVar[tuple[str, ...]]  #: fields of the record
    indexes: ClassVar[Mapping[str, tuple[str, ...]]] = {}  #: ``"by_agent": ("agent", "updated_at")``
    inline: ClassVar[bool] = True  #: False: folded behind the commits

    @abstractmethod
    def apply(self, writer: ViewWriter, event: RecordedEvent) -> None:
        """What ``event`` changes."""


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


async def all_records(view: ViewReader[R], index: str | None = None, *prefix: Any) -> list[R]:
    """What :meth:`ViewReader.scan` gives page by page."""
    found: list[R] = []
    after = None
    while True:
        page = await view.scan(index, *prefix, after=after)
        found += page.records
        after = page.next
        if after is None:
            return found


class ProjectionStatus(msgspec.Struct, frozen=True, kw_only=True):
    """How a view stands. ``lag`` is in positions behind the head, ``lag_seconds`` the age of the first of them.

    ``failed``: it does not go on; ``problem`` says why, and it tries again each second. Else it is why the newest
    of its ``parked`` events was parked.
    """

    name: str
    version: int
    state: Literal["inline", "live", "catching_up", "rebuilding", "failed"]
    position: Position
    lag: int
    lag_seconds: float
    problem: str | None
    parked: int


class Difference(msgspec.Struct, frozen=True):
    """A record that a rebuild makes other than it is; None where there is none."""

    key: tuple[Any, ...]
    before: Any
    after: Any


class Rebuilt(msgspec.Struct, frozen=True, kw_only=True):
    """What a rebuild made. ``examples`` are the first records that differ; ``swapped``: it is what readers see now."""

    name: str
    position: Position
    records: int
    added: int
    removed: int
    changed: int
    examples: Sequence[Difference]
    swapped: bool


class Projections(Protocol):
    """Read models as a whole: how they stand, and their repair. NotFoundError where none has the name."""

    async def status(self, name: str | None = None) -> Sequence[ProjectionStatus]:
        """Of all, or of one."""

    async def wait_for(self, name: str, position: Position, timeout: float) -> None:
        """Until it shows all up to ``position``: who wrote there reads it then.

        Raises:
            EventTimeoutError: Not in ``timeout`` seconds.
        """

    async def rebuild(self, name: str, *, swap: bool = True) -> Rebuilt:
        """Fold it anew beside the old one, compare the two, and let the new one take its place, unless not ``swap``.

        Readers see the old one until then, and facts go on to be committed.

        Raises:
            ConflictError: It is being rebuilt already.
            InternalError: Its ``apply`` raises on a fact of the log, and it is inline. The old one stays.
        """

    def subscriber(self, name: str) -> str:
        """Under which its parked events stand: :meth:`EventLog.parked`."""


class Fold(Protocol[S]):
    """Pure: no clock, no I/O, no randomness. (name, version) keys its snapshots; change the code, raise the version."""

    name: str
    version: int
    query: Query

    def initial(self) -> S: ...
    def apply(self, state: S, event: RecordedEvent) -> S: ...
    def dump(self, state: S) -> bytes: ...
    def load(self, raw: bytes) -> S: ...


NamedVersion = tuple[str, int]
"""Name of a fact, and one of its schema versions."""
Upcaster = Callable[[dict[str, Any]], dict[str, Any]]
"""Pure: the data of a fact in one schema version, as it is in the next."""


class UpcasterBook(Protocol):
    """How facts of older schema versions are read."""

    def register(self, upcasters: Mapping[NamedVersion, Upcaster], *, owner: str) -> None:
        """Read by them from now on. Raises DuplicateEventError where another owner has one for the same version."""

    def withdraw(self, owner: str) -> None: ...


class UpcastersChecked(msgspec.Struct, frozen=True):
    """So many ``events`` of older versions were tried; ``problems`` says what went wrong, at most 100 sentences."""

    events: int
    problems: Sequence[str]


class FoldKey(NamedTuple):
    """Whose snapshots: ``fold`` is the fold's name, or the entity's."""

    fold: str
    version: int
    branch: str


class Snapshot(msgspec.Struct, frozen=True):
    """What a fold had made of all events up to ``position``."""

    position: Position
    state: bytes


class Snapshots(Protocol):
    """States of folds, kept so that not every question begins at the first event. Neither waits."""

    def before(self, key: FoldKey, at: Position) -> Snapshot | None:
        """The last one that is not behind ``at``."""

    def keep(self, key: FoldKey, made: Sequence[Snapshot]) -> None:
        """Write them some time, or not at all."""


class JsonState(Generic[S]):
    """``dump`` and ``load`` of a fold whose state has a JSON form: with them it has snapshots.

    ``state`` is its type. Raise ``version`` with each change of the code: older snapshots are others then.
    """

    state: Any
    version: int = 1

    def dump(self, state: S) -> bytes:
        return canonical.encode(state)

    def load(self, raw: bytes) -> S:
        loaded: S = msgspec.json.decode(raw, type=self.state)
        return loaded


class EntityFold(Protocol[S]):
    """What one entity is, out of its facts; pure like :class:`Fold`. A plugin names its own in ``folds``.

    One that is a :class:`JsonState` has snapshots.
    """

    category: str
    """First part of the names of its streams: ``state`` for ``state/default``."""

    def initial(self) -> S: ...
    def apply(self, state: S, event: RecordedEvent) -> S: ...
