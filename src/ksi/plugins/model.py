"""The providers, the models that they offer, and the processes of those that run here."""

from __future__ import annotations

import msgspec

from ksi.core.errors import NotFoundError
from ksi.kernel.context import EventContext
from ksi.kernel.declare import event, query
from ksi.kernel.plugin import AsyncPlugin
from ksi.providers.desk import Desk, Offer, RunsHere, Spent


class ShownModel(msgspec.Struct, frozen=True, kw_only=True):
    """``pid`` is that of the child process that holds it in memory now; ``sha256`` (hex) that of its file."""

    name: str
    provider: str
    sha256: str | None
    size_bytes: int | None
    context_window: int | None
    pid: int | None


class Models(msgspec.Struct, frozen=True):
    models: list[ShownModel]


class ShownProvider(msgspec.Struct, frozen=True, kw_only=True):
    """``failover`` is its place in the chain, from 1. ``models`` are known without asking it.

    It gives ``running`` answers, and ``waiting`` wait for it; it wants to be left alone for ``rests`` seconds. Tokens
    and ``cost``, in dollars as far as prices are known, are since the daemon's start.
    """

    name: str
    is_default: bool
    is_configured: bool
    failover: int | None
    models: list[str]
    running: int
    waiting: int
    rests: float
    input_tokens: int
    output_tokens: int
    cost: float


class Providers(msgspec.Struct, frozen=True):
    providers: list[ShownProvider]


class StoppedModel(msgspec.Struct, frozen=True):
    """``was_running``: whether there was a process to stop."""

    provider: str
    was_running: bool


class Model(AsyncPlugin):
    """Lists providers and models, and stops those that take memory here."""

    name = "model"

    @query("model:list", examples=({},))
    async def list_models(self) -> Models:
        """List the models that can be asked for."""
        desk = self.host.services.get(Desk)
        return Models(
            [
                ShownModel(
                    name=info.name,
                    provider=info.provider,
                    sha256=info.sha256,
                    size_bytes=info.size_bytes,
                    context_window=info.context_window,
                    pid=_pid(desk, info.provider),
                )
                for info in await desk.models()
            ]
        )

    @query("provider:list", examples=({},))
    async def list_providers(self) -> Providers:
        """List who can be asked for answers, and how busy they are. None of them is asked for it."""
        desk = self.host.services.get(Desk)
        return Providers([_shown(desk, offer) for offer in desk.offers.values()])

    @event("model:stop", errors=("not_found",), examples=({"provider": "local"},))
    async def stop(self, context: EventContext, provider: str = "local") -> StoppedModel:
        """Stop a model's process; answers under way are cut off and can be resumed. Its next use starts it again."""

        async def stop() -> StoppedModel:
            model = self.host.services.get(Desk).provider(provider)
            if not isinstance(model, RunsHere):
                raise NotFoundError("model process of provider", provider)
            was_running = model.pid is not None
            await model.aclose()
            return StoppedModel(provider, was_running)

        stopped: StoppedModel = await context.observe("model:stop", provider, stop, result=StoppedModel)
        return stopped


def _shown(desk: Desk, offer: Offer) -> ShownProvider:
    running, waiting = desk.load(offer.name)
    spent = desk.spent.get(offer.name, Spent())
    chain = [entry.partition("/")[0] for entry in desk.failover]
    return ShownProvider(
        name=offer.name,
        is_default=offer.name == desk.default,
        is_configured=offer.is_configured or not offer.is_open,
        failover=chain.index(offer.name) + 1 if offer.name in chain else None,
        models=desk.known(offer.name),
        running=running,
        waiting=waiting,
        rests=round(desk.rests(offer.name), 1),
        input_tokens=spent.input_tokens,
        output_tokens=spent.output_tokens,
        cost=spent.cost / 1_000_000,
    )


def _pid(desk: Desk, provider: str) -> int | None:
    model = desk.provider(provider)
    return model.pid if isinstance(model, RunsHere) else None
