"""What a server of models says when it refuses, as KSI's errors."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from typing import Any

import msgspec

from ksi.core.errors import (
    ContextLengthError,
    KSIError,
    NotFoundError,
    ProviderAuthError,
    ProviderBugError,
    ProviderInvalidRequestError,
    ProviderOverloadedError,
    RateLimitedError,
    StreamInterruptedError,
)

MESSAGE_CHARACTERS_MAX = 500
STATUS_OF = {
    "authentication_error": 401,
    "billing_error": 402,
    "permission_error": 403,
    "invalid_request_error": 400,
    "not_found_error": 404,
    "request_too_large": 413,
    "rate_limit_error": 429,
    "api_error": 500,
    "timeout_error": 504,
    "overloaded_error": 529,
}
"""The kinds of Anthropic's errors, which come without a status in the middle of a stream."""
_CONTEXT_CODES = {"context_length_exceeded", "exceed_context_size_error"}
_CONTEXT_WORDS = re.compile(r"context (length|size|window)|prompt is too long|too many (input )?tokens", re.IGNORECASE)


class Refusal(msgspec.Struct, frozen=True):
    """An error object of the wire: servers put the kind into ``code`` or ``type``, as text or number."""

    message: str = ""
    kinds: frozenset[str] = frozenset()

    @classmethod
    def of(cls, error: Any) -> Refusal:
        """From what stands under ``error``: an object, or plain text."""
        if not isinstance(error, dict):
            return cls(message=str(error)[:MESSAGE_CHARACTERS_MAX])
        kinds = {str(error[key]) for key in ("code", "type") if error.get(key) is not None}
        return cls(message=str(error.get("message", ""))[:MESSAGE_CHARACTERS_MAX], kinds=frozenset(kinds))

    @property
    def is_context_length(self) -> bool:
        return bool(self.kinds & _CONTEXT_CODES or _CONTEXT_WORDS.search(self.message))

    @property
    def status(self) -> int | None:
        """That which it would have had in front of a stream."""
        number = next((int(kind) for kind in self.kinds if kind.isdecimal()), None)
        return number or next((STATUS_OF[kind] for kind in self.kinds if kind in STATUS_OF), None)


def from_response(status: int, headers: Mapping[str, str], body: bytes, *, provider: str, model: str) -> KSIError:
    """The error that an answer with a status other than 200 means."""
    return from_status(status, _read(body), provider=provider, model=model, seconds=retry_after(headers))


def from_stream(error: Any, *, provider: str, model: str) -> KSIError:
    """The error that an error object in the middle of a stream means."""
    refusal = Refusal.of(error)
    status = refusal.status
    if status is None and not refusal.is_context_length:
        return StreamInterruptedError(refusal.message, provider=provider)
    return from_status(status or 400, refusal, provider=provider, model=model)


def from_status(status: int, refusal: Refusal, *, provider: str, model: str, seconds: float | None = None) -> KSIError:
    """The error that a status of HTTP means; ``seconds`` is when to come back."""
    if status == 429 and "insufficient_quota" not in refusal.kinds:
        return RateLimitedError(refusal.message or "too many requests", provider=provider, retry_after=seconds)
    message = f"{refusal.message or 'no reason given'} (status {status})"
    match status:
        case 401 | 402 | 403 | 429:  # without the server's text: some repeat the key in it
            return ProviderAuthError(f"the key was not accepted (status {status})", provider=provider)
        case 400 | 413 | 422 if refusal.is_context_length:
            return ContextLengthError(message, provider=provider)
        case 404 if "model" in refusal.message.lower():
            return NotFoundError(f"model of {provider}", model)
        case 408:
            return ProviderOverloadedError(message, provider=provider, retry_after=seconds)
        case _ if 400 <= status < 500:
            return ProviderInvalidRequestError(message, provider=provider)
        case _ if status >= 500:
            return ProviderOverloadedError(message, provider=provider, retry_after=seconds)
    return ProviderBugError(message, provider=provider)


def _read(body: bytes) -> Refusal:
    try:
        answer = msgspec.json.decode(body)
    except (ValueError, RecursionError):
        return Refusal(message=body.decode(errors="replace").strip()[:MESSAGE_CHARACTERS_MAX])
    return Refusal.of(answer.get("error", answer) if isinstance(answer, dict) else answer)


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds to wait, from a number or from a date (which is compared with the answer's own ``Date``)."""
    text = headers.get("retry-after", "")
    try:
        seconds = float(text)
    except ValueError:
        return _until(text, headers.get("date", ""))
    return max(seconds, 0.0) if math.isfinite(seconds) else None


def _until(then: str, now: str) -> float | None:
    try:
        return max((parsedate_to_datetime(then) - parsedate_to_datetime(now)).total_seconds(), 0.0)
    except (ValueError, TypeError):  # not dates, or only one of them has a zone
        return None
