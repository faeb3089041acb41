"""Agents out of compositions: what they say, what they may, what they may use."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from ksi.core.config import Config, PermissionSection, ProfileSection
from ksi.core.errors import BudgetExceededError, NotFoundError, PermissionDeniedError, ValidationError
from ksi.core.home import Home
from ksi.kernel.plugin import AsyncPlugin
from ksi.plugins.agent import Agent
from ksi.plugins.budget import Budget
from ksi.plugins.composition import Composition
from ksi.plugins.permission import Permission
from ksi.plugins.profiles import BUILT_IN
from ksi.plugins.state import State
from ksi.providers.base import TextPart
from ksi.providers.script import ScriptProvider
from ksi.testing.harness import EventTestHarness
from tests.plugins.scripted import harness, script
from tests.plugins.test_agent_tools import call, results

CLERK = """
extends: base
variables: {tone: warm}
prompt: Be {{tone}}.
model: script
temperature: 0.5
max_tokens: 7
tools: [state:set]
max_steps: 3
"""


@pytest.fixture
def provider() -> ScriptProvider:
    return script()


@pytest.fixture
async def ksi(provider: ScriptProvider, tmp_path: Path) -> AsyncIterator[EventTestHarness]:
    (tmp_path / "profiles").mkdir()
    (tmp_path / "profiles/clerk.yaml").write_text(CLERK)
    (tmp_path / "profiles/capped.yaml").write_text("budget: {tokens: 100}\n")
    async with harness(provider, more=(State, Budget, Composition, Agent), home=tmp_path) as ksi:
        yield ksi


async def spawn(ksi: EventTestHarness, profile: str = "clerk", agent: str = "ada", **more: Any) -> Any:
    return await ksi.request("agent:spawn", {"agent": agent, "profile": profile, **more})


async def say(ksi: EventTestHarness, text: str = "Go.", **more: Any) -> Any:
    return await ksi.request("agent:send_message", {"agent": "ada", "text": text, **more})


async def test_an_agent_is_what_its_profile_says(ksi: EventTestHarness, provider: ScriptProvider) -> None:
    spawned = await spawn(ksi)
    await say(ksi)
    (request,) = provider.requests
    (told,) = request.messages[0].parts
    assert isinstance(told, TextPart)
    assert told.text.startswith("You are ada, an agent.")
    assert told.text.endswith("\n\nBe warm.")
    assert (request.model, request.temperature, request.max_tokens) == ("script", 0.5, 7)
    assert [tool.name for tool in request.tools] == ["state__set"]
    assert (spawned["profile"], spawned["max_steps"]) == ("clerk", 3)


async def test_what_is_said_beside_the_profile_counts_more(ksi: EventTestHarness, provider: ScriptProvider) -> None:
    await spawn(ksi, variables={"tone": "dry"}, tools=[], temperature=0)
    await say(ksi, max_tokens=5)
    (request,) = provider.requests
    assert request.messages[0].parts[0].text.endswith("Be dry.")  # type: ignore[union-attr]  # a text
    assert (request.temperature, request.max_tokens, request.tools) == (0, 5, ())


async def test_a_prompt_is_no_agent_and_neither_is_what_is_not_there(ksi: EventTestHarness) -> None:
    with pytest.raises(ValidationError, match="is a prompt"):
        await spawn(ksi, "base")
    with pytest.raises(NotFoundError):
        await spawn(ksi, "nobody")
    with pytest.raises(ValidationError, match="no variable"):
        await spawn(ksi, variables={"colour": "red"})
    assert (await ksi.request("agent:list"))["agents"] == []


async def test_a_profile_caps_its_agent_and_does_not_raise_a_cap_that_is_there(ksi: EventTestHarness) -> None:
    await spawn(ksi, "capped")
    with pytest.raises(BudgetExceededError):
        await say(ksi, "word " * 200)
    await ksi.request("budget:set", {"scope": "agent:ada", "tokens": 5})
    await ksi.request("agent:terminate", {"agent": "ada"})
    await spawn(ksi, "capped")
    (budget,) = (await ksi.request("budget:list"))["budgets"]
    assert budget["tokens"] == 5


class Configured(AsyncPlugin):
    """A daemon in which nobody may do all: testers are ``standard``, others ``trusted``."""

    name = "configured"
    provides = (Config,)

    def services(self) -> dict[type, Any]:
        reader = ProfileSection(allow=("state:get", "state:list"))
        section = PermissionSection(
            default_profile="trusted", profiles={**BUILT_IN, "reader": reader}, principals={"tester": "standard"}
        )
        return {Config: Config(home=Home(Path()), permission=section)}


async def test_an_agent_has_the_rights_that_it_was_given_and_none_beyond_those_of_who_gave_them() -> None:
    set_value = call("state__set", '{"key":"colour","value":"red"}')
    provider = script(lambda request: "Done." if results(request) else [set_value])
    async with harness(provider, more=(Configured, Permission, State, Agent)) as ksi:
        ada = {"agent": "ada", "tools": ["state:set"]}
        with pytest.raises(PermissionDeniedError) as denied:
            await ksi.request("agent:spawn", ada | {"permission": "open"})
        assert denied.value.principal == "tester"
        with pytest.raises(NotFoundError):
            await ksi.request("agent:spawn", ada | {"permission": "raeder"})
        await ksi.request("agent:spawn", ada | {"permission": "reader"})
        for _ in range(2):
            await say(ksi)
            (refused,) = results(provider.requests[-1])
            assert refused.content.startswith("permission_denied")
            await ksi.restart()
        await ksi.request("agent:terminate", {"agent": "ada"})
        await ksi.request("agent:spawn", ada)
        await say(ksi)
        assert not results(provider.requests[-1])[0].is_error
