"""Tokens: whoever holds one is its principal, over the Unix socket and over HTTP.

The file keeps digests, so that nobody comes in with what stands there. A token has 256 random bits: one round of
SHA-256 protects them; slow hashes are for what people choose. The daemon and ``ksi token`` use the same file, and each
sees at once what the other has written.
"""

from __future__ import annotations

import fcntl
import hashlib
import hmac
import os
import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import msgspec

from ksi.core.clock import Clock, SystemClock
from ksi.core.errors import ConfigError, ConflictError, NotFoundError, UnauthorizedError

PREFIX = "ksi_"
"""A token is ``ksi_<id>_<secret>``: whoever finds one in the wrong place sees what it is."""
USER = "uid:"
"""Principals that begin so are users of this machine, who need no token on the Unix socket."""
_SECOND_US = 1_000_000


class Identity(msgspec.Struct, frozen=True):
    """Who a token stands for. ``profile`` is None where the configuration says what the principal may do."""

    principal: str
    profile: str | None
    token_id: str


class Token(msgspec.Struct, frozen=True, kw_only=True):
    """What is kept of a token; times in microseconds since 1970, ``expires_us`` is None for ever."""

    id: str
    digest: str
    principal: str
    profile: str | None
    created_us: int
    expires_us: int | None


class _Kept(msgspec.Struct):
    tokens: list[Token] = []
    profiles: dict[str, str] = {}
    """Of principals, also when their last token is gone: what they have begun runs on with it."""


