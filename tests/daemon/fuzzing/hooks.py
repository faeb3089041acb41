"""Requests of Schemathesis to what has no end of its own are given one."""

from __future__ import annotations

from typing import Any

import schemathesis

ENDLESS = ("subscribe", "door:record", "door:replay", "message:follow")


@schemathesis.hook
def before_call(context: Any, case: Any, kwargs: dict[str, Any]) -> None:
    """Set the limit of the caller: always for streams that end only when their reader goes, else where none is said."""
    if any(name in case.path for name in ENDLESS):
        case.headers["Ksi-Timeout"] = "0.05"
    else:
        case.headers.setdefault("Ksi-Timeout", "10")
