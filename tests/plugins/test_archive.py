"""Archives as a user meets them: what an archived run answers, what leaves of itself, what of the log is what."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from ksi.core.config import Config, RetentionSection, StoreSection
from ksi.core.errors import ArchivedError, KSIConnectionError, UnsupportedError, ValidationError
from ksi.core.events import Filter
from ksi.core.home import Home
from ksi.core.ports import Journal
from ksi.core.threads import InlineThreads
from ksi.kernel.plugin import AsyncPlugin
from ksi.plugins import archive
from ksi.plugins.archive import ArchivePlugin
from ksi.plugins.correlation import Correlation
from ksi.plugins.log import Log
from ksi.store.offline import sizes_of_file
from ksi.store.sqlite_log import SqliteEventStore
from ksi.testing.harness import EventTestHarness
from ksi.testing.loop import VirtualClockLoop
from tests.kernel.replaying import newest_run
from tests.plugins.scripted import STORY, harness, script
from tests.plugins.test_replay import again

DAY = 86_400.0


@pytest.fixture
async def log(tmp_path: Path) -> AsyncIterator[Journal]:
    async with SqliteEventStore.open(tmp_path / "events.db", threads=InlineThreads()) as store:
        yield store


async def told(ksi: EventTestHarness) -> str:
    """The run of a completion."""
    await ksi.request("completion:create", {"prompt": "Go.", "conversation": "c1"})
    return await newest_run(ksi.log)


async def end_of(log: Journal) -> int:
    return (await log.head() or 0) + 1


async def test_a_run_of_which_chunks_are_archived_says_which_file_it_needs(log: Journal, tmp_path: Path) -> None:
    file = str(tmp_path / "old.archive")
    async with harness(script([STORY]), more=[ArchivePlugin, Correlation, Log], log=log) as ksi:
        run = await told(ksi)
        before = await again(ksi, run)
        tree = await ksi.request("correlation:tree", {"run": run})
        await ksi.request("store:archive", {"path": file, "before": await end_of(log)})
        with pytest.raises(ArchivedError) as caught:
            await again(ksi, run)
        assert caught.value.file == file
        with pytest.raises(ArchivedError):
            await ksi.request("log:get", {"id": f"@{caught.value.position}"})
        # Lists need no payload, and name the file.
        listed = (await ksi.request("correlation:runs"))["runs"]
        assert run in [each["run"] for each in listed]
        now = await ksi.request("correlation:tree", {"run": run})
        assert [node["name"] for node in now["tree"]] == [node["name"] for node in tree["tree"]]
        page = await ksi.request("log:read", {"kinds": ["chunk"]})
        assert {(each["data"], each["metadata"]["archived"]) for each in page["events"]} == {(None, file)}
        attached = await ksi.request("store:attach", {"path": file})
        assert attached["rows"] > 0
        assert await again(ksi, run) == before
        assert (await ksi.request("log:verify"))["problems"] == []


async def test_an_archive_that_a_crash_cut_off_is_finished_by_the_next_start(log: Journal, tmp_path: Path) -> None:
    file = tmp_path / "old.archive"
    async with harness(script([STORY]), more=[ArchivePlugin], log=log) as ksi:
        run = await told(ksi)
        asked = {"path": str(file), "before": await end_of(log)}
        asking = asyncio.get_running_loop().create_task(ksi.request("store:archive", asked))
        begun = Filter(names=("effect:requested",), kinds=("request",))
        async with log.subscribe([begun], after="end") as effects:
            assert [effect.data["effect"] async for effect in first(effects)] == ["store:archive"]
        await ksi.crash()
        with pytest.raises(KSIConnectionError):
            await asking
        assert ksi.recovered.rerun == 1
        async with log.subscribe([Filter(names=("store:archive",), kinds=("outcome",))], after="start") as ends:
            assert [end.data["ok"] async for end in first(ends)] == [True]
        with pytest.raises(ArchivedError):
            await again(ksi, run)
        assert await log.verify() == []


async def first(events: Any) -> AsyncIterator[Any]:
    async for event in events:
        yield event
        return


async def test_a_file_that_is_not_named_from_the_root_on_is_refused(log: Journal) -> None:
    async with EventTestHarness(ArchivePlugin, log=log) as ksi:
        for name in ("store:archive", "store:attach"):
            with pytest.raises(ValidationError):
                await ksi.request(name, {"path": "old.archive"} | ({"before": 1} if name.endswith("archive") else {}))
        with pytest.raises(UnsupportedError):
            await ksi.request("store:apply_retention")


async def test_what_of_the_log_is_what_is_said_in_bytes(log: Journal, tmp_path: Path) -> None:
    file = str(tmp_path / "old.archive")
    async with harness(script([STORY]), more=[ArchivePlugin], log=log) as ksi:
        await told(ksi)
        sizes = await ksi.request("store:sizes")
        assert sizes["chunks"] > sizes["facts"] > 0
        assert sizes["effects"] > 0 < sizes["requests"]
        assert (sizes["archived"], sizes["is_estimate"]) == (0, False)
        await ksi.request("store:archive", {"path": file, "before": await end_of(log)})
        left = await ksi.request("store:sizes")
        assert left["chunks"] == 0 < left["archived"] < sizes["chunks"] + sizes["effects"]
        assert left["facts"] > 0 < left["requests"]
    await log.close()
    assert sizes_of_file(tmp_path / "events.db").archived == left["archived"]


# ── of itself ────────────────────────────────────────────────────────────────────────────────────────────────────────
def keeping(home: Path, retention: RetentionSection) -> type[AsyncPlugin]:
    class Configured(AsyncPlugin):
        name = "configured"
        provides = (Config,)

        def services(self) -> Mapping[type, Any]:
            return {Config: Config(home=Home(home), store=StoreSection(retention=retention))}

    return Configured


@pytest.mark.virtual(horizon=100 * DAY)
async def test_what_is_too_old_leaves_of_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive, "LEAST", 1)
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualClockLoop)
    config = keeping(tmp_path, RetentionSection(chunks_days=30, effects_days=90))
    opened = SqliteEventStore.open(tmp_path / "events.db", clock=loop.clock, threads=InlineThreads())
    async with opened as log, harness(script([STORY, STORY]), more=[config, ArchivePlugin], log=log) as ksi:
        run = await told(ksi)
        await asyncio.sleep(29 * DAY)
        assert await ksi.facts("store:was_archived") == []
        young = await told(ksi)
        await asyncio.sleep(2 * DAY)
        (chunks,) = await ksi.facts("store:was_archived")
        assert chunks.data["categories"] == ["chunks"]
        assert Path(chunks.data["path"]).parent == Home(tmp_path).archives
        with pytest.raises(ArchivedError):
            await again(ksi, run)
        assert (await again(ksi, young)).chunks == len(STORY.split())
        await asyncio.sleep(60 * DAY)
        assert [fact.data["categories"] for fact in await ksi.facts("store:was_archived")] == [
            ["chunks"],
            ["chunks"],
            ["effects"],
        ]
        assert await log.verify() == []
        assert await ksi.request("store:apply_retention") == {"archives": []}
