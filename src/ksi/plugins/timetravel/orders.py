"""What passes between a daemon and the child that repeats a run: lines of JSON, both ways."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from ksi.core.config import Config, Secret, Settings
from ksi.core.errors import KSIError
from ksi.core.home import Home
from ksi.kernel.replay import Replayed


class Orders(msgspec.Struct, frozen=True, kw_only=True):
    """The first line to the child. ``plugins`` are sources as the daemon loaded them, in its order."""

    parent: int
    run: str
    branch: str
    plugins: tuple[str, ...]
    home: str
    settings: msgspec.Raw


class Begins(msgspec.Struct, frozen=True, tag_field="ask", tag="begins"):
    """From the child, without an answer: a handler of ``plugin`` runs now."""

    plugin: str


class Failure(msgspec.Struct, frozen=True):
    """An error, as the wire has it."""

    code: str
    message: str
    details: Mapping[str, Any]


class Report(msgspec.Struct, frozen=True, kw_only=True, tag_field="ask", tag="report"):
    """The child's last line. ``native``: whether the seal bound native code too."""

    native: bool = False
    replayed: Replayed | None = None
    failure: Failure | None = None


def failure_of(error: KSIError) -> Failure:
    return Failure(error.code, error.message, error.details())


def settings_of(config: Config) -> msgspec.Raw:
    """All tables of the configuration without its secrets: nothing that needs one can happen in a replay."""
    tables = {name: getattr(config, name) for name in Settings.__struct_fields__}
    return msgspec.Raw(msgspec.json.encode(tables, enc_hook=_without_secrets))


def config_of(orders: Orders) -> Config:
    settings = msgspec.json.decode(orders.settings, type=Settings, dec_hook=_secret)
    tables = {name: getattr(settings, name) for name in Settings.__struct_fields__}
    return Config(home=Home(Path(orders.home)), **tables)


def _without_secrets(value: Any) -> Any:
    if isinstance(value, Secret):
        return "withheld"
    raise TypeError(f"{type(value).__name__} is no setting")


def _secret(kind: type, value: Any) -> Any:
    return Secret(value)
