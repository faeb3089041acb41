"""Errors as HTTP says them: a status and a problem document (RFC 9457) with the code of everywhere else."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any

from ksi.core import errors
from ksi.core.errors import KSIError
from ksi.wire.answers import encode_json

Headers = list[tuple[bytes, bytes]]
MEDIA = b"application/problem+json"
_MARKUP = re.compile(r":\w+:`|`")


class UnsupportedMediaError(errors.UnsupportedError):
    """The body is of a type that is not read here. Send ``application/json``."""

    def __init__(self, media: str) -> None:
        super().__init__(f"{media or 'a body without content-type'!r} is not read here: send application/json")
        self.media = media


class NotReadOnlyError(errors.UnsupportedError):
    """The event does more than read, and whoever repeats a GET would do it twice: POST it."""

    allowed = ("POST",)

    def __init__(self, event_name: str) -> None:
        super().__init__(f"{event_name!r} does more than read: POST it")
        self.event_name = event_name


class MethodError(errors.UnsupportedError):
    """The path is there, the method is not."""

    def __init__(self, path: str, method: str, allowed: Sequence[str]) -> None:
        super().__init__(f"{path} is not for {method}")
        self.path = path
        self.method = method
        self.allowed = allowed


class LateRequestError(errors.RequestError):
    """The request did not arrive in time."""

    def __init__(self, what: str) -> None:
        super().__init__(f"the {what} did not arrive in time")
        self.what = what


STATUS: dict[type[KSIError], int] = {
    KSIError: 500,
    errors.RequestError: 400,
    errors.UnauthorizedError: 401,
    errors.PermissionDeniedError: 403,
    errors.UnknownEventError: 404,
    errors.NotFoundError: 404,
    errors.BeyondHeadError: 404,
    errors.NoAnswerError: 404,
    MethodError: 405,
    NotReadOnlyError: 405,
    LateRequestError: 408,
    errors.AmbiguousError: 409,
    errors.ConflictError: 409,
    errors.CancelledError: 409,
    errors.WrongExpectedVersionError: 409,
    errors.AppendConditionError: 409,
    errors.EventIdConflictError: 409,
    errors.ReplayDivergenceError: 409,
    errors.CheckpointConflictError: 409,
    errors.ArchivedError: 409,
    errors.PayloadTooLargeError: 413,
    UnsupportedMediaError: 415,
    errors.MisdirectedError: 421,
    errors.HopLimitError: 422,
    errors.UnsupportedError: 422,
    errors.ProviderInvalidRequestError: 422,
    errors.ContextLengthError: 422,
    errors.OverloadedError: 429,
    errors.RateLimitedError: 429,
    errors.NoHandlerError: 501,
    errors.ReplayUnhandledError: 501,
    errors.ProviderError: 502,
    errors.CapacityError: 503,
    errors.StoreClosedError: 503,
    errors.SubscriptionDroppedError: 503,
    errors.ProviderOverloadedError: 503,
    errors.ModelUnavailableError: 503,
    errors.EventTimeoutError: 504,
    errors.DeadlineExceededError: 504,
    errors.ProviderTimeoutError: 504,
}
"""The status of a class and of those below it that say nothing else."""


def status_of(kind: type[KSIError]) -> int:
    return next(STATUS[each] for each in kind.__mro__ if each in STATUS)


def problem(error: KSIError, status: int | None = None) -> tuple[int, bytes, Headers]:
    """Status, body and headers of ``error``; ``status`` is for a place that knows better."""
    chosen = status or status_of(type(error))
    return chosen, problem_json(error, chosen), _headers(error, chosen)


def problem_json(error: KSIError, status: int) -> bytes:
    """The document; details without a JSON form are left out: an answer must go out."""
    said: dict[str, Any] = {
        "type": f"urn:ksi:error:{error.code}",
        "title": _title(type(error)),
        "status": status,
        "detail": error.message,
        "code": error.code,
        "retryable": error.retryable,
    }
    try:
        return encode_json(said | {"details": error.details()})
    except (ValueError, TypeError, RecursionError):
        detail = error.message.encode("ascii", "backslashreplace").decode()
        return encode_json(said | {"detail": detail, "details": {}})


def _title(kind: type[KSIError]) -> str:
    return _MARKUP.sub("", (kind.__doc__ or kind.__name__).partition("\n")[0])


def _headers(error: KSIError, status: int) -> Headers:
    headers = [(b"content-type", MEDIA)]
    wait = getattr(error, "retry_after", None)
    if isinstance(wait, int | float):
        headers.append((b"retry-after", b"%d" % math.ceil(wait)))
    if isinstance(error, NotReadOnlyError | MethodError):
        headers.append((b"allow", ", ".join(error.allowed).encode()))
    if status == 401:
        headers.append((b"www-authenticate", b'Bearer realm="ksi"'))
    return headers
