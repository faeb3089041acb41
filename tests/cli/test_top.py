"""The screen of ``ksi top``, driven by its pilot on a real daemon."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

pytest.importorskip("textual", reason="the extra tui is not installed")

from textual.pilot import Pilot
from textual.widgets import DataTable, RichLog, Static

from ksi.cli.board import Board
from ksi.client.client import EventClient
from ksi.testing.daemon_process import DaemonProcess

REHEARSED = {"providers.default": "script", "providers.script": "There was a lighthouse"}


@pytest.fixture
async def daemon(tmp_path: Path) -> AsyncIterator[DaemonProcess]:
    async with DaemonProcess(tmp_path / "home", settings=REHEARSED) as daemon:
        yield daemon


async def until(pilot: Pilot[None], holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not holds():
            await pilot.pause(0.02)


def cells(board: Board, name: str) -> list[list[str]]:
    table = board.query_one(f"#{name}", DataTable)
    return [table.get_row_at(row) for row in range(table.row_count)]


def lines(board: Board) -> str:
    return "\n".join(strip.text for strip in board.query_one("#events", RichLog).lines)


async def test_what_happens_is_seen_as_it_happens(daemon: DaemonProcess) -> None:
    board = Board(daemon.home.path, branch="main")
    async with EventClient(home=daemon.home.path) as client, board.run_test(size=(160, 45)) as pilot:
        await client.request("budget:set", scope="agent:ada", tokens=5000)
        await client.request("agent:spawn", agent="ada")
        await client.request("agent:send_message", agent="ada", text="Tell me.")
        await until(pilot, lambda: "agent:answered" in lines(board))
        await until(pilot, lambda: any("lighthouse" in text for _, text in cells(board, "completions")))
        await until(pilot, lambda: [row[:3] for row in cells(board, "agents")] == [["ada", "idle", "1"]])
        await until(pilot, lambda: cells(board, "budgets")[0][0] == "agent:ada")
        assert "healthy" in str(board.query_one("#health", Static).render())


async def test_a_filter_and_a_pause_hide_events(daemon: DaemonProcess) -> None:
    board = Board(daemon.home.path, branch="main")
    async with EventClient(home=daemon.home.path) as client, board.run_test(size=(160, 45)) as pilot:
        await pilot.press("f", *"agent:", "enter")
        assert board.shown_pattern == "agent:"
        await client.request("state:set", key="a", value=1)
        await client.request("agent:spawn", agent="ada")
        await until(pilot, lambda: "agent:spawned" in lines(board))
        assert "state:value_was_set" not in lines(board)
        await pilot.press("p")
        seen = board.seen
        await client.request("agent:spawn", agent="ben")
        await until(pilot, lambda: board.seen > seen)
        assert "ben" not in lines(board)


async def test_a_daemon_that_goes_is_said_and_comes_back(daemon: DaemonProcess) -> None:
    board = Board(daemon.home.path, branch="main")
    async with board.run_test(size=(160, 45)) as pilot:
        await until(pilot, lambda: "healthy" in str(board.query_one("#health", Static).render()))
        await daemon.kill()
        await daemon.start()
        before = board.seen
        async with EventClient(home=daemon.home.path) as client:
            await client.request("agent:spawn", agent="ada")
        await until(pilot, lambda: board.seen > before and "agent:spawned" in lines(board))
