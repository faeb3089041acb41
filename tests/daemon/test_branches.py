"""A daemon whose log is forked: two lines of history, neither of which sees the other."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from ksi.client.client import EventClient
from ksi.core.errors import ConflictError, NotFoundError
from ksi.testing.daemon_process import DaemonProcess

REHEARSED = {"providers.default": "script", "providers.script": "There was a lighthouse"}


@pytest.fixture
async def forked(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[DaemonProcess]:
    home = tmp_path_factory.mktemp("forked") / "home"
    async with DaemonProcess(home, settings=REHEARSED) as daemon:
        yield daemon


def on(daemon: DaemonProcess, branch: str = "main") -> EventClient:
    return EventClient(home=daemon.home.path, branch=branch)


async def test_both_go_on_and_their_difference_is_told(forked: DaemonProcess) -> None:
    async with on(forked) as main, on(forked, "exp") as exp:
        await main.request("state:set", key="colour", value="red")
        fork = await main.request("store:fork", name="exp")
        await main.request("state:set", key="colour", value="green")
        assert (await exp.request("state:set", key="colour", value="blue"))["version"] == 2
        assert (await main.request("state:get", key="colour"))["value"] == "green"
        assert (await exp.request("state:get", key="colour"))["value"] == "blue"
        diff = await main.request("store:diff", one="main", other="exp")
        assert diff["since"] == fork["forked_at"]
        assert [each["entity"] for each in diff["entities"]] == ["state/default"]
        assert [info["name"] for info in (await main.request("store:branches"))["branches"]] == ["main", "exp"]


async def test_a_run_that_forked_or_discarded_is_replayed_without_doing_it_again(forked: DaemonProcess) -> None:
    async with on(forked) as main:
        await main.request("store:fork", name="exp")
        assert (await main.request("timetravel:replay", run="last"))["requests"] == 1
        await main.request("store:discard", name="exp")
        assert (await main.request("timetravel:replay", run="last"))["requests"] == 1
        assert [info["name"] for info in (await main.request("store:branches"))["branches"]] == ["main"]


async def test_runs_are_those_of_the_branch(forked: DaemonProcess) -> None:
    async with on(forked) as main, on(forked, "zero") as zero, on(forked, "none") as none:
        await main.request("state:set", key="colour", value="red")
        await main.request("store:fork", name="zero", at="@0")
        await zero.request("state:set", key="colour", value="blue")

        async def listed(client: EventClient) -> list[tuple[str, str]]:
            page = await client.request("correlation:runs")
            return [(run["name"], run["run"]) for run in page["runs"]]

        [(name, only)] = await listed(zero)
        assert name == "state:set"
        assert [name for name, _ in await listed(main)] == ["store:fork", "state:set"]
        assert (await zero.request("correlation:tree", run="last"))["run"] == only
        with pytest.raises(NotFoundError):
            await main.request("correlation:tree", run=only)
        with pytest.raises(NotFoundError):
            await none.request("correlation:runs")


async def test_an_agent_goes_on_in_another_way_on_a_branch(forked: DaemonProcess) -> None:
    async with on(forked) as main, on(forked, "exp") as exp:
        await main.request("agent:spawn", agent="ada")
        await main.request("agent:send_message", agent="ada", text="Begin.")
        await main.request("store:fork", name="exp")
        turn = await exp.request("agent:send_message", agent="ada", text="Go on.")
        said = [await each.request("conversation:get", conversation=turn["conversation"]) for each in (main, exp)]
        assert [len(each["messages"]) for each in said] == [2, 4]


async def test_it_is_all_there_after_kill_9(forked: DaemonProcess) -> None:
    async with on(forked) as main, on(forked, "exp") as exp:
        await main.request("state:set", key="n", value=1)
        await main.request("store:fork", name="exp", at="@1")
        await exp.request("state:set", key="n", value=2)
        await forked.kill()
        await forked.start()
        assert (await exp.request("state:get", key="n"))["value"] == 2
        assert (await main.request("state:get", key="n"))["value"] == 1
        assert (await main.request("log:verify"))["problems"] == []


async def test_work_of_one_key_waits_on_its_own_branch_only(forked: DaemonProcess) -> None:
    async with on(forked) as main, on(forked, "exp") as exp:
        await main.request("store:fork", name="exp")
        values = await asyncio.gather(
            *(each.request("state:set", key="n", value=number) for number in range(20) for each in (main, exp))
        )
        assert sorted(answer["version"] for answer in values) == sorted([*range(1, 21), *range(1, 21)])


async def test_what_is_not_there_is_refused(forked: DaemonProcess) -> None:
    async with on(forked) as main, on(forked, "nowhere") as nowhere:
        with pytest.raises(NotFoundError):
            await nowhere.request("state:set", key="n", value=1)
        await main.request("store:fork", name="exp")
        with pytest.raises(ConflictError):
            await main.request("store:fork", name="exp")
        await main.request("store:discard", name="exp")
        for name in ("exp", "main"):
            with pytest.raises(NotFoundError):
                await main.request("store:discard", name=name)
