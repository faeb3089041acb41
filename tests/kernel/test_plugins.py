"""Plugins: services, order, load, unload and reload while requests are under way."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from textwrap import dedent
from typing import Any, Protocol

import pytest

from ksi.core.errors import (
    ConflictError,
    DeclarationError,
    DependencyCycleError,
    MissingServiceError,
    NoHandlerError,
    NotFoundError,
    PluginFailedError,
    UnknownEventError,
)
from ksi.kernel.declare import query
from ksi.kernel.graph import dependents, start_order
from ksi.kernel.plugins import DRAIN_TIMEOUT, Plugins
from ksi.kernel.router import Limits
from ksi.kernel.services import ServiceRegistry
from ksi.testing.harness import EventTestHarness
from tests.kernel.running import plugin, turns

pytestmark = [pytest.mark.virtual, pytest.mark.leakcheck]


class Clockwork(Protocol):
    limit: int

    def wind(self) -> None: ...


class Bell(Protocol):
    def ring(self) -> None: ...


class Both:
    limit = 1

    def wind(self) -> None: ...
    def ring(self) -> None: ...


# ── services and order ───────────────────────────────────────────────────────────────────────────────────────────────
def test_a_service_that_lacks_a_member_is_refused_by_its_name() -> None:
    class Half:
        limit = 1

    with pytest.raises(DeclarationError, match="lacks wind"):
        ServiceRegistry().register(Clockwork, Half(), owner="p")


class Mailbox(Protocol):
    async def send(self, to: str, text: str, *, urgent: bool = False) -> int: ...
    def read(self, after: int = 0) -> AsyncIterator[str]: ...
    def close(self) -> None: ...


class FittingMailbox:
    async def send(self, to: str, text: str = "", *more: str, urgent: bool = False, **other: Any) -> int:
        return 1

    async def read(self, after: int = 0, *, limit: int | None = None) -> AsyncIterator[str]:
        yield ""

    def close(self) -> None: ...


def replaced(**methods: Any) -> Any:
    return type("Wrong", (FittingMailbox,), methods)()


def test_a_service_may_take_more_than_its_interface_says() -> None:
    ServiceRegistry().register(Mailbox, FittingMailbox(), owner="p")


async def waits(self: Any) -> None: ...


def needs_more(self: Any, why: str) -> None: ...


async def knows_no_urgency(self: Any, to: str, text: str) -> int:
    return 1


async def calls_it_otherwise(self: Any, recipient: str, text: str, *, urgent: bool = False) -> int:
    return 1


def answers_at_once(self: Any, to: str, text: str, *, urgent: bool = False) -> int:
    return 1


async def reads_from_somewhere(self: Any, after: int) -> AsyncIterator[str]:
    yield ""


@pytest.mark.parametrize(
    ("name", "method", "reason"),
    [
        ("close", 1, "it can not be called"),
        ("close", needs_more, "missing a required argument: 'why'"),
        ("close", waits, "it is async"),
        ("send", knows_no_urgency, "unexpected keyword argument 'urgent'"),
        ("send", calls_it_otherwise, "missing a required argument: 'recipient'"),
        ("send", answers_at_once, "it is not async"),
        ("read", reads_from_somewhere, "missing a required argument: 'after'"),
    ],
)
def test_a_service_that_can_not_be_called_as_its_interface_says_is_told_what_to_write(
    name: str, method: Any, reason: str
) -> None:
    wrong = type("Wrong", (FittingMailbox,), {name: method})()
    with pytest.raises(DeclarationError) as caught:
        ServiceRegistry().register(Mailbox, wrong, owner="p")
    assert f"def {name}(self" in str(caught.value)
    assert reason in str(caught.value)


def test_a_service_has_one_owner_who_may_replace_it() -> None:
    services, first, second = ServiceRegistry(), Both(), Both()
    services.register(Clockwork, first, owner="p")
    services.register(Clockwork, second, owner="p")
    assert services.get(Clockwork) is second
    with pytest.raises(DeclarationError, match="provided by 'p' already"):
        services.register(Clockwork, first, owner="q")
    services.withdraw("p")
    with pytest.raises(MissingServiceError):
        services.get(Clockwork)


def test_whoever_is_needed_starts_first_and_a_circle_is_named() -> None:
    needs = {"a": ["b"], "b": ["c"], "c": [], "d": []}
    assert start_order(needs) == ["c", "b", "a", "d"]
    assert dependents("c", needs) == ["b", "a"]
    with pytest.raises(DependencyCycleError) as caught:
        start_order({"x": ["a"], "a": ["b"], "b": ["a"]})
    assert caught.value.cycle == ["a", "b", "a"]


async def test_plugins_start_in_the_order_of_their_needs_and_stop_in_the_reverse() -> None:
    seen: list[str] = []

    def named(name: str, **members: Any) -> Any:
        async def initialize(self: Any) -> None:
            seen.append(f"+{name}")

        async def shutdown(self: Any) -> None:
            seen.append(f"-{name}")

        return plugin(name=name, initialize=initialize, shutdown=shutdown, **members)

    last = named("last", requires=(Bell,))
    middle = named("middle", requires=(Clockwork,), provides=(Bell,), services=lambda self: {Bell: Both()})
    first = named("first", provides=(Clockwork,), services=lambda self: {Clockwork: Both()})
    async with EventTestHarness(last, middle, first):
        assert seen == ["+first", "+middle", "+last"]
    assert seen[3:] == ["-last", "-middle", "-first"]


@query("q:ping", inline=True, shared=True)
def ping(self: Any) -> str:
    return "pong"


async def test_one_that_fails_at_its_start_is_reported_and_the_others_run() -> None:
    async def initialize(self: Any) -> None:
        raise RuntimeError("boom")

    broken = plugin(name="broken", initialize=initialize)
    lonely = plugin(name="lonely", requires=(Bell,))
    one = plugin(name="one", requires=(Bell,), provides=(Clockwork,))
    other = plugin(name="other", requires=(Clockwork,), provides=(Bell,))
    double = plugin(name="q")
    async with EventTestHarness(broken, lonely, one, other, plugin(ping, name="q"), double) as ksi:
        assert await ksi.request("q:ping") == "pong"
        problems = {info.name: info.problem or "" for info in ksi.kernel.plugins.list_plugins() if info.problem}
    assert "RuntimeError: boom" in problems["broken"]
    assert "no plugin provides Bell" in problems["lonely"]
    for name in ("one", "other"):
        assert "other -> one -> other" in problems[name]
    assert any(name.startswith("q of") for name in problems)


@pytest.mark.parametrize("swallows", [False, True])
async def test_one_that_takes_too_long_to_start_is_reported_and_the_others_run(swallows: bool) -> None:
    released = asyncio.Event()

    async def initialize(self: Any) -> None:
        while not released.is_set():
            try:
                await released.wait()
            except asyncio.CancelledError:
                if not swallows:
                    raise

    slow = plugin(name="slow", initialize=initialize)
    limits = Limits(initialize_timeout=7.0, shutdown_timeout=2.0)
    began = asyncio.get_running_loop().time()
    async with EventTestHarness(slow, plugin(ping, name="q"), limits=limits) as ksi:
        assert await ksi.request("q:ping") == "pong"
        assert asyncio.get_running_loop().time() - began == (9.0 if swallows else 7.0)
        (info,) = [info for info in ksi.kernel.plugins.list_plugins() if info.name == "slow"]
        assert info.status == "failed"
        assert "initialize() takes longer than 7 s" in (info.problem or "")
        released.set()
        await turns()


async def test_one_that_does_not_shut_down_keeps_nobody(caplog: pytest.LogCaptureFixture) -> None:
    released, ended = asyncio.Event(), []

    async def never(self: Any) -> None:
        while not released.is_set():
            with contextlib.suppress(asyncio.CancelledError):
                await released.wait()

    async def initialize(self: Any) -> None:
        self.host.spawn(never(self))

    async def shutdown(self: Any) -> None:
        ended.append(self.name)

    stubborn = plugin(name="stubborn", initialize=initialize, shutdown=never)
    limits = Limits(shutdown_timeout=2.0)
    async with EventTestHarness(plugin(name="first", shutdown=shutdown), stubborn, limits=limits):
        began = asyncio.get_running_loop().time()
    assert (ended, asyncio.get_running_loop().time() - began) == (["first"], 4.0)
    assert "shutdown() takes longer than 2 s" in caplog.text
    assert "2 of its tasks do not end" in caplog.text
    released.set()
    await turns()


async def test_a_start_that_is_cancelled_from_within_is_a_failure_of_that_plugin() -> None:
    async def initialize(self: Any) -> None:
        raise asyncio.CancelledError

    async with EventTestHarness(plugin(name="odd", initialize=initialize)) as ksi:
        (info,) = ksi.kernel.plugins.list_plugins()
        assert "was cancelled from within" in (info.problem or "")


async def test_events_of_one_that_did_not_start_have_no_handler_until_it_is_loaded(tmp_path: Path) -> None:
    file, cause = tmp_path / "late.py", tmp_path / "cause"
    file.write_text(dedent(LATE.format(cause=str(cause))))
    cause.touch()
    async with EventTestHarness(str(file)) as ksi:
        for _ in range(2):
            with pytest.raises(NoHandlerError) as caught:
                await ksi.request("late:ping")
            assert (caught.value.event_name, caught.value.plugin) == ("late:ping", "late")
            with pytest.raises(PluginFailedError):
                await ksi.kernel.plugins.load(str(file))
        cause.unlink()
        await ksi.kernel.plugins.load(str(file))
        assert await ksi.request("late:ping") == "pong"
        await ksi.kernel.plugins.unload("late")
        with pytest.raises(UnknownEventError):
            await ksi.request("late:ping")


LATE = """
    from pathlib import Path

    from ksi.kernel.declare import query
    from ksi.kernel.plugin import AsyncPlugin

    class Late(AsyncPlugin):
        name = "late"

        async def initialize(self) -> None:
            if Path({cause!r}).exists():
                raise RuntimeError("not yet")

        @query("late:ping")
        async def ping(self) -> str:
            return "pong"
