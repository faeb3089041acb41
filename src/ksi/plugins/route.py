"""Routes: rules by which facts become requests of other events, filtered, mapped, enriched and split.

A route follows the log from where it was added, by a checkpoint of its own, so it misses nothing over a restart. Each
forward is a request ``route:forward`` under an id that comes out of the fact's: shown twice, a fact is forwarded once.
It acts with the rights of whoever added the route, and what it was given and made stands in ``route/<name>``.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from ksi.core import canonical, ids
from ksi.core.clock import Clock, utc
from ksi.core.envelope import EventEnvelope, trace_of
from ksi.core.errors import (
    ConflictError,
    KSIError,
    OverloadedError,
    UnknownEventError,
    UnsupportedError,
    ValidationError,
)
from ksi.core.events import Filter, Position, RecordedEvent, fact
from ksi.core.patterns import matches
from ksi.core.ports import EventLog
from ksi.core.views import View, ViewWriter
from ksi.kernel.context import EventContext, require, require_main
from ksi.kernel.declare import event, observer, query
from ksi.kernel.door import Session
from ksi.kernel.plugin import AsyncPlugin
from ksi.kernel.registry import EventRegistry
from ksi.kernel.router import Router
from ksi.plugins.references import EventReference, find_event
from ksi.plugins.shapes import Limit
from ksi.plugins.transform import check_templates, filled, items_of, scope_of
from ksi.store.where import compile_where

ROUTES_MAX = 100
HOPS_MAX = 16
"""Events that may stand between the origin of a run and a fact: one that came further goes in a circle."""
OWN = "route:"
"""The plugin's own facts are not forwarded: each forward would bring the next."""
RETRY_DELAY = 1.0
"""Seconds before a fact that could not be forwarded because the daemon takes nothing is tried again."""
TimeToLive = Annotated[float, Meta(gt=0, le=366 * 86_400, description="seconds after which it is removed")]
RouteName = Annotated[str, Meta(min_length=1, max_length=100, pattern=r"^[\w.-]+$", description="as in alarm")]


