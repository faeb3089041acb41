"""The events of sandboxes."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from typing import Annotated, Any, TypeVar

import msgspec
from msgspec import Meta

from ksi.core.config import Config
from ksi.core.errors import PermissionDeniedError, ValidationError
from ksi.core.ports import Tokens
from ksi.kernel.context import EventContext
from ksi.kernel.declare import event, query
from ksi.kernel.plugin import AsyncPlugin
from ksi.kernel.router import Router
from ksi.plugins.sandbox.beneath import Beneath
from ksi.plugins.sandbox.command import execute, refuse_unconfined
from ksi.plugins.sandbox.shapes import (
    PIECE_BYTES_MAX,
    CommandWasRun,
    Content,
    Deleted,
    Execute,
    Executed,
    FileWasDeleted,
    FileWasWritten,
    Listed,
    Listing,
    Owner,
    Path,
    Write,
    Written,
)

T = TypeVar("T")
CATEGORY = "sandbox"
AGENT = "agent:"
COMMANDS_MAX, WAITING_MAX = 8, 64
TOKEN_GRACE = 60.0
"""Seconds beyond a command's own that its token counts at the most; it is withdrawn when the command ends."""
_PLAIN = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]*")
_COMMON_ERRORS = ("validation_error", "permission_denied", "not_found", "unavailable")


