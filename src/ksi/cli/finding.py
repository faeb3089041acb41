"""What a check of ``ksi doctor`` says."""

from __future__ import annotations

import os
from functools import lru_cache
from typing import Any, Literal

import msgspec

from ksi.cli.invocation import Invocation
from ksi.cli.reach import LOOK, ask
from ksi.core import config
from ksi.core.config import Config
from ksi.core.errors import ConfigError, KSIError


class Check(msgspec.Struct, frozen=True):
    """One finding; ``todo`` says what to do where it is not ok."""

    name: str
    level: Literal["ok", "warn", "fail"]
    found: str
    todo: str = ""


def configured(invocation: Invocation) -> Config | None:
    """The configuration; None where it can not be read, which a check of its own says."""
    try:
        return config.load(invocation.home, os.environ)
    except ConfigError:
        return None


@lru_cache(maxsize=1)
def health_of(invocation: Invocation) -> dict[str, Any] | KSIError:
    """What the daemon says of itself, or why it says nothing: asked once, for one that hangs takes its time."""
    try:
        health: dict[str, Any] = ask(invocation, "system:health", may_start=False, within=LOOK)
    except KSIError as error:
        return error
    return health


def unknown(name: str) -> Check:
    return Check(name, "warn", "not known: the configuration can not be read")
