"""Requests of Schemathesis to what has no end of its own are given one."""

from __future__ import annotations

from typing import Any

import schemathesis

PATIENCE = 8.0
"""Seconds: Schemathesis itself waits ten."""
ENDLESS = ("subscribe", "door:record", "door:replay", "message:follow")


@schemathesis.hook
def before_call(context: Any, case: Any, kwargs: dict[str, Any]) -> None:
    """Set the limit of the caller: always for streams that end only with their reader, else where it is too long."""
    if any(name in case.path for name in ENDLESS):
        case.headers["Ksi-Timeout"] = "0.05"
    elif _seconds(case.headers.get("Ksi-Timeout", "inf")) > PATIENCE:
        case.headers["Ksi-Timeout"] = f"{PATIENCE}"


def _seconds(said: str) -> float:
    """What a header says; nothing where it is no number, which is to be refused as it is."""
    try:
        return float(said)
    except ValueError:
        return 0.0
