"""``ksi doctor``: what agents need beside the daemon itself: providers, servers of MCP, plugins, compositions, HTTP."""

from __future__ import annotations

import importlib.util
import shutil
from typing import Any

from ksi.cli.finding import Check, configured, health_of, unknown
from ksi.cli.invocation import Invocation
from ksi.cli.reach import LOOK, ask, http_problem, http_url
from ksi.core.config import ClaudeSection, ProvidersSection
from ksi.core.errors import KSIError

NAMED_MAX = 5
"""Of what is wrong, so many are named."""


def providers(invocation: Invocation) -> Check:
    """Of the one that is asked where nobody is named: whether it has what it needs. Nobody is asked."""
    config = configured(invocation)
    if config is None:
        return unknown("providers")
    default = config.providers.default
    missing = _missing(config.providers, default)
    if missing is None:
        return Check("providers", "ok", f"{default} is asked where nobody is named")
    found, todo = missing
    return Check("providers", "warn", f"{default} is asked where nobody is named, and {found}", todo)


def _missing(section: ProvidersSection, name: str) -> tuple[str, str] | None:
    """What the provider ``name`` lacks, and the remedy. The model of ``local`` has a check of its own."""
    said: Any = getattr(section, name, None)
    if isinstance(said, ClaudeSection):
        found = f"there is no program {said.command!r}"
        return (
            None if shutil.which(said.command) else (found, "install the Claude CLI, or say providers.claude.command")
        )
    if hasattr(said, "api_key") and said.api_key is None and said.base_url is None:
        return "it has no key", f"set {said.api_key_env}, or providers.{name}.api_key"
    return None


def servers(invocation: Invocation) -> Check:
    """Of MCP: whether their programs are there. They are not started."""
    config = configured(invocation)
    if config is None:
        return unknown("servers")
    if not config.mcp:
        return Check("servers", "ok", "no servers of MCP are configured")
    if importlib.util.find_spec("mcp") is None:
        return Check("servers", "fail", "servers of MCP, but nothing that speaks to them", "pip install 'ksi[mcp]'")
    gone = [f"{name} ({it.command[0]})" for name, it in config.mcp.items() if it.command and not _is_there(it.command)]
    if gone:
        return Check("servers", "fail", f"no program of {', '.join(gone)}", "install it, or correct mcp.NAME.command")
    return Check("servers", "ok", f"{len(config.mcp)} of MCP: {', '.join(sorted(config.mcp))}")


def _is_there(command: tuple[str, ...]) -> bool:
    return shutil.which(command[0]) is not None


def plugins(invocation: Invocation) -> Check:
    found = _asked(invocation, "plugin:list")
    if found is None:
        return Check("plugins", "ok", "not asked: no daemon answers")
    failed = [each["name"] for each in found["plugins"] if each["status"] == "failed"]
    if failed:
        return Check("plugins", "warn", f"did not start: {_named(failed)}", "ksi plugin list  # says why")
    return Check("plugins", "ok", f"{len(found['plugins'])} run")


def compositions(invocation: Invocation) -> Check:
    found = _asked(invocation, "composition:validate")
    if found is None:
        return Check("profiles", "ok", "not asked: no daemon answers")
    wrong = [f"{each['file']}:{each['line']}" for each in found["problems"]]
    if wrong:
        return Check("profiles", "warn", f"can not be used: {_named(wrong)}", "ksi composition check  # says why")
    return Check("profiles", "ok", f"{found['files']} compositions")


def http(invocation: Invocation) -> Check:
    health = health_of(invocation)
    if isinstance(health, KSIError):
        return Check("http", "ok", "not asked: no daemon answers")
    problem = http_problem(invocation.home, health["pid"])
    if problem is not None:
        return Check("http", "warn", f"the daemon runs without it: {problem}", "http.port: 0 takes a free one")
    return Check("http", "ok", http_url(invocation.home, health["pid"]) or "not served")


def _asked(invocation: Invocation, event: str) -> Any:
    """What the daemon answers; None where none does, which a check of its own says."""
    if isinstance(health_of(invocation), KSIError):
        return None
    try:
        return ask(invocation, event, may_start=False, within=LOOK)
    except KSIError:
        return None


def _named(found: list[str]) -> str:
    more = f" and {len(found) - NAMED_MAX} more" if len(found) > NAMED_MAX else ""
    return f"{', '.join(found[:NAMED_MAX])}{more}"
