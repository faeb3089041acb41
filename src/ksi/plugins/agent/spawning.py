"""What an agent becomes: its profile, what is said beside it, its rights and its budget."""

from __future__ import annotations

from typing import Any

import msgspec

from ksi.core.errors import ValidationError
from ksi.kernel.context import EventContext
from ksi.plugins.agent.form import Form
from ksi.plugins.agent.shapes import Cap, Spawn
from ksi.plugins.agent.tools import check_tools, expanded
from ksi.plugins.agent.view import AgentRecord, AgentSpawned, Settings, principal_of

DAEMON = "daemon"
"""In its name rights and a budget are given: they only take away, and who spawns needs no right to give any."""
_BESIDE = ("agent", "profile", "variables")


async def spawned_by(
    request: Spawn, context: EventContext, *, conversation: str, before: AgentRecord | None
) -> AgentSpawned:
    """The agent that ``request`` asks for. Its rights and its budget count when this returns.

    Raises:
        NotFoundError: There is no such composition, or profile of rights.
        CompositionError: Its file is wrong.
        ValidationError: A variable is missing, or it is no profile of an agent, or its schema is none.
        ToolServerError: A server of MCP does not say which tools it has.
        PermissionDeniedError: It could do what who asks for it may not.
    """
    given = {name: value for name, value in _said(request).items() if name not in _BESIDE}
    wanted = await _composed(request, context) | given
    permission, cap = wanted.pop("permission", None), wanted.pop("budget", None)
    settings = msgspec.convert(wanted, Settings)
    if settings.response_schema is not None:
        Form(settings.response_schema)
    if permission is not None or (before is not None and before.permission is not None):
        await _assign(request.agent, permission, context)
    check_tools(request.agent, settings.tools, context)  # who may call nothing of a server does not start it either
    tools = await expanded(context, request.agent, settings.tools)
    check_tools(request.agent, tools, context)
    if cap is not None:
        await _cap(request.agent, msgspec.convert(cap, Cap), context)
    return AgentSpawned(
        **msgspec.structs.asdict(settings) | {"tools": tools},
        agent=request.agent,
        conversation=conversation,
        profile=request.profile,
        permission=permission,
        given=_said(request) if request.profile is not None else {},
    )


def _said(request: Spawn) -> dict[str, Any]:
    """The fields that have a value."""
    said: dict[str, Any] = msgspec.to_builtins(request)
    return {name: value for name, value in said.items() if value is not None and value != {}}


async def _composed(request: Spawn, context: EventContext) -> dict[str, Any]:
    """What the profile says, by the names of settings."""
    if request.profile is None:
        return {}
    variables = {"agent": request.agent} | request.variables
    made = await context.request("composition:compose", name=request.profile, variables=variables)
    if made["kind"] != "agent":
        raise ValidationError(f"{request.profile!r} is a prompt, and no agent")
    names = {"system": "prompt", "permission": "permission", "budget": "budget"}
    names |= {name: name for name in Settings.__struct_fields__ if name != "system"}
    return {name: made[said] for name, said in names.items() if made[said] is not None}


async def _assign(agent: str, profile: str | None, context: EventContext) -> None:
    asked = {"principal": principal_of(agent), "profile": profile, "within": context.principal}
    await context.request_as(DAEMON, "permission:assign", asked, step="rights")


async def _cap(agent: str, cap: Cap, context: EventContext) -> None:
    """A cap that is there stays: who spawns may not raise it."""
    said = {name: value for name, value in msgspec.to_builtins(cap).items() if value is not None}
    asked = {"scope": principal_of(agent), "if_absent": True} | said
    await context.request_as(DAEMON, "budget:set", asked, step="budget")
