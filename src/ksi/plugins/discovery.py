"""Which events there are, in the form of the original clients: parameters with Python's names of types."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

from ksi.kernel.spec import EventSpec

_NAMES = {
    "string": "str",
    "integer": "int",
    "number": "float",
    "boolean": "bool",
    "array": "list",
    "object": "dict",
    "null": "None",
}
Schema = Mapping[str, Any]
PAGE_MAX = 1000
"""Events in one answer, also where nobody says how many: more may not fit into a frame."""


class Parameter(msgspec.Struct, frozen=True, omit_defaults=True):
    """One field of a payload. ``type`` is ``str`` only where null is refused: the original clients check that."""

    type: str
    required: bool
    description: str
    default: Any = msgspec.UNSET


class Discover(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Which events. All that is said must hold; nothing said means all of them."""

    namespace: Annotated[str | None, Meta(description="only this namespace, as in state")] = None
    event: Annotated[str | None, Meta(description="only this event")] = None
    kind: Annotated[Literal["command", "query", "stream"] | None, Meta(description="only of this kind")] = None
    detail: Annotated[
        Literal["name", "summary", "parameters"], Meta(description="how much is said of each; parameters is all")
    ] = "parameters"
    after: Annotated[str | None, Meta(description="next of the page before")] = None
    limit: Annotated[int, Meta(ge=1, le=PAGE_MAX)] | None = None


class Discovered(msgspec.Struct, frozen=True):
    """One event, in the form of the original clients; less of it where less was asked for."""

    event: str
    summary: str | UnsetType = UNSET
    parameters: dict[str, Parameter] | UnsetType = UNSET


class Discovery(msgspec.Struct, frozen=True):
    """Events by namespace; ``next`` goes into ``after``, and is there only where more follows."""

    events: dict[str, list[Discovered]]
    next: str | UnsetType = UNSET


def discovery(specs: Iterable[EventSpec], request: Discover) -> Discovery:
    """Those of ``specs``, which are in the order of their names, that fit ``request``, a page of them."""
    fitting = [spec for spec in specs if _fits(spec, request)]
    page = fitting[: request.limit or PAGE_MAX]
    found: dict[str, list[Discovered]] = {}
    for spec in page:
        found.setdefault(namespace_of(spec), []).append(_discovered(spec, request.detail))
    return Discovery(found, page[-1].name if len(page) < len(fitting) else UNSET)


def namespace_of(spec: EventSpec) -> str:
    return spec.name.partition(":")[0]


def _fits(spec: EventSpec, request: Discover) -> bool:
    return (
        request.namespace in (None, namespace_of(spec))
        and request.kind in (None, spec.kind)
        and (request.after is None or spec.name > request.after)
    )


def _discovered(spec: EventSpec, detail: str) -> Discovered:
    match detail:
        case "name":
            return Discovered(spec.name)
        case "summary":
            return Discovered(spec.name, spec.summary)
    return Discovered(spec.name, spec.summary, parameters_of(spec))


def parameters_of(spec: EventSpec) -> dict[str, Parameter]:
    """The fields of an event's payload, by name."""
    schema = spec.payload.schema()
    definitions = schema.get("$defs", {})
    whole = _resolved(schema, definitions)
    required = whole.get("required", ())
    return {
        name: Parameter(
            type=type_name(field, definitions),
            required=name in required,
            description=field.get("description", ""),
            default=field.get("default", msgspec.UNSET),
        )
        for name, field in whole.get("properties", {}).items()
    }


def type_name(schema: Schema, definitions: Mapping[str, Schema]) -> str:
    """``str``, ``int``, ``list``, ``dict``, …; ``Optional[str]`` where null will do; ``Any`` where all will."""
    schema = _resolved(schema, definitions)
    if "enum" in schema or "const" in schema:
        return _joined([_name_of(value) for value in schema.get("enum", [schema.get("const")])])
    if "anyOf" in schema:
        return _joined([type_name(part, definitions) for part in schema["anyOf"]])
    kinds = schema.get("type", ())
    return _joined([_NAMES[kind] for kind in ([kinds] if isinstance(kinds, str) else kinds)])


def _joined(names: list[str]) -> str:
    kinds = list(dict.fromkeys(name for name in names if name != "None"))
    if not kinds:
        return "None" if names else "Any"
    inner = kinds[0] if len(kinds) == 1 else f"Union[{', '.join(kinds)}]"
    return f"Optional[{inner}]" if "None" in names else inner


def _name_of(value: Any) -> str:
    return "None" if value is None else type(value).__name__


def _resolved(schema: Schema, definitions: Mapping[str, Schema]) -> Schema:
    """``schema`` where it refers to another by ``$ref``: that one, with what was said beside it."""
    reference = schema.get("$ref")
    if reference is None:
        return schema
    return {**definitions[reference.rpartition("/")[2]], **{key: schema[key] for key in schema if key != "$ref"}}
