"""The facts of completions, in ``completion/<id>`` beside their chunks, and the read model of them."""

from __future__ import annotations

from typing import ClassVar, Literal

import msgspec

from ksi.core.events import Filter, RecordedEvent, fact
from ksi.core.views import View, ViewWriter
from ksi.providers.base import Usage

CATEGORY = "completion"


@fact("completion:started")
class CompletionStarted(msgspec.Struct, frozen=True, kw_only=True):
    """Its provider is called now; ``resumes`` is the completion that it goes on with."""

    completion: str
    run: str
    provider: str
    model: str
    conversation: str | None
    resumes: str | None


@fact("completion:failed_over")
class CompletionFailedOver(msgspec.Struct, frozen=True, kw_only=True):
    """``refused_by`` could not answer, for ``reason``, the code of an error; ``provider`` is asked now."""

    completion: str
    provider: str
    model: str
    refused_by: str
    reason: str


class CompletionEnded(msgspec.Struct, frozen=True, kw_only=True):
    """What both ends have in common. ``reason`` is the model's own, or the code of an error; ``cost`` in dollars."""

    completion: str
    reason: str
    usage: Usage
    duration_ms: float
    first_token_ms: float | None
    cost: float | None = None


@fact("completion:finished")
class CompletionFinished(CompletionEnded, frozen=True, kw_only=True):
    """The answer is whole."""


@fact("completion:interrupted")
class CompletionInterrupted(CompletionEnded, frozen=True, kw_only=True):
    """It was stopped, or failed. What it had written stands."""


class CompletionRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One completion. ``started`` is a position in the log.

    ``running`` may also be one that a crash cut off: nobody was there to write a fact.
    """

    completion: str
    run: str
    started: int
    provider: str
    model: str
    conversation: str | None
    resumes: str | None
    status: Literal["running", "done", "cancelled", "failed"] = "running"
    finish_reason: str | None = None
    usage: Usage | None = None
    cost: float | None = None
    duration_ms: float | None = None


NAMES = ("completion:started", "completion:failed_over", "completion:finished", "completion:interrupted")


class CompletionsView(View[CompletionRecord]):
    name = "completions"
    query = (Filter(names=NAMES),)
    record = CompletionRecord
    version = 2
    key = ("completion",)
    indexes: ClassVar = {"by_start": ("started",), "by_run": ("run", "started"), "by_resumed": ("resumes", "started")}

    def apply(self, writer: ViewWriter, event: RecordedEvent) -> None:
        if event.name == "completion:started":
            writer.put(_started(event))
            return
        record: CompletionRecord | None = writer.get(event.stream.removeprefix(f"{CATEGORY}/"))
        assert record is not None  # what goes on was started
        if event.name == "completion:failed_over":
            asked = event.into(CompletionFailedOver)
            writer.put(msgspec.structs.replace(record, provider=asked.provider, model=asked.model))
            return
        ended = event.into(CompletionEnded)
        writer.put(
            msgspec.structs.replace(
                record,
                status=_status(event.name, ended.reason),
                finish_reason=ended.reason,
                usage=ended.usage,
                cost=ended.cost,
                duration_ms=ended.duration_ms,
            )
        )


def _status(fact_name: str, reason: str) -> str:
    if fact_name == "completion:finished":
        return "done"
    return "cancelled" if reason == "cancelled" else "failed"


def _started(event: RecordedEvent) -> CompletionRecord:
    started = event.into(CompletionStarted)
    return CompletionRecord(
        completion=started.completion,
        run=started.run,
        started=event.position,
        provider=started.provider,
        model=started.model,
        conversation=started.conversation,
        resumes=started.resumes,
    )


def stream_of(completion: str) -> str:
    return f"{CATEGORY}/{completion}"