class Sandbox(AsyncPlugin):
    """Files and commands of agents, each in a directory of its own."""

    name = "sandbox"
    requires = (Config, Tokens)

    async def initialize(self) -> None:
        services = self.host.services
        config = services.get(Config)
        self._home, self._settings = config.home, config.sandbox
        self._tokens = services.get(Tokens)
        self._threads = services.get(Router).threads

    # ── files ────────────────────────────────────────────────────────────────────────────────────────────────────────
    @query("sandbox:list", errors=_COMMON_ERRORS, examples=[{"agent": "ada"}, {"agent": "ada", "path": "notes"}])
    async def list_files(
        self,
        context: EventContext,
        path: Path = ".",
        agent: Owner = None,
        limit: Annotated[int, Meta(ge=1, le=1000)] = 200,
        after: Annotated[str, Meta(description="the name after which it goes on")] = "",
    ) -> Listing:
        """List what stands in a directory of the sandbox, by name. Links are shown, and never followed."""
        beneath = self._beneath(_owner(context, agent))

        def look() -> list[Listed]:
            beneath.make()
            return [Listed(*item) for item in beneath.items(path) if item.name > after]

        found = await self._in_thread(look)
        return Listing(found[:limit], found[limit - 1].name if len(found) > limit else None)

    @query("sandbox:read", errors=_COMMON_ERRORS, examples=[{"agent": "ada", "path": "notes/today.md"}])
    async def read(
        self,
        path: Path,
        context: EventContext,
        agent: Owner = None,
        offset: Annotated[int, Meta(ge=0, description="bytes in front of the piece")] = 0,
        limit: Annotated[int, Meta(ge=1, le=PIECE_BYTES_MAX, description="bytes at the most")] = 64 << 10,
    ) -> Content:
        """Read a piece of a file of the sandbox."""
        beneath = self._beneath(_owner(context, agent))
        piece, size = await self._in_thread(lambda: beneath.read(path, offset, limit))
        try:
            return Content(path, offset, size, text=piece.decode())
        except UnicodeDecodeError:
            return Content(path, offset, size, data=piece)

    @event(
        "sandbox:write",
        durability="before",
        on_crash="rerun",
        errors=(*_COMMON_ERRORS, "conflict"),
        examples=[{"agent": "ada", "path": "notes/today.md", "text": "Sunny."}],
    )
    async def write(self, request: Write, context: EventContext) -> Written:
        """Write a file of the sandbox, whole; directories on the way are made."""
        owner = _owner(context, request.agent)
        if (request.text is None) == (request.data is None):
            raise ValidationError("say text or data, one of them")
        content = request.data if request.text is None else request.text.encode()
        assert content is not None
        beneath = self._beneath(owner)
        await self._act(context, "sandbox:write", request, lambda: beneath.write(request.path, content))
        context.append(f"{CATEGORY}/{owner}", FileWasWritten(request.path, len(content)))
        return Written(request.path, len(content))

    @event(
        "sandbox:delete",
        durability="before",
        on_crash="rerun",
        errors=_COMMON_ERRORS,
        examples=[{"agent": "ada", "path": "notes"}],
    )
    async def delete(self, path: Path, context: EventContext, agent: Owner = None) -> Deleted:
        """Delete a file of the sandbox, or a directory with all that is in it."""
        owner = _owner(context, agent)
        beneath = self._beneath(owner)
        deleted: bool = await self._act(
            context, "sandbox:delete", {"agent": owner, "path": path}, lambda: beneath.delete(path)
        )
        if deleted:
            context.append(f"{CATEGORY}/{owner}", FileWasDeleted(path))
        return Deleted(path, deleted)

    # ── commands ─────────────────────────────────────────────────────────────────────────────────────────────────────
    @event(
        "sandbox:exec",
        durability="before",
        timeout=None,
        concurrent=COMMANDS_MAX,
        queued_max=WAITING_MAX,
        errors=("validation_error", "permission_denied", "unsupported", "outcome_unknown"),
        examples=[{"agent": "ada", "command": ["python", "-c", "print(6 * 7)"]}],
    )
    async def execute(self, request: Execute, context: EventContext) -> Executed:
        """Run a command in the sandbox. It reaches nothing else and no network; all that it starts ends with it."""
        owner = _owner(context, request.agent)
        if any("\0" in word for word in request.command):
            raise ValidationError("a word of a command has no NUL")
        done: Executed = await context.effect(
            "sandbox:exec",
            msgspec.to_builtins(request) | {"agent": owner},
            lambda: self._execute(owner, request),
            result=Executed,
        )
        ended = {field: getattr(done, field) for field in ("exit_code", "signal", "timed_out", "seconds")}
        context.append(f"{CATEGORY}/{owner}", CommandWasRun(command=request.command, **ended))
        return done

    async def _execute(self, owner: str, request: Execute) -> Executed:
        refuse_unconfined(self._settings)
        await self._in_thread(self._beneath(owner).make)
        principal = f"{AGENT}{owner}"
        profile, ttl = self._tokens.profile_of(principal), request.timeout + TOKEN_GRACE
        token = await self._in_thread(lambda: self._tokens.create(principal, profile, ttl))
        try:
            return await execute(request, self._directory(owner), token, self._home, self._settings)
        finally:
            await self._in_thread(lambda: self._tokens.withdraw(token))

    # ── where ────────────────────────────────────────────────────────────────────────────────────────────────────────
    def _beneath(self, owner: str) -> Beneath:
        return Beneath(self._directory(owner))

    def _directory(self, owner: str) -> Any:
        """A name that could mislead a path, or a person, is replaced by its hash."""
        is_plain = _PLAIN.fullmatch(owner) is not None
        return self._home.sandboxes / (owner if is_plain else f"%{hashlib.sha256(owner.encode()).hexdigest()}")

    async def _in_thread(self, job: Callable[[], T]) -> T:
        return await self._threads.run("blocking", job)

    async def _act(self, context: EventContext, name: str, request: Any, job: Callable[[], T]) -> T:
        """Twice is harmless: the same stands there, or nothing."""
        done: T = await context.effect(
            name, msgspec.to_builtins(request), lambda: self._in_thread(job), idempotent=True
        )
        return done


def _owner(context: EventContext, agent: str | None) -> str:
    """Whose sandbox is meant.

    Raises:
        PermissionDeniedError: An agent asks for that of another.
        ValidationError: It is no agent who asks, and nothing is said.
    """
    asks = context.principal.removeprefix(AGENT) if context.principal.startswith(AGENT) else None
    if asks is not None and agent not in {None, asks}:
        rule = "an agent has only its own sandbox"
        raise PermissionDeniedError(context.envelope.name, principal=context.principal, rule=rule)
    if (owner := asks or agent) is None:
        raise ValidationError("whose sandbox? say agent")
    return owner
