"""Events as tools of language models: a name that their providers take, and a schema with its object at the root."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from typing import Any

_FOREIGN = re.compile(r"[^A-Za-z0-9_-]")
NAME_MAX = 64
"""Characters that providers take."""


def tool_name(event: str) -> str:
    """``state:set`` becomes ``state__set``: letters, digits, ``_`` and ``-`` are taken everywhere."""
    name = _FOREIGN.sub("_", event.replace(":", "__"))
    if len(name) <= NAME_MAX:
        return name
    return f"{name[: NAME_MAX - 9]}_{hashlib.sha256(event.encode()).hexdigest()[:8]}"


def rooted(schema: Mapping[str, Any]) -> dict[str, Any]:
    """``schema`` with its object at the root: many do not look behind a reference there."""
    name = str(schema.get("$ref", "")).rpartition("/")[2]
    definitions = dict(schema.get("$defs", {}))
    if name not in definitions:
        return dict(schema)
    root = dict(definitions[name])
    return root | ({"$defs": definitions} if len(definitions) > 1 else {})
