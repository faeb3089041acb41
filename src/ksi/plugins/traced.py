"""What traces add to the tree of a run: the client above, with its span, and the commits below. Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from ksi.core.tracing import Span
from ksi.plugins.runs import Node, Run, Status


def traced_tree(run: Run, spans: Sequence[Span]) -> list[Node]:
    """The roots of ``run``, each below the client that said its span, and below each request its measured commits."""
    commits = defaultdict[str, list[Span]](list)
    for span in spans:
        if span.kind == "internal" and span.name == "commit":
            commits[span.event_id].append(span)
    for request in run.requests.values():
        if made := commits.get(request.event_id):
            request.children.append(_commits(made, request))
    return [_below_client(root, run) for root in run.roots]


def _below_client(root: Node, run: Run) -> Node:
    client = run.clients.get(root.event_id)
    if client is None:
        return root
    span_id, source = client
    return Node(span_id, f"client {source}", "client", root.status, root.position, None, None, 0, [root])


def _commits(made: Sequence[Span], request: Node) -> Node:
    """One line for all of a request: a stream has one for each turn of the loop."""
    name = "commit" if len(made) == 1 else f"{len(made)} commits"
    duration_ms = sum(span.duration_us for span in made) / 1000
    failed = any(span.error is not None for span in made)
    status: Status = "error" if failed else "ok"
    return Node(made[-1].span_id, name, "commit", status, request.position, duration_ms, None, 0, [])
