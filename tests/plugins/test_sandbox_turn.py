"""The sandbox by an agent's own turn: what its model asks for stays in its directory, and leads nowhere else."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import msgspec
import pytest

from ksi.core.config import Config, PermissionSection, ProfileSection
from ksi.core.home import Home
from ksi.core.ports import Tokens
from ksi.kernel.plugin import AsyncPlugin
from ksi.plugins.agent import Agent
from ksi.plugins.permission import Permission
from ksi.plugins.sandbox.plugin import Sandbox
from ksi.plugins.state import State
from ksi.providers.base import ToolCallDelta
from ksi.providers.script import ScriptProvider
from ksi.testing.harness import EventTestHarness
from ksi.transport.tokens import TokenStore
from ksi.transport.unix import UnixServer
from tests.plugins.scripted import harness, script
from tests.plugins.test_agent_tools import GO, call, results
from tests.plugins.test_sandbox import ADA, ASKING, BOXED, SECRET, confined

TOOLS = ["sandbox:write", "sandbox:read", "sandbox:list", "sandbox:exec"]


def asked(*calls: tuple[str, dict[str, Any]]) -> list[ToolCallDelta]:
    """One answer of the model that asks for all of them."""
    return [
        call(f"sandbox__{verb}", msgspec.json.encode(given).decode(), number)
        for number, (verb, given) in enumerate(calls)
    ]


@pytest.fixture
def home(tmp_path: Path) -> Home:
    home = Home(tmp_path)
    home.data.mkdir()
    home.token_file.write_text(SECRET)
    return home


@pytest.fixture
def provider(home: Home) -> ScriptProvider:
    """A model that works in its directory, then looks for every way out of it, then runs commands."""
    inside = home.sandboxes / "ada"
    reaching = ("cat", str(home.token_file))
    return script(
        [
            asked(
                ("write", {"path": "notes/sea.md", "text": "It is blue."}),
                ("read", {"path": "notes/sea.md"}),
                ("write", {"path": "asking.py", "text": ASKING}),
            ),
            asked(
                ("read", {"path": "../../token"}),
                ("read", {"path": str(home.token_file)}),
                ("read", {"path": "symbolic"}),
                ("read", {"path": "hard"}),
                ("write", {"path": "folder/token", "text": "mine"}),
                ("read", {"path": "x", "agent": "ben"}),
            ),
            asked(
                ("exec", {"command": ["cat", "notes/sea.md"]}),
                ("exec", {"command": list(reaching)}),
                ("exec", {"command": ["cat", f"{inside}/symbolic"]}),
                ("exec", {"command": ["python", "asking.py"]}),
                ("read", {"path": "said.json"}),
                ("exec", {"command": ["python", "asking.py", "nobody"]}),
                ("read", {"path": "said.json"}),
            ),
            "Nothing.",
        ]
    )


@pytest.fixture
async def ksi(home: Home, provider: ScriptProvider) -> AsyncIterator[EventTestHarness]:
    tokens = TokenStore(home.tokens)
    profiles = {"boxed": BOXED, "open": ProfileSection(allow=("*",))}
    config = Config(home=home, permission=PermissionSection(profiles=profiles, principals={ADA: "boxed"}))

    class Configured(AsyncPlugin):
        name = "configured"
        provides = (Config, Tokens)

        def services(self) -> Mapping[type, Any]:
            return {Config: config, Tokens: tokens}

    more = (Configured, Permission, State, Agent, Sandbox)
    async with (
        harness(provider, more=more, home=home.path) as ksi,
        UnixServer(ksi.kernel.router, home.socket, tokens=tokens),
    ):
        yield ksi


@confined
async def test_a_turn_works_in_its_directory_and_finds_no_way_out(
    ksi: EventTestHarness, home: Home, provider: ScriptProvider
) -> None:
    inside = home.sandboxes / "ada"
    inside.mkdir(parents=True)
    (inside / "symbolic").symlink_to(home.token_file)
    (inside / "folder").symlink_to(home.data)
    os.link(home.token_file, inside / "hard")
    await ksi.request("agent:spawn", {"agent": "ada", "tools": TOOLS})
    turn = await ksi.request("agent:send_message", GO)
    assert turn["text"] == "Nothing."

    written, read, _ = results(provider.requests[1])
    assert not written.is_error
    assert "It is blue." in read.content
    for refused in results(provider.requests[2]):
        assert refused.is_error, refused.content
        assert refused.content.partition(":")[0] in {"validation_error", "permission_denied", "not_found"}

    own, secret, link, _, as_agent, _, as_nobody = (each.content for each in results(provider.requests[3]))
    assert "It is blue." in own
    assert all('"exit_code":1' in each for each in (secret, link))
    assert "agent:ada" in as_agent
    assert as_agent.count("permission_denied") == 2
    assert as_nobody.count("unauthorized") == 3

    assert home.token_file.read_text() == SECRET
    told = [part.content for request in provider.requests for part in results(request)]
    assert not any(SECRET in each for each in told)