class TokenStore:
    """The tokens of one daemon."""

    def __init__(self, path: Path, *, clock: Clock | None = None) -> None:
        """``path`` need not exist; its directory must, before the first token is made."""
        self._path = path
        self._clock = clock or SystemClock()
        self._kept = _Kept()
        self._seen: tuple[int, int, int] | None = None

    def create(self, principal: str, profile: str | None = None, ttl: float | None = None) -> str:
        """A new token, which is told only here; it counts for ``ttl`` seconds, or until it is revoked.

        Raises:
            ConflictError: The principal has another profile: by its other tokens, or as a user of this machine.
        """
        if profile is not None and principal.startswith(USER):
            message = f"the profile of {principal} is that of its connections too: set permission.principals"
            raise ConflictError(message, principal=principal)
        token, text = self._made(principal, profile, None if ttl is None else int(ttl * _SECOND_US))
        with self._changed() as kept:
            _refuse_second_profile(kept, token)
            kept.tokens.append(token)
            if profile is not None:
                kept.profiles[principal] = profile
        return text

    def rotate(self, token_id: str, grace: float = 0.0) -> str:
        """A new token in place of another: of the same principal and profile, for as long; told only here.

        The old one counts ``grace`` seconds more, in which its holders can take the new one.

        Raises:
            NotFoundError: There is no such token.
        """
        with self._changed() as kept:
            old = _found(kept, token_id)
            kept.tokens.remove(old)
            lives_us = None if old.expires_us is None else old.expires_us - old.created_us
            token, text = self._made(old.principal, old.profile, lives_us)
            kept.tokens.append(token)
            ends_us = token.created_us + int(grace * _SECOND_US)
            kept.tokens.append(msgspec.structs.replace(old, expires_us=min(ends_us, old.expires_us or ends_us)))
        return text

    def _made(self, principal: str, profile: str | None, lives_us: int | None) -> tuple[Token, str]:
        """What is kept of a new token, and the token."""
        token_id, secret = secrets.token_hex(4), secrets.token_urlsafe(32)
        now = self._clock.time_us()
        token = Token(
            id=token_id,
            digest=_digest(secret),
            principal=principal,
            profile=profile,
            created_us=now,
            expires_us=None if lives_us is None else now + lives_us,
        )
        return token, f"{PREFIX}{token_id}_{secret}"

    def verify(self, token: str) -> Identity:
        """Who ``token`` stands for.

        Raises:
            UnauthorizedError: It is no token of this daemon, was revoked, or has expired.
        """
        token_id, _, secret = token.removeprefix(PREFIX).partition("_")
        found = next((kept for kept in self._load().tokens if kept.id == token_id), None)
        # Compared in any case: the time that it takes tells nobody which ids there are.
        is_right = hmac.compare_digest(_digest(secret), "" if found is None else found.digest)
        if found is None or not is_right:
            raise UnauthorizedError("the token is wrong, or was revoked")
        if self._has_expired(found):
            raise UnauthorizedError("the token has expired")
        return Identity(found.principal, found.profile, found.id)

    def revoke(self, token_id: str) -> Token:
        """Let it count no more.

        Raises:
            NotFoundError: There is no such token.
        """
        with self._changed() as kept:
            found = _found(kept, token_id)
            kept.tokens.remove(found)
        return found

    def withdraw(self, token: str) -> None:
        """Let it count no more; one that does not count already changes nothing."""
        with suppress(UnauthorizedError, NotFoundError):
            self.revoke(self.verify(token).token_id)

    def list(self) -> Sequence[Token]:
        """Those that count, oldest first."""
        return [token for token in self._load().tokens if not self._has_expired(token)]

    def profile_of(self, principal: str) -> str | None:
        """The profile that the principal's tokens gave it; None where they gave none."""
        return self._load().profiles.get(principal)

    def default(self, file: Path, principal: str) -> str:
        """The token in ``file``, which only its owner can read; made anew where there is none that counts."""
        try:
            token = file.read_text().strip()
            self.verify(token)
        except (FileNotFoundError, UnauthorizedError):
            token = self.create(principal)
            _write(file, f"{token}\n".encode())
        return token

    def rotate_default(self, file: Path, principal: str, grace: float = 0.0) -> str:
        """A new token in ``file``, in place of the one that is there."""
        token = self.rotate(self.verify(self.default(file, principal)).token_id, grace)
        _write(file, f"{token}\n".encode())
        return token

    def _has_expired(self, token: Token) -> bool:
        return token.expires_us is not None and token.expires_us <= self._clock.time_us()

    # ── the file ─────────────────────────────────────────────────────────────────────────────────────────────────────
    def _load(self) -> _Kept:
        """What stands in the file; it is read again only when it is another."""
        try:
            found = self._path.stat()
            seen = (found.st_ino, found.st_mtime_ns, found.st_size)
            if seen != self._seen:
                self._kept = msgspec.json.decode(self._path.read_bytes(), type=_Kept)
                self._seen = seen
        except FileNotFoundError:
            self._kept, self._seen = _Kept(), None
        except (OSError, msgspec.MsgspecError) as error:
            raise ConfigError(f"no tokens can be read there: {error}", where=str(self._path)) from None
        return self._kept

    @contextmanager
    def _changed(self) -> Iterator[_Kept]:
        """What stands in the file, to be changed; written at the end. Another process waits meanwhile."""
        directory = os.open(self._path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.flock(directory, fcntl.LOCK_EX)
            loaded = self._load()
            kept = _Kept([token for token in loaded.tokens if not self._has_expired(token)], dict(loaded.profiles))
            yield kept
            _write(self._path, msgspec.json.encode(kept))
        finally:
            os.close(directory)


def _found(kept: _Kept, token_id: str) -> Token:
    found = next((token for token in kept.tokens if token.id == token_id), None)
    if found is None:
        raise NotFoundError("token", token_id)
    return found


def _refuse_second_profile(kept: _Kept, new: Token) -> None:
    for token in kept.tokens:
        if token.principal == new.principal and token.profile != new.profile:
            message = f"{new.principal} has the profile {token.profile} by the token {token.id}: revoke it first"
            raise ConflictError(message, principal=new.principal, profile=token.profile, token=token.id)


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()


def _write(file: Path, content: bytes) -> None:
    """All of it or nothing, for the owner's eyes only."""
    fresh = file.with_name(f"{file.name}.{os.getpid()}.new")
    fresh.unlink(missing_ok=True)
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as opened:
        opened.write(content)
        opened.flush()
        os.fsync(descriptor)
    fresh.replace(file)
