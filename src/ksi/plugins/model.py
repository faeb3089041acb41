"""The models that the providers offer, and the processes of those that run here."""

from __future__ import annotations

import msgspec

from ksi.core.errors import NotFoundError
from ksi.kernel.context import EventContext
from ksi.kernel.declare import event, query
from ksi.kernel.plugin import AsyncPlugin
from ksi.providers.desk import Desk, RunsHere


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


class StoppedModel(msgspec.Struct, frozen=True):
    """``was_running``: whether there was a process to stop."""

    provider: str
    was_running: bool


class Model(AsyncPlugin):
    """Lists models, and stops those that take memory here."""

    name = "model"

    @query("model:list")
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


def _pid(desk: Desk, provider: str) -> int | None:
    model = desk.provider(provider)
    return model.pid if isinstance(model, RunsHere) else None
