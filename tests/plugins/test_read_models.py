"""All read models of the built-in services come out of the log: what is deleted is there again after the next start."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import apsw
import pytest

from ksi.core.ports import Journal
from ksi.core.views import View
from ksi.daemon import BUILT_IN
from ksi.kernel.loader import Source
from ksi.plugins.completion import Completion
from ksi.plugins.conversation import Conversation
from ksi.store.offline import verify_file
from ksi.store.sqlite_log import SqliteEventStore
from ksi.testing.harness import EventTestHarness
from tests.plugins.scripted import harness, rest, script

PLUGINS = [plugin for target in BUILT_IN for plugin in Source(target).classes(1) if plugin.views]
VIEWS: list[type[View[Any]]] = [view for plugin in PLUGINS for view in plugin.views]
MORE = [plugin for plugin in PLUGINS if plugin not in (Completion, Conversation)]  # those the harness brings


async def live(ksi: EventTestHarness) -> None:
    """Do something of which each read model tells."""
    for number in range(30):
        await ksi.request("state:set", {"key": f"k{number % 7}", "value": {"n": number}})
    await ksi.request("state:delete", {"key": "k3"})
    await ksi.request("route:add", {"name": "none", "pattern": "state:", "target": "state:set", "when": "false"})
    await ksi.request("budget:set", {"scope": "all", "tokens": 100_000})
    await ksi.request(
        "schedule:add", {"name": "tick", "event": "state:set", "data": {"key": "t", "value": 1}, "every": 3e8}
    )
    await ksi.request("message:queue", {"queue": "letters", "data": {"to": "fox"}})
    for agent in ("fox", "hen"):
        await ksi.request("agent:spawn", {"agent": agent})
        for text in ("Who are you?", "Really?"):
            await rest(ksi.stream("agent:send_message", {"agent": agent, "text": text}))
    await ksi.request("agent:terminate", {"agent": "hen"})
    stream = ksi.stream("completion:create", {"prompt": "Tell me."})
    await anext(aiter(stream))
    stream.cancel()
    await rest(stream)


async def records(log: Journal) -> Mapping[str, list[Any]]:
    """Of all views, in the order of the key and of each index."""
    found: dict[str, list[Any]] = {}
    for view in VIEWS:
        for index in (None, *view.indexes):
            page = await log.view(view).scan(index, limit=1000)
            found[f"{view.name} {index}"] = list(page.records)
    return found


def delete_read_models(path: Path, also: str) -> list[str]:
    """Their tables, and ``also`` something of the list that says where they stood."""
    connection = apsw.Connection(str(path))
    tables = [
        name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE name LIKE 'view:%' ORDER BY name")
    ]
    for table in tables:
        connection.execute(f'DROP TABLE "{table}"')
    connection.execute(also)
    connection.close()
    return tables


@pytest.mark.parametrize("also", ["DELETE FROM views", "", "DROP TABLE views"])
async def test_deleted_read_models_are_equal_to_before_after_the_next_start(tmp_path: Path, also: str) -> None:
    path, provider = tmp_path / "events.db", script()
    async with SqliteEventStore.open(path) as log, harness(provider, more=MORE, log=log) as ksi:
        await live(ksi)
        before = await records(log)
    assert [name for name, found in before.items() if not found] == []
    assert delete_read_models(path, also) == sorted(f"view:{view.name}" for view in VIEWS)
    if also:
        assert verify_file(path).problems == []
    async with SqliteEventStore.open(path) as log, harness(provider, more=MORE, log=log):
        assert await records(log) == before
        assert await log.verify() == []


async def test_a_rebuild_of_each_changes_nothing(tmp_path: Path) -> None:
    async with SqliteEventStore.open(tmp_path / "events.db") as log, harness(
        script(), more=MORE, log=log
    ) as ksi:  # fmt: skip
        await live(ksi)
        before = await records(log)
        for view in VIEWS:
            rebuilt = await log.projections.rebuild(view.name)
            assert (rebuilt.added, rebuilt.removed, rebuilt.changed, rebuilt.examples) == (0, 0, 0, [])
            assert rebuilt.records == len(before[f"{view.name} None"])
        assert await records(log) == before
    async with SqliteEventStore.open(tmp_path / "events.db") as log, harness(script(), more=MORE, log=log):
        assert await records(log) == before
