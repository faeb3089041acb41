"""What a route makes of a fact: a condition over it, and payloads out of templates. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from ksi.core.errors import ValidationError
from ksi.core.events import RecordedEvent
from ksi.store.structure import MISSING, parse_path, value_at

ITEMS_MAX = 100
"""Payloads that one fact may be split into."""
_PLACE = re.compile(r"\{([^{}]*)\}")


def scope_of(event: RecordedEvent) -> dict[str, Any]:
    """What conditions and templates see of a fact."""
    return {
        "name": event.name,
        "stream": event.stream,
        "position": event.position,
        "event_id": str(event.event_id),
        "correlation_id": event.correlation_id,
        "principal": event.metadata.get("principal"),
        "time": event.recorded_at.isoformat(),
        "data": event.data,
    }


def items_of(scope: Mapping[str, Any], each: str | None) -> list[dict[str, Any]]:
    """The scopes of the payloads: one, or one for each item of the list at ``each``, as ``item`` and ``index``.

    Raises:
        ValidationError: There is no list, or a too long one.
    """
    if each is None:
        return [dict(scope)]
    items = value_at(scope, parse_path(each))
    if not isinstance(items, list) or len(items) > ITEMS_MAX:
        raise ValidationError(f"{each!r} is no list of at most {ITEMS_MAX} items")
    return [{**scope, "item": item, "index": index} for index, item in enumerate(items)]


def filled(template: Any, scope: Mapping[str, Any]) -> Any:
    """``template`` with what stands in brackets: ``"{data.count}"`` is the value itself, ``"n {data.count}"`` a text.

    A path that leads nowhere is null, or nothing in a text.
    """
    match template:
        case str():
            return _text(template, scope)
        case Mapping():
            return {name: filled(value, scope) for name, value in template.items()}
        case list():
            return [filled(value, scope) for value in template]
        case _:
            return template


def check_template(template: Any) -> None:
    """Raises ValidationError where a path in it is none."""
    match template:
        case str():
            for path in _PLACE.findall(template):
                parse_path(path)
        case Mapping():
            check_templates(list(template.values()))
        case list():
            check_templates(template)


def check_templates(templates: Sequence[Any]) -> None:
    for template in templates:
        check_template(template)


def _text(template: str, scope: Mapping[str, Any]) -> Any:
    whole = _PLACE.fullmatch(template)
    if whole is not None:
        return _at(whole[1], scope)
    return _PLACE.sub(lambda match: _said(_at(match[1], scope)), template)


def _at(path: str, scope: Mapping[str, Any]) -> Any:
    value = value_at(scope, parse_path(path))
    return None if value is MISSING else value


def _said(value: Any) -> str:
    if value is None:
        return ""
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()
