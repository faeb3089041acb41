"""What a check of ``ksi doctor`` says."""

from __future__ import annotations

import os
from typing import Literal

import msgspec

from ksi.cli.invocation import Invocation
from ksi.core import config
from ksi.core.config import Config
from ksi.core.errors import ConfigError


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


def unknown(name: str) -> Check:
    return Check(name, "warn", "not known: the configuration can not be read")
