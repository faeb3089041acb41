"""Shared state: JSON values by key, in namespaces."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from msgspec import Meta

from ksi.core.errors import WrongExpectedVersionError
from ksi.core.events import Filter, RecordedEvent, fact
from ksi.core.views import JsonState, View, ViewWriter
from ksi.kernel.context import EventContext
from ksi.kernel.declare import event, query
from ksi.kernel.plugin import AsyncPlugin
from ksi.plugins.shapes import Limit

Name = Annotated[str, Meta(min_length=1, max_length=1024)]
Namespace = Annotated[Name, Meta(description="a room of keys of its own")]
Version = Annotated[int | None, Meta(description="only if the key has this version now; 0: never set")]


class ValueRef(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A key in its namespace."""

    key: Name
    namespace: Namespace = "default"


class SetValue(ValueRef, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """``value`` is any JSON and kept as it is: ``"123"`` stays a text."""

    value: Annotated[Any, Meta(description="any JSON")]
    expected_version: Version = None


class DeleteValue(ValueRef, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A key whose value shall go."""

    expected_version: Version = None


class Value(msgspec.Struct, frozen=True):
    """What is kept. Without a value ``found`` is false, ``value`` null; ``version`` counts what happened to the key."""

    namespace: str
    key: str
    value: Any
    version: int
    found: bool


class ValueVersion(msgspec.Struct, frozen=True):
    """The version that the key has now."""

    namespace: str
    key: str
    version: int


class ValueDeletion(msgspec.Struct, frozen=True):
    """``deleted`` is false where there was nothing to delete; nothing changes then."""

    namespace: str
    key: str
    version: int
    deleted: bool


class Values(msgspec.Struct, frozen=True):
    """Values by key, in order; ``next`` goes into ``after``."""

    values: list[Value]
    next: str | None


@fact("state:value_was_set")
class ValueWasSet(msgspec.Struct, frozen=True):
    """A key has this value from here on."""

    namespace: str
    key: str
    value: Any
    version: int


@fact("state:value_was_deleted")
class ValueWasDeleted(msgspec.Struct, frozen=True):
    """A key has no value from here on. It keeps its version: a key that comes back does not begin anew."""

    namespace: str
    key: str
    version: int


class StateView(View[Value]):
    """The value of every key that ever had one."""

    name = "state"
    query = (Filter(names=("state:value_was_set", "state:value_was_deleted")),)
    record = Value
    key = ("namespace", "key")
    indexes = {"by_found": ("namespace", "found")}  # noqa: RUF012  # declared as a ClassVar in View

    def apply(self, writer: ViewWriter, event: RecordedEvent) -> None:
        if event.name == "state:value_was_set":
            was = event.into(ValueWasSet)
            writer.put(Value(was.namespace, was.key, was.value, was.version, found=True))
        else:
            gone = event.into(ValueWasDeleted)
            writer.put(Value(gone.namespace, gone.key, None, gone.version, found=False))


class NamespaceFold(JsonState[dict[str, Any]]):
    """``state/<namespace>``: its values by key."""

    category = "state"
    state = dict[str, Any]

    def initial(self) -> dict[str, Any]:
        return {}

    def apply(self, state: dict[str, Any], event: RecordedEvent) -> dict[str, Any]:
        key = event.data["key"]
        if event.name == "state:value_was_set":
            return {**state, key: event.data["value"]}
        return {name: value for name, value in state.items() if name != key}


class State(AsyncPlugin):
    """Shared key-value state, kept as facts of the stream ``state/<namespace>``."""

    name = "state"
    views = (StateView,)
    folds = (NamespaceFold(),)

    @event(
        "state:set",
        key=lambda request: _key(request),
        errors=["wrong_expected_version"],
        examples=[{"key": "colour", "value": "blue"}, {"key": "n", "value": {"x": 1}, "namespace": "lab"}],
    )
    async def set_value(self, request: SetValue, context: EventContext) -> ValueVersion:
        """Store a JSON value under a key; answers its new version."""
        namespace, key = request.namespace, request.key
        version = (await self._current(request, context, request.expected_version)).version + 1
        context.append(f"state/{namespace}", ValueWasSet(namespace, key, request.value, version))
        return ValueVersion(namespace, key, version)

    @query("state:get", examples=[{"key": "colour"}])
    async def get_value(self, request: ValueRef, context: EventContext) -> Value:
        """Give the value of a key; ``found`` says whether there is one."""
        return await self._current(request, context, None)

    @event(
        "state:delete",
        key=lambda request: _key(request),
        errors=["wrong_expected_version"],
        examples=[{"key": "colour"}],
    )
    async def delete_value(self, request: DeleteValue, context: EventContext) -> ValueDeletion:
        """Forget the value of a key."""
        namespace, key = request.namespace, request.key
        current = await self._current(request, context, request.expected_version)
        if not current.found:
            return ValueDeletion(namespace, key, current.version, deleted=False)
        context.append(f"state/{namespace}", ValueWasDeleted(namespace, key, current.version + 1))
        return ValueDeletion(namespace, key, current.version + 1, deleted=True)

    @query("state:list", examples=[{}, {"prefix": "user:", "limit": 10}])
    async def list_values(
        self,
        context: EventContext,
        namespace: Namespace = "default",
        prefix: Annotated[str, Meta(description="only keys that begin so")] = "",
        after: Annotated[str | None, Meta(description="next of the page before")] = None,
        limit: Limit = 100,
    ) -> Values:
        """List the values of a namespace by key, a page at a time."""
        # Behind the fields of the index stand those of the key: the namespace again, then the key itself.
        page = await context.view(StateView).scan(
            "by_found", namespace, True, namespace, begins=prefix, after=after, limit=limit
        )
        return Values(list(page.records), page.next)

    @staticmethod
    async def _current(request: ValueRef, context: EventContext, expected_version: int | None) -> Value:
        """What is kept now, of the version that is expected.

        Raises:
            WrongExpectedVersionError: The key has another version.
        """
        namespace, key = request.namespace, request.key
        current = await context.view(StateView).get(namespace, key) or Value(namespace, key, None, 0, found=False)
        if expected_version not in (None, current.version):
            raise WrongExpectedVersionError(_key(request), expected=expected_version or 0, actual=current.version)
        return current


def _key(request: ValueRef) -> str:
    return f"state/{request.namespace}/{request.key}"