class Lookup(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A query whose answer the mapping may use; ``data`` is a template."""

    query: str
    data: dict[str, Any] = {}


class Rule(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What becomes of which facts. Templates hold paths in brackets: ``{data.key}``, ``{name}``, ``{item}``."""

    pattern: Annotated[str, Meta(min_length=1, description="names of facts, as in state:*")]
    target: Annotated[str, Meta(min_length=1, description="the command that is asked")]
    when: Annotated[str | None, Meta(description='only if it holds, as in data.value > 3 and name == "a:b"')] = None
    each: Annotated[str | None, Meta(description="path of a list: a request for each of its items")] = None
    enrich: Annotated[dict[str, Lookup], Meta(description="answers of queries, as {enriched.NAME}")] = {}
    mapping: Annotated[
        dict[str, Any] | None, Meta(description="template of the payload; else the data, or the item")
    ] = None


class AddRoute(Rule, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A rule with a name."""

    name: RouteName
    ttl: TimeToLive | None = None


class KnownRoute(msgspec.Struct, frozen=True, kw_only=True):
    """A rule in force since ``position``, with the rights of ``principal``; ``forwarded`` counts what it has asked."""

    name: str
    rule: Rule
    principal: str
    position: int
    expires: datetime | None
    forwarded: int = 0


class Routes(msgspec.Struct, frozen=True):
    """A page of them, by name; ``next`` is None on the last one."""

    routes: list[KnownRoute]
    next: str | None


class Forwarded(msgspec.Struct, frozen=True):
    """How many requests were made of a fact."""

    route: str
    requests: int


class Explained(msgspec.Struct, frozen=True):
    """What a route makes of a fact. Where it makes nothing ``why`` says so."""

    route: str
    why: str | None
    target: str
    payloads: list[dict[str, Any]]


class Explanation(msgspec.Struct, frozen=True):
    """What each route makes of a fact."""

    name: str
    position: int
    routes: list[Explained]


# ── facts ────────────────────────────────────────────────────────────────────────────────────────────────────────────
@fact("route:was_added")
class RouteWasAdded(msgspec.Struct, frozen=True):
    name: str
    rule: Rule
    principal: str
    expires: datetime | None


@fact("route:was_removed")
class RouteWasRemoved(msgspec.Struct, frozen=True):
    name: str


@fact("route:fact_was_forwarded")
class FactWasForwarded(msgspec.Struct, frozen=True):
    """The fact at ``position`` became so many requests of ``target``."""

    name: str
    position: int
    target: str
    requests: int


@fact("route:circle_was_cut")
class CircleWasCut(msgspec.Struct, frozen=True):
    """The fact at ``position`` came over too many events to be forwarded once more."""

    name: str
    position: int
    hops: int


class RouteView(View[KnownRoute]):
    """Routes in force."""

    name = "routes"
    query = (Filter(names=("route:was_added", "route:was_removed", "route:fact_was_forwarded")),)
    record = KnownRoute
    key = ("name",)

    def apply(self, writer: ViewWriter, event: RecordedEvent) -> None:
        name = event.data["name"]
        if event.name == "route:was_added":
            said = event.into(RouteWasAdded)
            added = KnownRoute(
                name=name, rule=said.rule, principal=said.principal, position=event.position, expires=said.expires
            )
            writer.put(added)
        elif event.name == "route:was_removed":
            writer.delete(name)
        elif (known := writer.get(name)) is not None:
            writer.put(msgspec.structs.replace(known, forwarded=known.forwarded + event.data["requests"]))


class RoutePlugin(AsyncPlugin):
    """Keeps rules, and a task for each that follows the log."""

    name = "route"
    views = (RouteView,)

    async def initialize(self) -> None:
        services = self.host.services
        self._log, self._router, self._clock = services.get(EventLog), services.get(Router), services.get(Clock)
        self._registry = services.get(EventRegistry)
        self._followers: dict[tuple[str, int], asyncio.Task[None]] = {}
        self.host.spawn(self._begin())

    # ── rules ────────────────────────────────────────────────────────────────────────────────────────────────────────
    @event(
        "route:add",
        key=lambda request: "routes",
        errors=["conflict", "unknown_event", "unsupported", "overloaded"],
        examples=[
            {"name": "alarm", "pattern": "state:value_was_set", "when": 'data.key == "heat" and data.value > 90',
             "target": "state:set", "mapping": {"key": "alarm", "value": "{data.value} degrees"}},
        ],
    )  # fmt: skip
    async def add(self, request: AddRoute, context: EventContext) -> KnownRoute:
        """Ask another event for each fact that fits, from now on, with the rights of whoever adds the route."""
        require_main(context, "routes")
        self._check(request)
        known = (await context.view(RouteView).scan(None, limit=ROUTES_MAX)).records
        if any(route.name == request.name for route in known):
            raise ConflictError(f"route {request.name!r} is there already: remove it first")
        if len(known) >= ROUTES_MAX:
            raise OverloadedError("the routes", limit=ROUTES_MAX)
        expires = None if request.ttl is None else context.now() + timedelta(seconds=request.ttl)
        rule = Rule(**{field: getattr(request, field) for field in Rule.__struct_fields__})
        head = await self._log.head() or 0
        context.append(_stream(request.name), RouteWasAdded(request.name, rule, context.principal, expires))
        return KnownRoute(name=request.name, rule=rule, principal=context.principal, position=head, expires=expires)

    @event(
        "route:remove", key=lambda request: "routes", errors=["not_found", "unsupported"], examples=[{"name": "alarm"}]
    )
    async def remove(self, name: RouteName, context: EventContext) -> KnownRoute:
        """Forward nothing more by a route."""
        require_main(context, "routes")
        known = require(await context.view(RouteView).get(name), "route", name)
        context.append(_stream(name), RouteWasRemoved(name))
        return known

    @query("route:list", examples=[{}, {"limit": 10}])
    async def list_routes(
        self,
        context: EventContext,
        after: Annotated[str | None, Meta(description="next of the page before")] = None,
        limit: Limit = 100,
    ) -> Routes:
        """List the routes by name, a page at a time."""
        page = await context.view(RouteView).scan(None, after=after, limit=limit)
        return Routes(list(page.records), page.next)

    @query("route:explain", errors=["not_found", "ambiguous"], examples=[{"event": "@1234"}])
    async def explain(self, event: EventReference, context: EventContext) -> Explanation:
        """Say what each route makes of a fact, and why it makes nothing; nothing is asked."""
        found = await find_event(self._log, event)
        routes = (await context.view(RouteView).scan(None, limit=ROUTES_MAX)).records
        return Explanation(
            found.name, found.position, [await self._explained(route, found, context) for route in routes]
        )

    # ── facts ────────────────────────────────────────────────────────────────────────────────────────────────────────
    @event("route:forward", errors=["not_found"], examples=[{"name": "alarm", "position": 1234}])
    async def forward(
        self, name: RouteName, position: Annotated[int, Meta(ge=1, lt=10**18)], context: EventContext
    ) -> Forwarded:
        """Ask what a route makes of a fact. Routes do it by themselves; by hand it repeats one that failed."""
        route = require(await context.view(RouteView).get(name), "route", name)
        found = require(await self._log.at(Position(position)), "event", f"@{position}")
        if context.envelope.hops > HOPS_MAX:
            context.append(_stream(name), CircleWasCut(name, position, context.envelope.hops))
            return Forwarded(name, 0)
        payloads = await self._payloads(route.rule, found, context)
        for payload in payloads:
            context.emit(route.rule.target, payload)
        context.append(_stream(name), FactWasForwarded(name, position, route.rule.target, len(payloads)))
        return Forwarded(name, len(payloads))

    async def _payloads(self, rule: Rule, found: RecordedEvent, context: EventContext) -> list[dict[str, Any]]:
        scopes = items_of(scope_of(found), rule.each)
        return [await self._payload(rule, scope, context) for scope in scopes]

    async def _payload(self, rule: Rule, scope: dict[str, Any], context: EventContext) -> dict[str, Any]:
        if rule.mapping is None:
            data = scope["data"] if rule.each is None else scope["item"]
            if not isinstance(data, dict):
                raise ValidationError("what is no object can not be a payload: give the route a mapping")
            return data
        asked = {}
        for name, lookup in rule.enrich.items():
            asked[name] = await context.request(lookup.query, filled(lookup.data, scope))
        payload: dict[str, Any] = filled(rule.mapping, {**scope, "enriched": asked})
        return payload

    async def _explained(self, route: KnownRoute, found: RecordedEvent, context: EventContext) -> Explained:
        why, payloads = None, []
        if not matches(route.rule.pattern, found.name):
            why = f"{found.name} does not fit {route.rule.pattern}"
        elif found.name.startswith(OWN):
            why = "facts of routes are not forwarded"
        elif not _predicate(route.rule)(found):
            why = f"it does not hold: {route.rule.when}"
        else:
            try:
                payloads = await self._payloads(route.rule, found, context)
            except KSIError as error:
                why = error.message
        return Explained(route.name, why, route.rule.target, payloads)

    def _check(self, rule: Rule) -> None:
        """Raises what is wrong with it before it is ever used."""
        self._find(rule.target, is_query=False)
        for lookup in rule.enrich.values():
            self._find(lookup.query, is_query=True)
        compile_where(rule.when or "true")
        check_templates([rule.mapping, [lookup.data for lookup in rule.enrich.values()], f"{{{rule.each or 'data'}}}"])

    def _find(self, name: str, *, is_query: bool) -> None:
        spec = self._registry.events.get(name)
        if spec is None:
            raise UnknownEventError(name, suggestions=[])
        if (spec.declaration.durability == "none") is not is_query:
            raise UnsupportedError(f"{name!r} is {'no' if is_query else 'a'} query")

    # ── following ────────────────────────────────────────────────────────────────────────────────────────────────────
    @observer("route:was_*")
    async def changed(self, event: RecordedEvent, context: EventContext) -> None:
        """Follow exactly the routes that there are."""
        await self._settle()

    async def _begin(self) -> None:
        await self.host.up()
        await self._settle()

    async def _settle(self) -> None:
        page = await self._router.journal.view(RouteView).scan(None, limit=ROUTES_MAX)
        wanted = {(route.name, route.position): route for route in page.records}
        for gone in self._followers.keys() - wanted.keys():
            self._followers.pop(gone).cancel()
        for key in wanted.keys() - self._followers.keys():
            self._followers[key] = self.host.spawn(self._follow(wanted[key]))

    async def _follow(self, route: KnownRoute) -> None:
        # A route that comes again under its name begins anew: it has another position.
        subscriber = f"route/{route.name}@{route.position}"
        start = await self._log.checkpoint(subscriber) or Position(route.position)
        holds = _predicate(route.rule)
        left = None if route.expires is None else max(0.0, (route.expires - utc(self._clock.time_us())).total_seconds())
        try:
            async with asyncio.timeout(left):
                subscription = self._log.subscribe(
                    (Filter(names=(route.rule.pattern,)),), after=start, subscriber=subscriber
                )
                async with subscription as events:
                    async for found in events:
                        if not found.is_erased and not found.name.startswith(OWN) and holds(found):
                            await self._forwarded(route, found)
                        await events.ack(found)
        except TimeoutError:
            await self.host.request("route:remove", {"name": route.name})

    async def _forwarded(self, route: KnownRoute, found: RecordedEvent) -> None:
        """Until it has an outcome: its error is recorded too, and the next fact follows."""
        while True:
            try:
                await self._asked(route, found)
            except KSIError as error:
                if error.retryable:
                    await asyncio.sleep(RETRY_DELAY)
                    continue
                self.host.logger.warning("route %s: @%d was not forwarded: %s", route.name, found.position, error)
            return

    async def _asked(self, route: KnownRoute, found: RecordedEvent) -> None:
        answer: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def done(token: Any, raw: bytes | None, error: KSIError | None) -> None:
            if not answer.done():
                answer.set_exception(error) if error is not None else answer.set_result(None)

        session = Session(principal=route.principal, source="plugin:route")
        self._router.dispatch(_request(route, found), session, done, None)
        await answer


def _request(route: KnownRoute, found: RecordedEvent) -> EventEnvelope:
    """Caused by the fact, in its run and trace, with the rights of the route."""
    trace_id, _ = trace_of(found.metadata.get("traceparent"))
    cause = found.cause
    return EventEnvelope(
        name="route:forward",
        raw=canonical.encode({"name": route.name, "position": found.position}),
        principal=route.principal,
        source="plugin:route",
        branch=found.branch,
        id=ids.derived(found.event_id.bytes, "route", route.name, route.position),
        correlation=found.correlation_id,
        cause=found.event_id.bytes,
        hops=int(found.metadata.get("hops", 0)) + 1,
        subject=found.subject,
        traceparent=None if trace_id is None or cause is None else f"00-{trace_id}-{cause[8:].hex()}-01",
    )


def _predicate(rule: Rule) -> Callable[[RecordedEvent], bool]:
    """Whether a fact fulfils the condition."""
    if rule.when is None:
        return lambda found: True
    holds = compile_where(rule.when)
    return lambda found: holds(scope_of(found))


def _stream(name: str) -> str:
    return f"route/{name}"
