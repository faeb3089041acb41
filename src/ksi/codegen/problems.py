"""The errors of an event as HTTP answers: for each status the codes that it may stand for."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any

from ksi.codegen.catalogue import REFERENCE
from ksi.codegen.schemas import plain
from ksi.core.errors import KSIError, RemoteError, from_wire

StatusOf = Callable[[type[KSIError]], int]
Json = dict[str, Any]

COMMON = (
    "validation_error", "invalid_frame", "unauthorized", "permission_denied", "unknown_event", "no_handler",
    "no_answer", "payload_too_large", "misdirected", "unsupported", "hop_limit", "conflict", "cancelled", "overloaded",
    "rate_limited", "internal_error", "invalid_response", "handlers_failed", "partition_deadlock", "outcome_unknown",
    "query_wrote", "timeout", "deadline_exceeded", "unavailable", "shutting_down",
)  # fmt: skip
"""What any event may answer with, whoever handles it."""
MEDIA_STATUS = 415
"""That of a body which is no JSON: only HTTP knows it, its code is ``unsupported``."""
HEADERS_STATUS = 431
"""That of a head which is too large, a query string in it."""

PROBLEM: Json = {
    "type": "object",
    "description": "An error (RFC 9457). `code` is stable, `details` are its facts.",
    "required": ["type", "title", "status", "detail", "code", "retryable", "details"],
    "properties": {
        "type": {"type": "string", "description": "urn:ksi:error:CODE"},
        "title": {"type": "string", "description": "What the code means."},
        "status": {"type": "integer"},
        "detail": {"type": "string", "description": "What is wrong this time."},
        "code": {"type": "string"},
        "retryable": {"type": "boolean", "description": "Whether the same request may be sent again as it is."},
        "details": {"type": "object"},
    },
}
FAILURE: Json = {
    "type": "object",
    "description": "An error as it stands in a frame or at the end of a stream.",
    "required": ["code", "message", "details"],
    "properties": {"code": {"type": "string"}, "message": {"type": "string"}, "details": {"type": "object"}},
}


class Problems:
    """Knows the answers to requests that fail."""

    def __init__(self, status_of: StatusOf) -> None:
        self._status_of = status_of
        self._common = self._by_status(COMMON)
        self._common[MEDIA_STATUS] = ["unsupported"]
        self._common[HEADERS_STATUS] = ["payload_too_large"]
        self._shared = {f"Problem{status}": _response(codes) for status, codes in self._common.items()}

    def shared(self) -> Json:
        """Responses by the names by which :meth:`responses` has referred to them by now."""
        return dict(sorted(self._shared.items()))

    def responses(self, errors: Iterable[str]) -> Json:
        """Those of an event that declares ``errors``, by status."""
        declared = self._by_status(errors)
        return {
            str(status): self._response(status, declared.get(status, ()))
            for status in sorted({*self._common, *declared})
        }

    def _response(self, status: int, declared: Iterable[str]) -> Json:
        common = self._common.get(status, [])
        own = sorted(set(declared) - set(common))
        name = "-".join([f"Problem{status}", *own])
        if name not in self._shared:
            self._shared[name] = _response(sorted({*common, *own}))
        return {"$ref": f"#/components/responses/{name}"}

    def _by_status(self, codes: Iterable[str]) -> dict[int, list[str]]:
        found: dict[int, list[str]] = defaultdict(list)
        for code in sorted(set(codes)):
            found[self._status_of(type(from_wire(code, "")))].append(code)
        return dict(found)


def _response(codes: Iterable[str]) -> Json:
    narrowed = {"properties": {"code": {"enum": [*codes]}}}
    schema = {"allOf": [{"$ref": f"{REFERENCE}Problem"}, narrowed]}
    description = "\n".join(f"- `{code}`: {meaning_of(code)}" for code in codes)
    return {"description": description, "content": {"application/problem+json": {"schema": schema}}}


def meaning_of(code: str) -> str:
    """The first line of what its class says."""
    kind = type(from_wire(code, ""))
    return "An error of a plugin." if kind is RemoteError else plain(kind.__doc__ or "").partition("\n")[0]
