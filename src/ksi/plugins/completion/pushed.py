"""Completions in the manner of the original clients: asked for, answered at once, pushed when they are there."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

import msgspec

from ksi.core.errors import CancelledError, KSIError
from ksi.core.events import fact, fact_name
from ksi.kernel.context import EventContext
from ksi.kernel.declare import event
from ksi.plugins.completion.shapes import CreateCompletion, Name, Tokens
from ksi.providers.conversation import conversation_of

PRIORITIES = {"critical": 20, "high": 10, "normal": 0, "low": -10, "background": -20}
Priority = Literal["critical", "high", "normal", "low", "background"]


class AsyncCompletion(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``session_id`` is a conversation to go on with; without one a new one begins. ``client_id`` is handed back."""

    prompt: str
    model: str | None = None
    provider: str | None = None
    session_id: Name | None = None
    client_id: str | None = None
    request_id: Name | None = None
    priority: int | Priority = "normal"
    system: str | None = None
    max_tokens: Tokens | None = None
    temperature: float | None = None


class Queued(msgspec.Struct, frozen=True, kw_only=True):
    request_id: str
    session_id: str
    status: Literal["queued"] = "queued"


class DeliverCompletion(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    request_id: str
    client_id: str | None
    completion: CreateCompletion


class AboutResult(msgspec.Struct, frozen=True, kw_only=True):
    """The part ``ksi`` of what is pushed; ``timestamp`` is in ISO 8601."""

    provider: str | None
    request_id: str
    client_id: str | None
    timestamp: datetime
    duration_ms: float


@fact("completion:result")
class ResultArrived(msgspec.Struct, frozen=True, kw_only=True):
    ksi: AboutResult
    response: dict[str, Any]


@fact("completion:cancelled")
class ResultCancelled(msgspec.Struct, frozen=True, kw_only=True):
    """``response`` is what there was."""

    ksi: AboutResult
    response: dict[str, Any]


@fact("completion:error")
class ResultFailed(msgspec.Struct, frozen=True, kw_only=True):
    ksi: AboutResult
    code: str
    error: str


Result = ResultArrived | ResultCancelled | ResultFailed


class PushedResults:
    """The part of the plugin that deals with them."""

    @event(
        "completion:async",
        belongs_to=lambda request: conversation_of(request.session_id),
        errors=("conflict",),
        examples=({"prompt": "Tell me about the sea.", "session_id": None},),
    )
    async def ask(self, request: AsyncCompletion, context: EventContext) -> Queued:
        """Take a prompt; its ``completion:result`` is pushed to this connection, and is a fact for subscribers."""
        request_id = request.request_id or context.event_id
        session_id = request.session_id or f"session-{request_id}"
        priority = request.priority
        completion = CreateCompletion(
            prompt=request.prompt,
            model=request.model,
            provider=request.provider,
            conversation=session_id,
            system=request.system,
            max_tokens=request.max_tokens,
            temperature=request.temperature,
            priority=priority if isinstance(priority, int) else PRIORITIES[priority],
        )
        deliver = DeliverCompletion(request_id=request_id, client_id=request.client_id, completion=completion)
        context.emit("completion:deliver", deliver)
        return Queued(request_id=request_id, session_id=session_id)

    @event(
        "completion:deliver",
        durability="before",
        on_crash="rerun",
        timeout=None,
        examples=({"request_id": "r1", "client_id": None, "completion": {"prompt": "Tell me about the sea."}},),
    )
    async def deliver(self, request: DeliverCompletion, context: EventContext) -> None:
        """Complete what ``completion:async`` took, and push the result."""
        began = context.now()
        result: Result
        try:
            answered = await context.request("completion:create", request.completion)
        except KSIError as error:
            result = _failed(_about(request, None, began, context), error)
        else:
            result = ResultArrived(ksi=_about(request, answered, began, context), response=_response(answered))
        context.append(f"async/{request.request_id}", result)
        await context.commit()
        _push(context, result)


def _about(
    request: DeliverCompletion, answered: dict[str, Any] | None, began: datetime, context: EventContext
) -> AboutResult:
    now = context.now()
    return AboutResult(
        provider=answered["provider"] if answered else request.completion.provider,
        request_id=request.request_id,
        client_id=request.client_id,
        timestamp=now,
        duration_ms=round((now - began).total_seconds() * 1000, 1),
    )


def _failed(about: AboutResult, error: KSIError) -> Result:
    if isinstance(error, CancelledError):
        return ResultCancelled(ksi=about, response=_response(error.partial or {}))
    return ResultFailed(ksi=about, code=error.code, error=error.message)


def _response(answered: dict[str, Any]) -> dict[str, Any]:
    """``result`` and ``session_id`` are what the original clients look for."""
    return {"result": answered.get("text", ""), "session_id": answered.get("conversation"), **answered}


def _push(context: EventContext, result: Result) -> None:
    channel, named = context.reply_channel, fact_name(type(result))
    if channel is None or named is None:
        return
    data = msgspec.to_builtins(result)
    channel.push(
        {
            "event": named[0],
            "event_name": named[0],
            "data": data,
            "timestamp": data["ksi"]["timestamp"],
            "correlation_id": context.correlation_id,
        }
    )
