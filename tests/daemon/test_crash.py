"""Processes that end in the middle of a step, and what a retry gets."""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path

import pytest

from ksi.client.client import Options
from ksi.core import ids
from ksi.core.errors import ConflictError, OutcomeUnknownError
from ksi.testing.daemon_process import DaemonProcess
from tests.daemon.audit import Books
from tests.daemon.chains import chains_killed_between_their_steps
from tests.daemon.deadly import DIE, EXIT_CODE
from tests.daemon.ledger import OUTSIDE, lines


def dies_at(daemon: DaemonProcess, step: str) -> None:
    (daemon.home.path / DIE).write_text(step)


def world(daemon: DaemonProcess) -> list[str]:
    return lines(daemon.home.path / OUTSIDE)


def with_id() -> Options:
    return Options(event_id=ids.text(ids.new_id()))


# ── effects ──────────────────────────────────────────────────────────────────────────────────────────────────────────
async def test_a_process_that_ends_inside_an_effect_leaves_a_request_whose_outcome_is_unknown(
    daemon: DaemonProcess,
) -> None:
    options = with_id()
    dies_at(daemon, "second 1")
    async with daemon.client() as client:
        asked = asyncio.create_task(client.request("deadly:pay", number=1, options=options))
        assert await daemon.ended() == EXIT_CODE
        await daemon.start()
        with pytest.raises(OutcomeUnknownError):
            await asked
        with pytest.raises(OutcomeUnknownError):
            await client.request("deadly:pay", number=1, options=options)
        requests = await client.request("log:read", pattern="deadly:pay", kinds=["request"])
    assert [request["event_id"] for request in requests["events"]] == [options.event_id]
    assert world(daemon) == ["first 1", "second 1"]


async def test_a_rerun_is_served_the_effect_that_is_recorded_and_makes_only_the_one_that_is_not(
    daemon: DaemonProcess,
) -> None:
    dies_at(daemon, "second 1")
    async with daemon.client() as client:
        asked = asyncio.create_task(client.request("deadly:pay_again", number=1))
        await daemon.ended()
        await daemon.start()
        assert await asked == "paid"
    assert world(daemon) == ["first 1", "second 1", "second 1"]


async def test_an_effect_that_is_not_idempotent_is_not_made_again_by_a_rerun(daemon: DaemonProcess) -> None:
    dies_at(daemon, "second 1")
    async with daemon.client() as client:
        asked = asyncio.create_task(client.request("deadly:pay_rerun", number=1))
        await daemon.ended()
        await daemon.start()
        with pytest.raises(OutcomeUnknownError) as caught:
            await asked
    assert "world:second" in caught.value.what
    assert world(daemon) == ["first 1", "second 1"]


# ── duplicates ───────────────────────────────────────────────────────────────────────────────────────────────────────
async def test_a_duplicate_joins_the_one_that_runs_and_one_with_other_content_is_a_conflict(
    daemon: DaemonProcess,
) -> None:
    options = with_id()
    async with daemon.client() as one, daemon.client() as other:
        first = asyncio.create_task(one.request("deadly:wait", number=1, options=options))
        await one.request("system:health")  # behind the first on its connection
        second = asyncio.create_task(other.request("deadly:wait", number=1, options=options))
        with pytest.raises(ConflictError):
            await other.request("deadly:wait", number=2, options=options)
        await other.request("deadly:open")
        assert (await first, await second) == (1, 1)
    assert world(daemon) == ["wait 1"]


async def test_a_duplicate_gets_the_first_answer_also_after_a_restart(daemon: DaemonProcess) -> None:
    options = with_id()
    async with daemon.client() as client:
        for _ in range(2):
            assert await client.request("counter:add", name="a", options=options) == 1
            with pytest.raises(ConflictError):
                await client.request("counter:add", name="b", options=options)
            with pytest.raises(ConflictError):
                await client.request("ledger:note", number=1, options=options)
            await daemon.kill()
            await daemon.start()
        assert await client.request("counter:add", name="a") == 2


# ── nested commands, emits, loops of crashes ─────────────────────────────────────────────────────────────────────────
async def test_nested_commands_stand_once_whenever_the_process_ends_between_them(tmp_path: Path) -> None:
    await chains_killed_between_their_steps(tmp_path / "home", kills=5, seed=1)


async def test_emits_whose_start_a_crash_prevented_run_after_the_restart(daemon: DaemonProcess) -> None:
    async with daemon.client() as client:
        asked = asyncio.create_task(client.request("deadly:note", number=7))
        assert await daemon.ended() == EXIT_CODE
        echoes = client.subscribe("ledger:was_echoed", after="start").open()
        await daemon.start()
        async with asyncio.timeout(30), echoes:
            assert (await anext(echoes)).data["data"] == {"number": 7}
        assert await asked == {}
    await daemon.stop()
    books = await Books.of(daemon.home)
    books.check_whole()
    assert Counter(fact.name for fact in books.facts)["ledger:was_echoed"] == 1


async def test_a_request_that_ends_the_process_each_time_runs_three_times_and_no_more(daemon: DaemonProcess) -> None:
    options = with_id()
    async with daemon.client() as client:
        sent = asyncio.create_task(client.send("deadly:always", options=options))
        assert await daemon.ended() == EXIT_CODE
        for _ in range(2):
            await daemon.spawn()
            assert await daemon.ended() == EXIT_CODE
        await daemon.start()
        assert (await sent).event_id == options.event_id
        with pytest.raises(OutcomeUnknownError):
            await client.request("deadly:always", options=options)
        assert (await client.request("system:health"))["status"] == "healthy"
    assert world(daemon) == ["run"] * 3
    assert await daemon.stop() == 0
