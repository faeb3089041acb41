"""What goes through a door: requests and answers of HTTP as the log holds them."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from ksi.core import canonical
from ksi.core.errors import KSIError, UnsupportedError

Protocol = Literal["openai", "anthropic"]
CALL, CATEGORY = "door:call", "door"
Digest = Annotated[str, Meta(pattern="^[0-9a-f]{64}$", description="SHA-256 of the token in the door's path, in hex")]
# What stands before an @ is a password, and would be recorded.
Url = Annotated[str, Meta(pattern=r"^https?://[^@\s?#]+$", description="where requests go that are not served")]


class Upstreams(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where the requests of each protocol go."""

    openai: Url = "https://api.openai.com/v1"
    anthropic: Url = "https://api.anthropic.com"

    def base(self, asked: Asked) -> str:
        """What stands before the path of a request."""
        base = (self.openai if asked.protocol == "openai" else self.anthropic).rstrip("/")
        return base.removesuffix("/v1") if asked.is_beside else base


class Bytes(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Bytes as JSON has them: a text where they are one, so that people can read and search them."""

    text: str = ""
    is_base64: bool = False

    @classmethod
    def of(cls, raw: bytes) -> Bytes:
        try:
            return cls(raw.decode())
        except UnicodeDecodeError:
            return cls(base64.b64encode(raw).decode(), is_base64=True)

    def raw(self) -> bytes:
        return base64.b64decode(self.text) if self.is_base64 else self.text.encode()


class Asked(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A request of a script, without its headers and the keys in its query string.

    ``path`` is what stands below the base URL, or, where it ``is_beside`` that, below its server's root.
    """

    run: str
    protocol: Protocol
    method: str
    path: str
    is_beside: bool = False
    query: str = ""
    body: Bytes = Bytes()

    def json(self) -> Any:
        """The body, where it is JSON; None where it is not."""
        if self.body.is_base64 or not self.body.text:
            return None
        try:
            return canonical.decode(self.body.text.encode())
        except (ValueError, KSIError):
            return None

    def shown(self) -> dict[str, Any]:
        """For people who compare two of them."""
        body = self.json()
        return {"kind": "call", "name": f"{self.method} {self.path}", "data": self.body.text if body is None else body}


class Head(msgspec.Struct, frozen=True, tag="head"):
    """How an answer begins."""

    status: int
    headers: list[tuple[str, str]]

    @property
    def is_ok(self) -> bool:
        return 200 <= self.status < 300

    def header(self, name: str) -> str:
        return next((value for key, value in self.headers if key == name), "")


class Piece(msgspec.Struct, frozen=True, tag="piece"):
    """A part of an answer's body, as it came."""

    body: Bytes


Part = Head | Piece


class Diverged(msgspec.Struct, frozen=True, kw_only=True, tag="diverged"):
    """A request that is none of the recorded ones; ``recorded`` is the one it was most like, at ``position``."""

    position: int
    recorded: Mapping[str, Any] | None
    requested: Mapping[str, Any]


def changed(asked: Asked, fields: Mapping[str, Any]) -> Asked:
    """The request with other values in its body, by path: ``messages.0.content``.

    Raises:
        UnsupportedError: The body is no JSON object, or a path leads nowhere.
    """
    body = asked.json()
    if not isinstance(body, dict):
        raise UnsupportedError(f"{asked.method} {asked.path}: its body has no fields")
    for path, value in fields.items():
        _put(body, path, value)
    return msgspec.structs.replace(asked, body=Bytes(canonical.encode(body).decode()))


def _put(body: Any, path: str, value: Any) -> None:
    *steps, last = path.split(".")
    try:
        for step in steps:
            body = body[_place(body, step)]
        body[_place(body, last)] = value
    except (LookupError, ValueError, TypeError):
        raise UnsupportedError(f"{path!r} leads nowhere in the request") from None


def _place(value: Any, step: str) -> Any:
    return int(step) if isinstance(value, list) else step