"""


async def test_an_event_that_others_handle_does_not_wait_for_one_that_did_not_start() -> None:
    async def initialize(self: Any) -> None:
        raise RuntimeError("boom")

    async with EventTestHarness(plugin(ping, name="broken", initialize=initialize), plugin(ping, name="q")) as ksi:
        assert await ksi.request("q:ping") == "pong"


async def test_the_daemon_does_not_run_without_one_that_is_required() -> None:
    async def initialize(self: Any) -> None:
        raise RuntimeError("boom")

    ksi = EventTestHarness(plugin(name="broken", initialize=initialize, is_required=True))
    with pytest.raises(PluginFailedError, match="boom"):
        await ksi.__aenter__()
    await ksi.kernel.stop()
    await ksi.log.close()


# ── at run time ──────────────────────────────────────────────────────────────────────────────────────────────────────
CODE = """
    import asyncio
    from collections.abc import AsyncIterator

    import msgspec

    from ksi.core.events import Filter
    from ksi.core.views import View
    from ksi.kernel.context import EventContext
    from ksi.kernel.declare import End, event, query, stream
    from ksi.kernel.plugin import AsyncPlugin

    VERSION = {version}
    {extra}


    class Thing(msgspec.Struct, frozen=True):
        id: str


    class Things(View[Thing]):
        name = "things"
        query = (Filter(names=("n:*",)),)
        record = Thing
        key = ("id",)

        def apply(self, writer, event): ...


    class New(AsyncPlugin):
        name = "new"
        views = (Things,)

        async def initialize(self) -> None:
            await asyncio.sleep({delay})

        @query("n:version", inline=True)
        def version(self) -> int:
            return VERSION

        @event("n:view")
        async def look(self, context: EventContext) -> int:
            await context.view(Things).get("x")
            return VERSION

        @stream("n:count")
        async def count(self, context: EventContext) -> AsyncIterator[int | End[int]]:
            for _ in range(4):
                await context.view(Things).get("x")
                yield VERSION
                await asyncio.sleep(1)
            yield End(VERSION)

        {handler}
