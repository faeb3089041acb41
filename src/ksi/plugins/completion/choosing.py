"""Who answers: the provider that is asked for, and where it can not, the next of the chain."""

from __future__ import annotations

import asyncio

import msgspec

from ksi.core.errors import (
    KSIError,
    ModelUnavailableError,
    ProviderOverloadedError,
    ProviderTimeoutError,
    RateLimitedError,
    StreamInterruptedError,
    UnsupportedError,
)
from ksi.kernel.context import EventContext
from ksi.plugins.completion.past import Asked
from ksi.plugins.completion.shapes import CreateCompletion
from ksi.providers.desk import Choice, Desk
from ksi.providers.prices import Price

CHOICE = "llm:choose"
PASSED_ON = (
    ModelUnavailableError,
    ProviderOverloadedError,
    ProviderTimeoutError,
    RateLimitedError,
    StreamInterruptedError,
)
"""Errors after which another provider may be asked, as long as nothing was said."""


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What is to be completed. One that is not ``is_bounded`` by who asks may be cut shorter by a budget.

    A resume also has ``so_far``, the text that is there, ``resumes``, the completion that wrote the last of it,
    ``asked``, what was sent for it (None where its provider was never called), and ``is_spoken``: whether what was said
    to it stands in its conversation.
    """

    payload: CreateCompletion
    max_tokens: int
    is_bounded: bool
    so_far: str = ""
    resumes: str | None = None
    asked: Asked | None = None
    is_spoken: bool = False


class Chosen(msgspec.Struct, frozen=True, kw_only=True):
    """Who answers: what was seen of the providers is recorded, so that a replay needs none of them."""

    provider: str
    model: str
    sha256: str | None
    price: Price | None = None
    context_window: int | None = None
    overhead_tokens: int = 0


class Choosing:
    """The choice of one completion. Who has refused is asked again only when it said when, and that is soon."""

    def __init__(self, context: EventContext, desk: Desk, plan: Plan) -> None:
        self._context = context
        self._desk = desk
        self._plan = plan
        self._refused: dict[str, KSIError] = {}
        """By name; in a rerun these are known before any provider is."""
        self._waited = 0.0

    def refuse(self, choice: Chosen, error: KSIError) -> None:
        """``choice`` could not answer."""
        self._refused[choice.provider] = error

    async def next(self) -> Chosen:
        """Who is asked now.

        Raises:
            KSIError: What the last one said, where nobody is left; and see :meth:`~ksi.providers.desk.Desk.choose`.
            UnsupportedError: The provider can not go on inside an answer.
        """
        provider, model = self._wanted()
        wanted = {"provider": provider, "model": model}
        refused = {"refused": list(self._refused)} if self._refused else {}
        chosen: Chosen = await self._context.observe(CHOICE, wanted | refused, self._choose, result=Chosen)
        self._refused.pop(chosen.provider, None)
        return chosen

    async def _choose(self) -> Chosen:
        candidates = await self._candidates()
        while (choice := self._free(candidates)) is None:
            await self._wait(candidates)
        if self._plan.so_far and not choice.provider.capabilities.continues:
            raise UnsupportedError(
                f"{choice.provider.name} can not go on inside an answer: send the prompt again with completion:create"
            )
        name = choice.provider.name
        price = self._desk.price(name, choice.model)
        return Chosen(
            provider=name,
            model=choice.model,
            sha256=await choice.sha256(),
            price=price,
            context_window=choice.provider.capabilities.context_window,
            overhead_tokens=self._desk.offers[name].overhead_tokens,
        )

    async def _candidates(self) -> dict[str, Choice]:
        """By provider, the first is that which was asked for."""
        first = await self._desk.choose(*self._wanted())
        others = [await self._desk.choose(*named) for named in self._chain()]
        candidates = {first.provider.name: first}
        for choice in others:
            candidates.setdefault(choice.provider.name, choice)
        return candidates

    def _wanted(self) -> tuple[str | None, str | None]:
        payload, asked = self._plan.payload, self._plan.asked
        return (payload.provider, payload.model) if asked is None else (asked.provider, asked.request.model)

    def _chain(self) -> list[tuple[str, str | None]]:
        """Who is named stands alone, if the request does not say otherwise; a begun answer stays where it is."""
        payload = self._plan.payload
        if self._plan.asked is not None:
            return []
        chain = payload.failover
        if chain is None:
            chain = () if payload.provider is not None else self._desk.failover
        return [_named(entry) for entry in chain]

    def _free(self, candidates: dict[str, Choice]) -> Choice | None:
        names = (name for name in candidates if name not in self._refused and not self._desk.rests(name))
        return next((candidates[name] for name in names), None)

    async def _wait(self, candidates: dict[str, Choice]) -> None:
        """Until the first that rests may be asked again. Raises what was said where that is too long."""
        rests = {name: seconds for name in candidates if (seconds := self._desk.rests(name))}
        name = min(rests, key=rests.__getitem__, default=None)
        if name is None or self._waited + rests[name] > self._desk.retry_after_max:
            raise self._last_error(candidates)
        self._waited += rests[name]
        await asyncio.sleep(rests[name])
        self._refused.pop(name, None)

    def _last_error(self, candidates: dict[str, Choice]) -> KSIError:
        if self._refused:
            return list(self._refused.values())[-1]
        name = next(iter(candidates))
        return RateLimitedError("it asked not to be asked now", provider=name, retry_after=self._desk.rests(name))


def _named(entry: str) -> tuple[str, str | None]:
    """Of ``provider`` or ``provider/model``."""
    provider, _, model = entry.partition("/")
    return provider, model or None
