"""Requests to KSI as a provider: each becomes a completion or an agent's turn, under the rights of who sent it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import aclosing
from functools import partial
from typing import Any

import msgspec
from starlette.types import Receive, Scope, Send

from ksi.core import ids
from ksi.core.envelope import EventEnvelope
from ksi.core.errors import KSIError, NotFoundError
from ksi.core.threads import settle
from ksi.kernel.door import Session
from ksi.kernel.pulled import Pulled
from ksi.kernel.router import Router
from ksi.kernel.services import ServiceRegistry
from ksi.plugins.endpoint import anthropic, openai, responses
from ksi.plugins.endpoint.asked import AGENT, Answered, Wanted, Words
from ksi.transport.http.exchange import Answer, Exchange, Gone
from ksi.transport.http.pace import keep_pace
from ksi.transport.http.refusals import refuse, told

BODY_BYTES_MAX = 8 << 20
HEARTBEAT = b":\n\n"
EPOCH = "1970-01-01T00:00:00Z"
"""When a model was made: nobody knows, and the packages want a moment."""
Protocol = tuple[Callable[[bytes], Wanted], Callable[[Wanted, str, int], Words]]
PROTOCOLS: dict[str, Protocol] = {
    "/v1/chat/completions": (openai.wanted, openai.OpenAIWords),
    "/v1/responses": (responses.wanted, responses.ResponseWords),
    "/v1/messages": (anthropic.wanted, anthropic.AnthropicWords),
}


async def serve(services: ServiceRegistry, scope: Scope, receive: Receive, send: Send) -> None:
    """Answer one request."""
    exchange = Exchange(scope, receive, send)
    exchange.session = scope["state"]["session"]
    router = services.get(Router)
    try:
        if exchange.path in PROTOCOLS:
            async with exchange.held_body(BODY_BYTES_MAX) as body:
                await _complete(router, exchange, body)
        else:
            await _show_models(router, exchange)
    except Gone:
        return
    except KSIError as error:
        await refuse(exchange, error)


# ── answers ──────────────────────────────────────────────────────────────────────────────────────────────────────────
async def _complete(router: Router, exchange: Exchange, body: bytes) -> None:
    read, words_of = PROTOCOLS[exchange.path]
    wanted = read(body)
    name, payload = wanted.request()
    envelope = EventEnvelope.create(name, payload, "http", principal=exchange.session.principal)
    words = words_of(wanted, ids.text(envelope.event_id), envelope.time_us // 1_000_000)
    answering = partial(router.open_stream, envelope, exchange.session)
    pour, stream = _pour if wanted.is_streamed else _answer, Pulled()
    exchange.end_by(stream.break_off)
    await exchange.while_there(pour(exchange, words, stream, answering))


async def _answer(exchange: Exchange, words: Words, stream: Pulled, answering: Any) -> None:
    """The whole of it; streamed inside too, so that it stops where its client leaves."""
    async with aclosing(stream.chunks(answering)) as chunks:
        async for _ in chunks:
            pass
    body = msgspec.json.encode(words.whole(_answered(stream)))
    await exchange.answer(Answer(body=body))


async def _pour(exchange: Exchange, words: Words, stream: Pulled, answering: Any) -> None:
    """Piece by piece. Before the first one an error has a status of its own."""
    async with aclosing(stream.chunks(answering)) as chunks:
        try:
            async for chunk in chunks:
                await _begin(exchange, words)
                await exchange.write(words.piece(chunk["text"]))
                await keep_pace(exchange, HEARTBEAT, lambda: stream.is_ended)
        except KSIError as error:
            if not exchange.is_answered:
                raise
            await exchange.write(words.failing(told(error)), is_last=True)
            return
    await _begin(exchange, words)
    await exchange.write(words.ending(_answered(stream)), is_last=True)


async def _begin(exchange: Exchange, words: Words) -> None:
    if not exchange.is_answered:
        exchange.narrow()
        await exchange.start(200, [(b"content-type", b"text/event-stream"), (b"x-accel-buffering", b"no")])
        await exchange.write(words.opening())


def _answered(stream: Pulled) -> Answered:
    return msgspec.convert(stream.answer, Answered)


# ── models ───────────────────────────────────────────────────────────────────────────────────────────────────────────
async def _show_models(router: Router, exchange: Exchange) -> None:
    models = await _models(router, exchange.session)
    wanted = exchange.parameters.get("model")
    if wanted is None:
        said: Any = {"object": "list", "data": models, "has_more": False}
    else:
        said = next((model for model in models if model["id"] == wanted), None)
        if said is None:
            raise NotFoundError("model", wanted)
    await exchange.answer(Answer(body=msgspec.json.encode(said)))


async def _models(router: Router, session: Session) -> list[dict[str, Any]]:
    """Those of the providers, and the agents, as far as who asks may see them."""
    offered = [
        (model["id"], model["provider"]) for model in (await _ask(router, session, "completion:models"))["models"]
    ]
    agents = await _ask(router, session, "agent:list", status="idle")
    offered += [(f"{AGENT}{agent['agent']}", "ksi") for agent in agents["agents"]]
    return [
        {
            "id": name,
            "object": "model",
            "type": "model",
            "display_name": name,
            "created": 0,
            "created_at": EPOCH,
            "owned_by": owner,
        }
        for name, owner in offered
    ]


async def _ask(router: Router, session: Session, name: str, **fields: Any) -> Any:
    answered: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
    envelope = EventEnvelope.create(name, fields, "http", principal=session.principal)
    router.dispatch(envelope, session, lambda _, raw, error: settle(answered, raw, error), None)
    return msgspec.json.decode(await answered)
