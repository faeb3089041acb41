"""KSI's requests and chunks in the words of the Claude CLI's ``stream-json``, pure.

A line is an object with a ``type``; kinds that nobody knew are passed over. Of a failure ``is_error`` tells, never
``subtype``, which is ``success`` also where the model's server has refused.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import msgspec

from ksi.core.errors import (
    KSIError,
    ProviderAuthError,
    ProviderBugError,
    ProviderInvalidRequestError,
    StreamInterruptedError,
)
from ksi.providers.anthropic_format import REASONS, MessageReader, SaidUsage
from ksi.providers.base import AnyChunk, CompletionRequest, Finished, Message, TextDelta, TextPart, Usage
from ksi.providers.refusals import STATUS_OF, Refusal, from_status
from ksi.providers.timeouts import Thinking

INTRODUCTION = "This is what was said so far. Give the assistant's next message, and nothing else.\n\n"
STATUS_OF_CLI = STATUS_OF | {
    "rate_limit": 429,
    "authentication_failed": 401,
    "invalid_request": 400,
    "server_error": 500,
}
"""The kinds of its errors, which come without a status where the CLI itself refuses."""


# ── requests ─────────────────────────────────────────────────────────────────────────────────────────────────────────
def system_of(request: CompletionRequest) -> str:
    """All instructions."""
    return "\n\n".join(text for message in request.messages if message.role == "system" for text in _texts(message))


def prompt_of(request: CompletionRequest, *, provider: str) -> str:
    """What goes to its stdin: it takes one message, so that more of them become one.

    Raises:
        ProviderInvalidRequestError: The request has something that the CLI does not take.
    """
    _check(request, provider)
    said = [message for message in request.messages if message.role != "system"]
    if [message.role for message in said] == ["user"]:
        return "".join(_texts(said[0]))
    return INTRODUCTION + "\n\n".join(f"{message.role.title()}: {''.join(_texts(message))}" for message in said)


def _check(request: CompletionRequest, provider: str) -> None:
    parts = [part for message in request.messages for part in message.parts]
    if not all(isinstance(part, TextPart) for part in parts):
        raise ProviderInvalidRequestError("takes text only", provider=provider)
    if request.temperature is not None or request.stop:
        raise ProviderInvalidRequestError("takes neither a temperature nor stops", provider=provider)


def _texts(message: Message) -> Sequence[str]:
    return [part.text for part in message.parts if isinstance(part, TextPart)]


# ── answers ──────────────────────────────────────────────────────────────────────────────────────────────────────────
class _Line(msgspec.Struct):
    type: str
    event: msgspec.Raw = msgspec.Raw()
    parent_tool_use_id: str | None = None
    error: str | None = None
    is_error: bool = False
    api_error_status: int | None = None
    result: str | None = None
    stop_reason: str | None = None
    usage: SaidUsage | None = None


_decoder = msgspec.json.Decoder(_Line)


class LineReader:
    """Reads the lines of one answer; knows at its end how it went."""

    def __init__(self, request: CompletionRequest, *, provider: str) -> None:
        self._provider = provider
        self._model = request.model
        self._message = MessageReader(request, provider=provider)
        self._error: str | None = None
        self._result: _Line | None = None

    @property
    def is_done(self) -> bool:
        """What comes behind this is none of the answer: where it is too long, the CLI would begin and pay again."""
        return self._result is not None or self._is_cut

    @property
    def _is_cut(self) -> bool:
        return self._message.is_done and self._message.reason == "length"

    def feed(self, line: bytes) -> Iterator[AnyChunk | Thinking]:
        """The chunks of one line.

        Raises:
            ProviderBugError: It is no line of the protocol.
            ProviderError: It says what went wrong.
        """
        match self._decode(line):
            case _Line(type="stream_event", parent_tool_use_id=None, event=event):
                chunk = self._message.read(bytes(event))
                if chunk is not None:
                    yield chunk
            case _Line(type="assistant", error=str(error)):
                self._error = error
            case _Line(type="result") as result:
                yield from self._end(result)

    def finished(self) -> Finished:
        """The last chunk.

        Raises:
            StreamInterruptedError: The lines ended before the answer did.
        """
        if not self.is_done:
            raise StreamInterruptedError("it ended without a result", provider=self._provider)
        if self._result is None:
            return self._message.finished()
        said = self._message.reason or REASONS.get(self._result.stop_reason or "", "stop")
        self._message.reason = said
        last = self._message.finished()
        usage = _usage(self._result.usage)
        return last if usage is None else msgspec.structs.replace(last, usage=usage)

    def _end(self, result: _Line) -> Iterator[AnyChunk]:
        if result.is_error:
            raise self._failure(result)
        self._result = result
        if not self._message.deltas and result.result:  # a CLI that does not stream
            yield TextDelta(text=result.result)

    def _failure(self, result: _Line) -> KSIError:
        status = result.api_error_status or STATUS_OF_CLI.get(self._error or "")
        message = result.result or "it failed and does not say why"
        if status is None:
            return StreamInterruptedError(message, provider=self._provider)
        if status in (401, 403):
            return ProviderAuthError("it is not logged in; run: claude /login", provider=self._provider)
        return from_status(status, Refusal.of(message), provider=self._provider, model=self._model)

    def _decode(self, line: bytes) -> _Line:
        if not line.endswith(b"\n"):
            raise StreamInterruptedError("it ended in the middle of a line", provider=self._provider)
        try:
            return _decoder.decode(line)
        except (ValueError, RecursionError) as error:
            raise ProviderBugError(f"a line that is none of the protocol's: {error}", provider=self._provider) from None


def _usage(said: SaidUsage | None) -> Usage | None:
    if said is None or said.read is None or said.output_tokens is None:
        return None
    return Usage(input_tokens=said.read, output_tokens=said.output_tokens)
