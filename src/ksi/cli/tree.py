"""The causes of a run as a tree, in plain text."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from ksi.cli.output import duration, status, tokens_of


def tree_lines(nodes: Sequence[dict[str, Any]]) -> Iterator[str]:
    """``nodes`` as ``correlation:tree`` answers them, each below its cause.

    ::

        agent:send_message  ok  1.2 s  @41
        ├─ completion:create  ok  1.1 s  45 tokens  @42
        └─ conversation:message_added  @90
    """
    for node in nodes:
        yield _label(node)
        yield from _below(node["children"], "")


def _below(nodes: Sequence[dict[str, Any]], margin: str) -> Iterator[str]:
    for node in nodes:
        is_last = node is nodes[-1]
        yield f"{margin}{'└─ ' if is_last else '├─ '}{_label(node)}"
        yield from _below(node["children"], margin + ("   " if is_last else "│  "))


def _label(node: dict[str, Any]) -> str:
    # A fact has no end of its own, so its status would say nothing.
    said = status(node["status"]) if node["kind"] != "fact" and node.get("status") else ""
    parts = (node["name"], said, duration(node.get("duration_ms")), tokens_of(node), f"@{node['position']}")
    return "  ".join(filter(None, parts))
