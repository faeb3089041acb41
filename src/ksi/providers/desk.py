"""The desk: the one place that knows all providers, and who may use them when.

There is one for each daemon; it outlives generations of plugins. A completion opens a :class:`Ticket` and closes it
with its answer. In between it waits, where it belongs to a conversation, for its turn there (first come, first served,
so that a conversation never forks), and then for one of its provider's places (higher priority first, with aging).
"""

from __future__ import annotations

import asyncio
import difflib
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Collection, Iterable, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from typing import Any, Literal, Protocol, runtime_checkable

import msgspec

from ksi.core.errors import (
    ConflictError,
    KSIError,
    NotFoundError,
    ProviderError,
    ProviderOverloadedError,
    RateLimitedError,
    ValidationError,
)
from ksi.core.threads import settle
from ksi.kernel.keys import Holder, Keys
from ksi.providers.base import AnyChunk, ModelInfo, Provider, Usage
from ksi.providers.prices import Price, price_of
from ksi.providers.timeouts import DEFAULT_TIMEOUTS, Timeouts

CONCURRENT = 4
QUEUE_SIZE_MAX = 256
RETRY_AFTER_MAX = 30.0
REST_MIN, REST_MAX = 0.5, 300.0
"""Seconds that a provider is left alone, whatever it said: some say 0, and nobody is to be forgotten for a day."""


class Offer(msgspec.Struct, frozen=True, kw_only=True):
    """A provider that may be asked: made at its first use, ``concurrent`` answers at the same time.

    ``models`` are known without asking it; the first of them is used where a request names none. ``is_open``: it may
    have models that nobody listed, and says itself which it has not. ``is_configured``: somebody set it up; one that is
    open and was not is never asked for a model that might be anybody's. ``overhead_tokens``: so many at most it reads
    beside what it was sent.
    """

    name: str
    make: Callable[[], Provider]
    models: tuple[str, ...] = ()
    concurrent: int = CONCURRENT
    is_open: bool = False
    is_configured: bool = False
    overhead_tokens: int = 0


class Choice(msgspec.Struct, frozen=True):
    """Who answers a request."""

    provider: Provider
    model: str

    async def sha256(self) -> str | None:
        """That of the model's file, in hex, where it lies here."""
        if not isinstance(self.provider, RunsHere):
            return None
        return next((info.sha256 for info in await self.provider.models() if info.name == self.model), None)


@runtime_checkable
class RunsHere(Protocol):
    """A provider whose model runs in a child process of the daemon."""

    @property
    def pid(self) -> int | None: ...
    async def is_idle(self) -> bool: ...


class Ticket:
    """One completion, from its request to its answer.

    Args:
        completion: Id of the request, as text; ``run`` is its correlation id.
        root: The completion that this one goes on with; itself where it goes on with none.
        cancel: Stops it.
    """

    parent: Holder | None = None
    above: Holder | None = None

    def __init__(
        self,
        completion: str,
        run: str,
        *,
        root: str,
        cancel: Callable[[], None],
        conversation: str | None = None,
        priority: int = 0,
    ) -> None:
        self.completion = completion
        self.run = run
        self.root = root
        self.cancel = cancel
        self.conversation = conversation
        self.priority = priority
        self.rank = 0
        self.status: Literal["queued", "running"] = "queued"
        self.held: list[str] = []
        self.ended: asyncio.Future[tuple[bytes | None, KSIError | None]] = asyncio.get_running_loop().create_future()


class Spent(msgspec.Struct):
    """What completions of one provider have used; ``cost`` in micro-dollars, of what has a known price."""

    input_tokens: int = 0
    output_tokens: int = 0
    cost: int = 0


