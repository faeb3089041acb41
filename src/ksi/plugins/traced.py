"""What traces add to the tree of a run: the client above, with its span, and the commits below. Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from ksi.core.tracing import Span
from ksi.plugins.runs import Node, Run, Status


def traced_tree(run: Run, spans: Sequence[Span]) -> list[Node]:
    """The roots of ``run``, each below the client that said its span.

    Below each request its measured commits, and what it asked for in vain: that is recorded nowhere else.
    """
    commits, refusals = defaultdict[str, list[Span]](list), defaultdict[str, list[Span]](list)
    recorded = {request.event_id for request in run.requests.values()}
    for span in spans:
        if span.kind == "internal" and span.name == "commit":
            commits[span.event_id].append(span)
        elif span.kind == "server" and span.error is not None and span.event_id not in recorded:
            refusals[span.parent_id or ""].append(span)
    for event_id, request in run.requests.items():
        request.children += (_refused(span, request) for span in refusals.get(event_id.bytes[8:].hex(), ()))
        if made := commits.get(request.event_id):
            request.children.append(_commits(made, request))
    return [_below_client(root, run) for root in run.roots]


def _below_client(root: Node, run: Run) -> Node:
    client = run.clients.get(root.event_id)
    if client is None:
        return root
    span_id, source = client
    return Node(span_id, f"client {source}", "client", root.status, root.position, None, None, 0, [root])


def _refused(span: Span, request: Node) -> Node:
    return Node(span.event_id, span.name, "request", "error", request.position, span.duration_us / 1000, None, 0, [])


def _commits(made: Sequence[Span], request: Node) -> Node:
    """One line for all of a request: a stream has one for each turn of the loop."""
    name = "commit" if len(made) == 1 else f"{len(made)} commits"
    duration_ms = sum(span.duration_us for span in made) / 1000
    failed = any(span.error is not None for span in made)
    status: Status = "error" if failed else "ok"
    return Node(made[-1].span_id, name, "commit", status, request.position, duration_ms, None, 0, [])
