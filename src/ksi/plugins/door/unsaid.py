"""What a script sends that goes upstream, and stands nowhere here: its headers, and keys in its query string."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

REDACTED = "redacted"
KEYS = frozenset({
    "accesstoken", "apikey", "auth", "authorization", "authtoken", "clientsecret", "key", "password", "secret",
    "sessiontoken", "sig", "signature", "subscriptionkey", "token", "xamzcredential", "xamzsecuritytoken",
    "xamzsignature", "xapikey", "xgoogcredential", "xgoogsignature",
})  # fmt: skip
"""Names of keys, without what stands between their words."""


class Unsaid(msgspec.Struct, frozen=True):
    """Kept while the call runs. ``query`` is the whole of it, as it came."""

    headers: Sequence[tuple[str, str]]
    query: str


def without_keys(query: str) -> str:
    """``query`` as it is recorded: other keys give the same, and all else stays as it came."""
    return "&".join(map(_without_key, query.split("&")))


def _without_key(pair: str) -> str:
    name, equals, _ = pair.partition("=")
    plain = name.lower().replace("-", "").replace("_", "").replace(".", "")
    return f"{name}={REDACTED}" if equals and plain in KEYS else pair
