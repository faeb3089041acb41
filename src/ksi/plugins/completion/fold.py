"""What ``completion/<id>`` is, out of its facts and chunks."""

from __future__ import annotations

import msgspec

from ksi.core.events import RecordedEvent
from ksi.core.views import JsonState
from ksi.plugins.completion.view import CATEGORY, CompletionEnded, CompletionFailedOver, CompletionStarted
from ksi.providers.base import Usage


class CompletionState(msgspec.Struct, frozen=True, kw_only=True):
    """``ended`` is the reason of its end; None while it runs, or where a crash cut it off."""

    run: str | None = None
    provider: str | None = None
    model: str | None = None
    conversation: str | None = None
    resumes: str | None = None
    text: str = ""
    ended: str | None = None
    usage: Usage | None = None


class CompletionFold(JsonState[CompletionState]):
    """Implements :class:`ksi.core.views.EntityFold`."""

    category = CATEGORY
    version = 2
    state = CompletionState
    kinds = ("fact", "chunk")

    def initial(self) -> CompletionState:
        return CompletionState()

    def apply(self, state: CompletionState, event: RecordedEvent) -> CompletionState:
        if event.kind == "chunk":
            return msgspec.structs.replace(state, text=state.text + event.data["text"])
        match event.name:
            case "completion:started":
                started = event.into(CompletionStarted)
                return msgspec.structs.replace(
                    state,
                    run=started.run,
                    provider=started.provider,
                    model=started.model,
                    conversation=started.conversation,
                    resumes=started.resumes,
                )
            case "completion:failed_over":
                asked = event.into(CompletionFailedOver)
                return msgspec.structs.replace(state, provider=asked.provider, model=asked.model)
            case "completion:finished" | "completion:interrupted":
                ended = event.into(CompletionEnded)
                return msgspec.structs.replace(state, ended=ended.reason, usage=ended.usage)
        return state
