"""What foreign code may raise is answered; who cancels, cancels for himself only."""

from __future__ import annotations

import asyncio
import sys
from typing import Any

import pytest

from ksi.core.envelope import EventEnvelope
from ksi.core.errors import CancelledError, DeclarationError, InternalError, KSIError
from ksi.kernel.context import EventContext
from ksi.kernel.declare import event, query
from ksi.kernel.door import Session
from ksi.kernel.loader import Source
from ksi.kernel.plugin import AsyncPlugin
from ksi.kernel.plugins import Plugins
from ksi.testing.harness import EventTestHarness

Answers = asyncio.Queue[tuple[bytes | None, KSIError | None]]


class Panic(BaseException):
    """As extensions in other languages raise."""


class Leaving(AsyncPlugin):
    name = "leaving"

    @query("leaving:inline", inline=True)
    def inline(self, how: str) -> None:
        leave(how)

    @query("leaving:query")
    async def ask(self, how: str) -> None:
        await asyncio.sleep(0)
        leave(how)

    @event("leaving:command", key=lambda payload: "leaving")
    async def command(self, how: str) -> None:
        await asyncio.sleep(0)
        leave(how)

    @event("leaving:thread", blocking=True)
    def thread(self, how: str) -> None:
        leave(how)


def leave(how: str) -> None:
    match how:
        case "exit":
            sys.exit(4)
        case "interrupt":
            raise KeyboardInterrupt
        case _:
            raise Panic


@pytest.mark.parametrize("how", ["exit", "interrupt", "panic"])
@pytest.mark.parametrize("verb", ["inline", "query", "command", "thread"])
async def test_code_that_wants_to_leave_is_answered_and_leaves_no_key_taken(verb: str, how: str) -> None:
    async with EventTestHarness(Leaving) as ksi:
        for _ in range(2):
            with pytest.raises(InternalError):
                await ksi.request(f"leaving:{verb}", {"how": how})


async def test_a_handler_that_answers_after_its_cancel_is_cancelled_and_says_so() -> None:
    began = asyncio.Event()

    class Stubborn(AsyncPlugin):
        name = "stubborn"

        @event("stubborn:work")
        async def work(self, context: EventContext) -> int:
            began.set()
            try:
                await asyncio.sleep(3600)
            except asyncio.CancelledError:
                return 1
            return 2

    answers: Answers = asyncio.Queue()
    async with EventTestHarness(Stubborn) as ksi:
        call = ksi.kernel.router.dispatch(
            EventEnvelope(name="stubborn:work"), Session(principal="p", source="t"), _note(answers), None
        )
        await began.wait()
        assert call is not None
        call.cancel()
        raw, error = await answers.get()
    assert raw is None
    assert isinstance(error, CancelledError)


async def test_who_cancels_a_request_that_others_joined_leaves_it_to_them() -> None:
    began, go = asyncio.Event(), asyncio.Event()

    class Slow(AsyncPlugin):
        name = "slow"

        @event("slow:work")
        async def work(self) -> int:
            began.set()
            await go.wait()
            return 7

    first: Answers = asyncio.Queue()
    second: Answers = asyncio.Queue()
    async with EventTestHarness(Slow) as ksi:
        session = Session(principal="p", source="t")
        dispatch = ksi.kernel.router.dispatch
        call = dispatch(EventEnvelope(name="slow:work", id=b"\1" * 16), session, _note(first), None)
        await began.wait()
        dispatch(EventEnvelope(name="slow:work", id=b"\1" * 16), session, _note(second), None)
        assert call is not None
        call.cancel()
        go.set()
        assert await second.get() == (b"7", None)
        assert isinstance((await first.get())[1], CancelledError)


def _note(answers: Answers) -> Any:
    return lambda token, raw, error: answers.put_nowait((raw, error))


class Nameless(AsyncPlugin):
    """It forgot its name."""


class Wordy(AsyncPlugin):
    name = "wordy"
    requires = ("other",)  # type: ignore[assignment]  # what is tested


@pytest.mark.parametrize(("kind", "word"), [(Nameless, "name"), (Wordy, "interfaces")])
async def test_a_class_that_says_wrong_things_of_itself_is_told_and_the_daemon_runs(kind: type, word: str) -> None:
    async with EventTestHarness(Leaving, kind) as ksi:
        plugins = ksi.kernel.services.get(Plugins)
        (failed,) = [info for info in plugins.list_plugins() if info.status == "failed"]
        assert word in (failed.problem or "")
        with pytest.raises(DeclarationError, match=word):
            await plugins.load(f"{__name__}:{kind.__name__}")


def test_a_module_that_wants_to_leave_is_an_error_of_its_own(tmp_path: Any) -> None:
    file = tmp_path / "leaves.py"
    file.write_text("raise SystemExit(3)")
    with pytest.raises(KSIError, match="SystemExit"):
        Source(str(file)).classes(1)


@pytest.mark.parametrize("how", ["exit", "interrupt", "panic"])
async def test_a_task_of_a_plugin_that_wants_to_leave_leaves_the_daemon_running(
    how: str, caplog: pytest.LogCaptureFixture
) -> None:
    class Restless(AsyncPlugin):
        name = "restless"

        async def initialize(self) -> None:
            self.task = self.host.spawn(self.run())

        async def run(self) -> None:
            await asyncio.sleep(0)
            leave(how)

        @query("restless:ask")
        async def ask(self) -> int:
            await self.task
            return 1

    async with EventTestHarness(Restless) as ksi:
        assert await ksi.request("restless:ask") == 1
    assert "task of plugin restless failed" in caplog.text


@pytest.mark.parametrize("how", ["exit", "panic"])
async def test_a_plugin_that_wants_to_leave_at_its_start_is_reported(how: str) -> None:
    class Early(AsyncPlugin):
        name = "early"

        async def initialize(self) -> None:
            leave(how)

    async with EventTestHarness(Leaving, Early) as ksi:
        statuses = {info.name: info.status for info in ksi.kernel.services.get(Plugins).list_plugins()}
        assert statuses == {"leaving": "running", "early": "failed"}
