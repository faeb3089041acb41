"""What follows the log follows ``main``: to ask for it elsewhere is refused, not recorded where nobody sees it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from ksi.core.errors import UnsupportedError
from ksi.plugins.branch import Branch
from ksi.plugins.permission import Permission
from ksi.plugins.route import RoutePlugin
from ksi.plugins.schedule import Scheduler
from ksi.plugins.state import State
from ksi.testing.harness import EventTestHarness

EVERY_SECOND = {"name": "tick", "event": "state:set", "data": {"key": "a", "value": 2}, "every": 1}


@pytest.mark.parametrize(
    ("event", "data"),
    [
        ("schedule:add", EVERY_SECOND),
        ("schedule:remove", {"name": "tick"}),
        ("route:add", {"name": "copy", "pattern": "state:*", "target": "state:set"}),
        ("route:remove", {"name": "copy"}),
        ("permission:grant", {"principal": "agent:ada", "allow": ["state:*"]}),
        ("permission:revoke", {"principal": "agent:ada"}),
        ("permission:assign", {"principal": "agent:ada", "profile": "restricted"}),
    ],
)
async def test_what_is_of_main_is_not_changed_on_a_branch(event: str, data: Mapping[str, Any]) -> None:
    async with EventTestHarness(State, Branch, Permission, RoutePlugin, Scheduler) as ksi:
        await ksi.request("state:set", {"key": "a", "value": 1})
        await ksi.request("store:fork", {"name": "aside"})
        with pytest.raises(UnsupportedError, match="not on the branch 'aside'"):
            await ksi.request(event, data, branch="aside")
