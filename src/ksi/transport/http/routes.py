"""Which path leads where."""

from __future__ import annotations

from starlette.routing import Route

from ksi.transport.http.app import App, Endpoint, Handler
from ksi.transport.http.events import Requests
from ksi.transport.http.guard import Guard
from ksi.transport.http.metrics import Metrics
from ksi.transport.http.plugged import Plugged
from ksi.transport.http.probes import Probes
from ksi.transport.http.streams import Streams, is_event_name

READS, BEGINS = frozenset({"GET", "HEAD"}), frozenset({"POST"})
ALL = READS | BEGINS | {"PUT", "PATCH", "DELETE"}


def app_of(requests: Requests, guard: Guard, probes: Probes, metrics: Metrics, plugged: Plugged) -> App:
    """The application that serves all of it."""
    streams = Streams(requests)

    def route(method: str, path: str, handler: Handler, *, is_public: bool = False) -> Route:
        return Route(path, Endpoint(handler, guard, is_public=is_public), methods=[method])

    def possible(path: str) -> frozenset[str]:
        """Only queries are read at an event's path; of streams an event is begun, and a stream read."""
        kind, _, name = path.removeprefix("/v1/").partition("/")
        if kind == "events":
            return ALL if requests.is_query(name) else BEGINS
        if kind == "stream":
            return BEGINS if is_event_name(name) else READS
        return ALL

    return App(
        [
            route("POST", "/v1/events/{name}", requests.post),
            route("GET", "/v1/events/{name}", requests.get),
            route("DELETE", "/v1/requests/{event_id}", requests.cancel),
            route("POST", "/v1/stream/{name}", streams.post),
            route("GET", "/v1/stream/{address:path}", streams.resume),
            route("GET", "/v1/subscribe", streams.subscribe),
            route("PUT", "/v1/readers/{reader}", streams.grant),
            route("DELETE", "/v1/readers/{reader}", streams.cancel),
            route("GET", "/metrics", metrics.show),
            route("GET", "/healthz", probes.health, is_public=True),
            route("GET", "/readyz", probes.readiness, is_public=True),
        ],
        plugged,
        guard,
        possible,
    )
