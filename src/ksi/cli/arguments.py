"""What stands on a command line: payload fields, positions, times, names of events."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import click
import msgspec

from ksi.cli.invocation import Invocation
from ksi.cli.schema import fields_of
from ksi.core.clock import Clock, SystemClock, microseconds

_FIELD = re.compile(r"(?P<key>[A-Za-z_][\w.-]*)(?P<kind>:?=)(?P<text>.*)", re.DOTALL)
_POSITION = re.compile(r"@[0-9]+")
_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d|w)")
DURATION_MAX = 100 * 366 * 86_400.0
_UNITS_US = {"ms": 10**3, "s": 10**6, "m": 60 * 10**6, "h": 3600 * 10**6, "d": 86_400 * 10**6, "w": 604_800 * 10**6}


def payload(arguments: Sequence[str]) -> dict[str, Any]:
    """The object that ``key=text`` and ``key:=json`` say; ``@FILE`` as a value is read from there, ``@-`` from stdin.

    ``@12`` is a position of the log, so a text, where no file has this name.

    Raises:
        click.UsageError: One is neither, or a key is there twice.
    """
    fields: dict[str, Any] = {}
    for argument in arguments:
        key, value = _field(argument)
        if key in fields:
            raise click.UsageError(f"{key!r} is given twice")
        fields[key] = value
    return fields


def _field(argument: str) -> tuple[str, Any]:
    match = _FIELD.fullmatch(argument)
    if match is None:
        raise click.UsageError(f"{argument!r} is no field: write key=text, key:=json or key=@file")
    text = _content(match["text"])
    if match["kind"] == "=":
        return match["key"], text
    try:
        return match["key"], msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError) as error:
        raise click.UsageError(f"{match['key']}:= needs JSON: {error}; a text is {match['key']}=text") from None


def _content(text: str) -> str:
    if not text.startswith("@"):
        return text
    if text == "@-":
        return sys.stdin.read()
    path = Path(text[1:]).expanduser()
    if _POSITION.fullmatch(text) and not path.exists():
        return text
    try:
        return path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise click.UsageError(f"{text[1:]} can not be read: {error}") from None


class PositionType(click.ParamType):  # type: ignore[type-arg]  # it is generic in new versions of click only
    """``@1234``, as positions are printed; the ``@`` may be left out."""

    name = "@N"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        digits = str(value).removeprefix("@")
        if not digits.isascii() or not digits.isdigit():
            self.fail(f"{value!r} is no position: write @1234", param, ctx)
        return int(digits)


class MomentType(click.ParamType):  # type: ignore[type-arg]  # it is generic in new versions of click only
    """A time ago, as ``5m`` or ``1.5h``, or a moment, as ``2026-11-24T08:00``; becomes microseconds since 1970."""

    name = "5m"

    def __init__(self, clock: Clock | None = None) -> None:
        self._clock = clock or SystemClock()

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):
            return value
        try:
            if match := _DURATION.fullmatch(value):
                # Before 1970 nothing was recorded.
                return max(0, self._clock.time_us() - int(_microseconds_in(match)))
            return microseconds(datetime.fromisoformat(value).astimezone())
        except (ValueError, OverflowError):
            self.fail(f"{value!r} is no time: write 30s, 5m, 2h, 1d or 2026-11-24T08:00", param, ctx)


class Moment(msgspec.Struct, frozen=True):
    """A place in the log that was given as a time: microseconds since 1970."""

    us: int


class PlaceType(click.ParamType):  # type: ignore[type-arg]  # it is generic in new versions of click only
    """``@1234``, or a time as :class:`MomentType` takes it, which becomes a :class:`Moment`."""

    name = "@N|5m"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int | Moment:
        if str(value).removeprefix("@").isdecimal():
            return PositionType().convert(value, param, ctx)
        return Moment(MomentType().convert(value, param, ctx))


class DurationType(click.ParamType):  # type: ignore[type-arg]  # it is generic in new versions of click only
    """A length of time, as ``30m``; becomes seconds."""

    name = "1h"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        match = _DURATION.fullmatch(value)
        seconds = 0.0 if match is None else _microseconds_in(match) / 1_000_000
        if not 0 < seconds <= DURATION_MAX:
            self.fail(f"{value!r} is no length of time: write 30s, 5m, 2h, 1d", param, ctx)
        return seconds


class EventNameType(click.ParamType):  # type: ignore[type-arg]  # it is generic in new versions of click only
    """The name of an event; a shell completes it from the list that the daemon gave last."""

    name = "EVENT"

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[Any]:
        from click.shell_completion import CompletionItem  # only a shell that completes needs it

        known = known_events(ctx.ensure_object(Invocation)).items()
        return [CompletionItem(name, help=event.summary) for name, event in known if name.startswith(incomplete)]


class FieldType(click.ParamType):  # type: ignore[type-arg]  # it is generic in new versions of click only
    """A payload field; a shell completes its key."""

    name = "key=value"

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[Any]:
        from click.shell_completion import CompletionItem  # only a shell that completes needs it

        event = known_events(ctx.ensure_object(Invocation)).get(ctx.params.get("event") or "")
        keys = event.fields if event is not None else []
        return [CompletionItem(f"{key}=") for key in keys if key.startswith(incomplete)]


class KnownEvent(msgspec.Struct, frozen=True):
    """What the shell's completion knows of an event."""

    summary: str
    fields: list[str]


def known_events(invocation: Invocation) -> dict[str, KnownEvent]:
    """The daemon's events when they were last listed; none where they never were, or the list is spoiled."""
    try:
        return msgspec.json.decode(invocation.home.event_list.read_bytes(), type=dict[str, KnownEvent])
    except (OSError, msgspec.MsgspecError):
        return {}


def remember_events(invocation: Invocation, events: Sequence[dict[str, Any]]) -> None:
    """Keep what ``system:describe`` answered for :func:`known_events`."""
    known = {event["name"]: KnownEvent(event["summary"], fields_of(event["request"])) for event in events}
    fresh = invocation.home.event_list.with_suffix(".new")
    fresh.write_bytes(msgspec.json.encode(known))
    fresh.replace(invocation.home.event_list)


def _microseconds_in(match: re.Match[str]) -> float:
    """Of a :data:`_DURATION`; infinite where it is longer than numbers go."""
    return float(match[1]) * _UNITS_US[match[2]]


POSITION = PositionType()
MOMENT = MomentType()
PLACE = PlaceType()
DURATION = DurationType()
EVENT_NAME = EventNameType()
FIELD = FieldType()