"""


def write(path: Path, version: int, *, extra: str = "", handler: str = "", delay: float = 0) -> None:
    path.write_text(dedent(CODE.format(version=version, extra=extra, handler=handler, delay=delay)))


@pytest.fixture
def code(tmp_path: Path) -> Path:
    path = tmp_path / "new.py"
    write(path, 1)
    return path


def plugins_of(ksi: EventTestHarness) -> Plugins:
    return ksi.kernel.plugins


async def test_a_stream_ends_in_its_old_code_while_new_requests_get_the_new(code: Path) -> None:
    async with EventTestHarness(str(code)) as ksi:
        old = ksi.stream("n:count")
        await turns()
        write(code, 2)
        (info,) = await plugins_of(ksi).reload("new")
        assert info.generation == 2
        assert await ksi.request("n:version") == 2
        assert [chunk async for chunk in old] == [1, 1, 1, 1]
        assert old.answer == 1
        assert [chunk async for chunk in ksi.stream("n:count")] == [2, 2, 2, 2]


async def test_the_old_generation_serves_until_the_new_one_is_ready(code: Path) -> None:
    async with EventTestHarness(str(code)) as ksi:
        write(code, 2, delay=5)
        reloading = asyncio.ensure_future(plugins_of(ksi).reload("new"))
        await asyncio.sleep(1)
        assert await ksi.request("n:version") == 1
        assert await ksi.request("n:view") == 1
        await reloading
        assert await ksi.request("n:view") == 2


@pytest.mark.parametrize(
    ("extra", "handler", "error"),
    [
        ("raise RuntimeError('boom')", "", PluginFailedError),
        ("def (", "", PluginFailedError),
        ("", "@query('n:bad')\n        def bad(self): ...", DeclarationError),
    ],
)
async def test_new_code_that_fails_leaves_the_old_one_at_work(
    code: Path, extra: str, handler: str, error: type[Exception]
) -> None:
    async with EventTestHarness(str(code)) as ksi:
        write(code, 2, extra=extra, handler=handler)
        with pytest.raises(error):
            await plugins_of(ksi).reload("new")
        assert await ksi.request("n:version") == 1
        assert await ksi.request("n:view") == 1
        assert [chunk async for chunk in ksi.stream("n:count")] == [1, 1, 1, 1]


async def test_an_unloaded_plugin_ends_what_it_began_and_is_shut_down_then() -> None:
    seen: list[str] = []

    @query("q:slow")
    async def slow(self: Any) -> str:
        await asyncio.sleep(5)
        return "done"

    async def shutdown(self: Any) -> None:
        seen.append("down")

    async with EventTestHarness(plugin(slow, name="q", shutdown=shutdown)) as ksi:
        asked = asyncio.ensure_future(ksi.request("q:slow"))
        await turns()
        await plugins_of(ksi).unload("q")
        with pytest.raises(UnknownEventError):
            await ksi.request("q:slow")
        assert seen == []
        assert await asked == "done"
        await turns()
        assert seen == ["down"]


async def test_a_generation_that_does_not_end_is_cancelled_and_one_that_drains_is_shut_down_with_the_daemon() -> None:
    seen: list[str] = []

    @query("q:slow", timeout=None)
    async def slow(self: Any) -> None:
        try:
            await asyncio.sleep(1e4)
        finally:
            seen.append("ended")

    async def shutdown(self: Any) -> None:
        seen.append("down")

    kind = plugin(slow, name="q", shutdown=shutdown)
    async with EventTestHarness(kind) as ksi:
        asked = asyncio.ensure_future(ksi.request("q:slow"))
        await turns()
        await plugins_of(ksi).unload("q")
        await asyncio.sleep(DRAIN_TIMEOUT + 1)
        assert seen[0] == "down" or seen == ["ended", "down"]
        await asyncio.wait([asked])
        assert asked.exception() is not None
    seen.clear()
    async with EventTestHarness(kind) as ksi:
        asked = asyncio.ensure_future(ksi.request("q:slow"))
        await turns()
        await plugins_of(ksi).unload("q")
    await asyncio.wait([asked])
    assert asked.exception() is not None
    assert sorted(seen) == ["down", "ended"]


async def test_dependents_follow_a_reload_and_keep_an_unload_away(tmp_path: Path) -> None:
    (tmp_path / "base.py").write_text(
        dedent("""
        from ksi.kernel.plugin import AsyncPlugin
        from ksi.kernel.services import ServiceRegistry
        from tests.kernel.test_plugins import Bell, Both

        class Base(AsyncPlugin):
            name = "base"
            provides = (Bell,)

            def services(self):
                return {Bell: Both()}
        """)
    )
    seen: list[Any] = []

    async def initialize(self: Any) -> None:
        seen.append(self.host.services.get(Bell))

    follower = plugin(name="follower", requires=(Bell,), initialize=initialize)
    async with EventTestHarness(follower, str(tmp_path / "base.py")) as ksi:
        await plugins_of(ksi).reload("base")
        assert len(seen) == 2
        assert seen[0] is not seen[1]
        with pytest.raises(ConflictError) as caught:
            await plugins_of(ksi).unload("base")
        assert caught.value.details()["needed_by"] == ["follower"]
        with pytest.raises(NotFoundError):
            await plugins_of(ksi).reload("nobody")


async def test_a_task_of_a_plugin_ends_with_it() -> None:
    ended: list[str] = []

    async def work() -> None:
        try:
            await asyncio.sleep(1e6)
        finally:
            ended.append("work")

    async def initialize(self: Any) -> None:
        self.host.spawn(work())

    async with EventTestHarness(plugin(name="q", initialize=initialize)) as ksi:
        await turns()
        await plugins_of(ksi).unload("q")
        await turns()
        assert ended == ["work"]
