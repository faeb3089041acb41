"""The screen of ``ksi top``: four tables and the events below them, all out of one connection."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from textual.app import App, ComposeResult
from textual.binding import BindingType
from textual.containers import Horizontal, Vertical
from textual.widgets import DataTable, Footer, Header, Input, RichLog, Static

from ksi.cli.output import json_line, time_of
from ksi.client.client import EventClient
from ksi.core.errors import KSIError
from ksi.core.patterns import matches

PERIOD = 1.0
"""Seconds between two looks at agents, budgets and health; events come by themselves."""
EVENTS_MAX = 2_000
TEXT_MAX = 400
KINDS = ["fact", "request", "outcome", "chunk"]
Cells = Sequence[str]


class Board(App[None]):
    """Agents, completions, budgets and health above, events below. A filter hides events; nothing is asked twice."""

    TITLE = "ksi top"
    AUTO_FOCUS = "#events"
    CSS = """
    #tables { height: 40%; }
    #tables Vertical { border: round $primary; }
    #tables Static { text-style: bold; }
    #events { border: round $primary; }
    Input { display: none; }
    Input.shown { display: block; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        ("q", "quit", "leave"),
        ("f", "filter", "filter"),
        ("p", "pause", "pause"),
        ("c", "clear", "clear"),
    ]

    def __init__(self, home: Path, *, branch: str, pattern: str = "*") -> None:
        super().__init__()
        self.shown_pattern = pattern
        self.is_paused = False
        self.seen = 0
        self._client = EventClient(home=home, name="ksi top", branch=branch)
        self._texts: dict[str, str] = {}

    # ── the screen ───────────────────────────────────────────────────────────────────────────────────────────────────
    def compose(self) -> ComposeResult:
        yield Header(show_clock=True)
        yield Static(id="health")
        with Horizontal(id="tables"):
            for name, columns in TABLES.items():
                with Vertical():
                    yield Static(name)
                    table: DataTable[str] = DataTable(id=name, cursor_type="none", zebra_stripes=True)
                    table.add_columns(*columns)
                    yield table
        yield Input(placeholder="events: a name with * in it, or agent:", id="filter")
        yield RichLog(id="events", max_lines=EVENTS_MAX, wrap=False)
        yield Footer()

    async def on_mount(self) -> None:
        await self._client.connect()
        self.run_worker(self._follow(), exclusive=False)
        await self._look()
        self.set_interval(PERIOD, self._look)

    async def on_unmount(self) -> None:
        await self._client.close()

    # ── keys ─────────────────────────────────────────────────────────────────────────────────────────────────────────
    def action_filter(self) -> None:
        field = self.query_one("#filter", Input)
        field.add_class("shown")
        field.focus()

    def on_input_submitted(self, submitted: Input.Submitted) -> None:
        self.shown_pattern = submitted.value or "*"
        submitted.input.remove_class("shown")
        self.query_one("#events", RichLog).focus()

    def action_pause(self) -> None:
        self.is_paused = not self.is_paused

    def action_clear(self) -> None:
        self.query_one("#events", RichLog).clear()

    # ── what is shown ────────────────────────────────────────────────────────────────────────────────────────────────
    async def _follow(self) -> None:
        async with self._client.subscribe("*", after="end", kinds=KINDS) as events:
            async for chunk in events:
                self._take(chunk.data)

    def _take(self, event: Mapping[str, Any]) -> None:
        self.seen += 1
        if event["kind"] == "chunk" and event["stream"].startswith("completion/"):
            text = self._texts.get(event["stream"], "") + str(event["data"].get("text", ""))
            self._texts[event["stream"]] = text[-TEXT_MAX:]
            self._fill("completions", [(name.removeprefix("completion/")[:13], said) for name, said in self._newest()])
        if not self.is_paused and event["kind"] != "chunk" and matches(self.shown_pattern, event["name"]):
            when, data = time_of(event["recorded_at"]), json_line(event["data"])
            line = f"@{event['position']:<7} {when}  {event['name']} ({event['kind']})  {event['stream']}  {data}"
            self.query_one("#events", RichLog).write(line[:500])

    def _newest(self) -> list[tuple[str, str]]:
        """The completions that spoke last, the newest first."""
        self._texts = dict(list(self._texts.items())[-20:])
        return [(name, text[-60:].replace("\n", " ")) for name, text in reversed(self._texts.items())]

    async def _look(self) -> None:
        try:
            health = await self._client.request("system:health")
            agents = (await self._client.request("agent:list"))["agents"]
            budgets = (await self._client.request("budget:list"))["budgets"]
            status = await self._client.request("completion:status")
        except KSIError as error:
            self._say(f"[bold red]{error.code}[/]  {error.message}")
            return
        self._fill("agents", [_agent(each) for each in agents])
        self._fill("budgets", [_budget(each) for each in budgets])
        queues = f"{status['running']} running, {status['queued']} queued"
        said = f"{health['status']}   @{health['head']}   {queues}   {health['in_flight']} in flight   {self.seen} seen"
        self._say(said)

    def _say(self, words: str) -> None:
        for line in self.query("#health").results(Static):
            line.update(words)

    def _fill(self, name: str, rows: Sequence[Cells]) -> None:
        for table in self.query(f"#{name}").results(DataTable):  # none, where the screen is being left
            table.clear()
            for cells in rows:
                table.add_row(*cells)


TABLES: Mapping[str, Cells] = {
    "agents": ("AGENT", "STATUS", "TURNS", "TOKENS"),
    "completions": ("COMPLETION", "TEXT"),
    "budgets": ("SCOPE", "TOKENS", "SPENT", "HELD"),
}


def _agent(agent: Mapping[str, Any]) -> Cells:
    return agent["agent"], agent["status"], str(agent["turns"]), str(agent["input_tokens"] + agent["output_tokens"])


def _budget(budget: Mapping[str, Any]) -> Cells:
    cap = "-" if budget["tokens"] is None else str(budget["tokens"])
    return budget["scope"], cap, str(budget["tokens_spent"]), str(budget["tokens_held"])