class Desk:
    """See the module. ``default`` names the provider that answers requests which name neither provider nor model."""

    def __init__(
        self,
        offers: Iterable[Offer],
        *,
        default: str,
        queue_size_max: int = QUEUE_SIZE_MAX,
        timeouts: Timeouts = DEFAULT_TIMEOUTS,
        prices: Mapping[str, Price] | None = None,
        failover: Sequence[str] = (),
        retry_after_max: float = RETRY_AFTER_MAX,
    ) -> None:
        self.offers = {offer.name: offer for offer in offers}
        self.default = default
        self.timeouts = timeouts
        self.failover = tuple(failover)
        self.retry_after_max = retry_after_max
        self.tickets: dict[str, Ticket] = {}
        self.spent: dict[str, Spent] = {}
        """By provider, since the daemon's start."""
        self._prices = prices or {}
        self._queue_size_max = queue_size_max
        self._providers: dict[str, Provider] = {}
        self._listed: dict[str, set[str]] = {}
        self._unlisted: set[str] = set()
        self._rests_until: dict[str, float] = {}
        self._keys = Keys()
        self._users = 0

    # ── who answers ──────────────────────────────────────────────────────────────────────────────────────────────────
    def provider(self, name: str) -> Provider:
        """The provider with this name, made now where this is its first use. Raises NotFoundError."""
        offer = self.offers.get(name)
        if offer is None:
            raise NotFoundError("provider", name, suggestions=_alike(name, self.offers))
        if name not in self._providers:
            self._providers[name] = offer.make()
        return self._providers[name]

    async def choose(self, provider: str | None, model: str | None) -> Choice:
        """Who answers a request that names these, or not. Lists of models are asked for only where a name needs it.

        Raises:
            NotFoundError: Nobody has this name, or this model.
            ValidationError: The provider has no model of its own choice.
        """
        if model is None:
            name = provider or self.default
            return Choice(self.provider(name), self._first_model(name))
        if provider is not None and self.provider(provider) and self.offers[provider].is_open:
            return Choice(self.provider(provider), model)  # its own refusal says what it has not
        names = self._askable() if provider is None else [provider]
        found = await self._whose(model, names)
        if found is None:
            known = [known for name in names for known in self._known(name)]
            raise NotFoundError("model", model, suggestions=_alike(model, known))
        return Choice(self.provider(found), model)

    async def models(self) -> list[ModelInfo]:
        """What can be asked for. Of a provider that can not say it now those are named that are known of it."""
        found: list[ModelInfo] = []
        for name in self.offers:
            if name not in self._askable():
                continue
            try:
                found += await self.provider(name).models()
            except ProviderError:
                found += [ModelInfo(name=model, provider=name) for model in self.offers[name].models]
        return found

    def _first_model(self, name: str) -> str:
        offer = self.offers.get(name)
        if offer is not None and not offer.models:
            raise ValidationError(f"provider {name!r} has no model of its own choice: name one")
        return offer.models[0] if offer is not None else ""

    def _askable(self) -> list[str]:
        """Those who may have a model that was named alone."""
        offers = self.offers.values()
        others = [offer.name for offer in offers if offer.is_configured or not offer.is_open]
        return list(dict.fromkeys([self.default, *others]))

    async def _whose(self, model: str, names: Sequence[str]) -> str | None:
        """Who has the model; where nobody says so, the first that could not be asked for its list."""
        known = next((name for name in names if model in self._known(name)), None)
        if known is not None:
            return known
        for name in names:
            if await self._lists(name, model):
                return name
        return next((name for name in names if name in self._unlisted), None)

    def _known(self, name: str) -> Collection[str]:
        return (*self.offers[name].models, *self._listed.get(name, ()))

    async def _lists(self, name: str, model: str) -> bool:
        """Whether the provider lists the model. One that has no list is asked for it once only."""
        if name in self._unlisted:
            return False
        try:
            self._listed[name] = {info.name for info in await self.provider(name).models()}
        except ProviderError:
            self._unlisted.add(name)
            return False
        return model in self._listed[name]

    async def heeding(self, provider: str, chunks: AsyncGenerator[AnyChunk, None]) -> AsyncGenerator[AnyChunk, None]:
        """``chunks``, which this owns; where they end with a word of when to come back, that is kept."""
        async with aclosing(chunks):
            try:
                async for chunk in chunks:
                    yield chunk
            except (RateLimitedError, ProviderOverloadedError) as error:
                if error.retry_after is not None:
                    self._rest(provider, error.retry_after)
                raise

    def _rest(self, provider: str, seconds: float) -> None:
        until = asyncio.get_running_loop().time() + min(max(seconds, REST_MIN), REST_MAX)
        self._rests_until[provider] = max(until, self._rests_until.get(provider, 0.0))

    def rests(self, provider: str) -> float:
        """Seconds for which the provider still wants to be left alone."""
        return max(0.0, self._rests_until.get(provider, 0.0) - asyncio.get_running_loop().time())

    def load(self, provider: str) -> tuple[int, int]:
        """How many answers it gives now, and how many wait for it."""
        return self._keys.holds(f"provider {provider}")

    def known(self, provider: str) -> list[str]:
        """The models of the provider that are known without asking it."""
        return sorted(set(self._known(provider)))

    # ── when ─────────────────────────────────────────────────────────────────────────────────────────────────────────
    def open(self, ticket: Ticket) -> None:
        """Take the completion in.

        Raises:
            ConflictError: Another one goes on with the same answer.
        """
        if any(other.root == ticket.root for other in self.tickets.values()):
            raise ConflictError(f"completion {ticket.root} is under way", completion=ticket.root)
        self.tickets[ticket.completion] = ticket

    def close(self, ticket: Ticket, raw: bytes | None, error: KSIError | None) -> None:
        """The completion has its answer, and it is on disk: the next of its conversation sees it."""
        self.tickets.pop(ticket.completion, None)
        for key in ticket.held:
            self._keys.release(key, ticket)
        ticket.held = []
        settle(ticket.ended, (raw, error), None)

    async def turn(self, ticket: Ticket) -> None:
        """Wait until all that came before in this conversation have ended; kept until the ticket is closed.

        Raises:
            OverloadedError: Too many wait already.
        """
        if ticket.conversation is not None:
            key = f"conversation {ticket.conversation}"
            await self._acquire(key, ticket, 1)
            ticket.held.append(key)

    @asynccontextmanager
    async def place(self, ticket: Ticket, provider: str) -> AsyncIterator[None]:
        """One of the provider's places.

        Raises:
            OverloadedError: Too many wait already.
        """
        key = f"provider {provider}"
        ticket.rank = ticket.priority
        offer = self.offers.get(provider)  # none in a replay of what a provider said that is not set up any more
        await self._acquire(key, ticket, CONCURRENT if offer is None else offer.concurrent)
        ticket.status = "running"
        try:
            yield
        finally:
            self._keys.release(key, ticket)

    async def _acquire(self, key: str, ticket: Ticket, capacity: int) -> None:
        got: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        begin = lambda: settle(got, None, None)  # noqa: E731  # one expression, one use
        self._keys.acquire(key, ticket, begin, capacity=capacity, queued_max=self._queue_size_max)
        try:
            await got
        except asyncio.CancelledError:
            if not self._keys.forget(key, ticket):
                self._keys.release(key, ticket)
            raise

    def price(self, provider: str, model: str) -> Price | None:
        """What the model costs; None where nobody knows it."""
        return price_of(provider, model, self._prices)

    def count(self, provider: str, model: str, usage: Usage) -> None:
        """A completion has used so much."""
        spent = self.spent.setdefault(provider, Spent())
        spent.input_tokens += usage.input_tokens
        spent.output_tokens += usage.output_tokens
        price = self.price(provider, model)
        if price is not None:
            spent.cost += price.cost(input_tokens=usage.input_tokens, output_tokens=usage.output_tokens)

    # ── its own life ─────────────────────────────────────────────────────────────────────────────────────────────────
    def adopt(self) -> None:
        """A generation of a plugin uses it from now on."""
        self._users += 1

    async def release(self) -> bool:
        """A generation is gone. With the last one the providers let go of what they hold, and it answers True."""
        self._users -= 1
        if self._users > 0:
            return False
        providers, self._providers = list(self._providers.values()), {}
        await asyncio.gather(*(provider.aclose() for provider in providers))
        return True


def _alike(name: str, known: Iterable[Any]) -> list[str]:
    return difflib.get_close_matches(name, list(dict.fromkeys(known)), n=3)
