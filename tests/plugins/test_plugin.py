"""Plugins loaded, unloaded and reloaded by events."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from ksi.core.errors import (
    ConflictError,
    DependencyCycleError,
    NotFoundError,
    PluginFailedError,
    UnknownEventError,
    ValidationError,
)
from ksi.plugins.permission import Permission
from ksi.plugins.plugin import PluginControl
from tests.plugins.running import Daemon, running

HELLO = '''
from ksi import AsyncPlugin, query

class Hello(AsyncPlugin):
    """Greets."""

    name = "hello"

    @query("hello:greet", inline=True)
    def greet(self, name: str) -> str:
        return f"hello {name}"
'''


@pytest.fixture
async def daemon() -> AsyncIterator[Daemon]:
    async with running(PluginControl, Permission) as daemon:
        yield daemon


@pytest.fixture
def hello(tmp_path: Path) -> Path:
    file = tmp_path / "hello.py"
    file.write_text(HELLO)
    return file


def write(file: Path, code: str) -> None:
    file.write_text(code)


async def names(daemon: Daemon) -> list[str]:
    return [plugin["name"] for plugin in (await daemon.ask("plugin:list"))["plugins"]]


async def facts(daemon: Daemon, plugin: str) -> list[str]:
    return [event.name async for event in daemon.log.read_stream(f"plugin/{plugin}")]


async def test_no_name_is_no_plugin(daemon: Daemon) -> None:
    with pytest.raises(ValidationError, match="target"):
        await daemon.ask("plugin:load", target="")


async def test_a_file_is_loaded_reloaded_and_unloaded(daemon: Daemon, hello: Path) -> None:
    (loaded,) = (await daemon.ask("plugin:load", target=str(hello)))["plugins"]
    assert (loaded["name"], loaded["generation"], loaded["events"]) == ("hello", 1, ["hello:greet"])
    assert await daemon.ask("hello:greet", name="you") == "hello you"

    write(hello, HELLO.replace("hello {", "good day {"))
    (reloaded,) = (await daemon.ask("plugin:reload", name="hello"))["plugins"]
    assert reloaded["generation"] == 2
    assert await daemon.ask("hello:greet", name="you") == "good day you"

    await daemon.ask("plugin:unload", name="hello")
    with pytest.raises(UnknownEventError):
        await daemon.ask("hello:greet", name="you")
    assert await names(daemon) == ["plugin", "permission"]
    assert await facts(daemon, "hello") == ["plugin:loaded", "plugin:reloaded", "plugin:unloaded"]


async def test_a_plugin_that_fails_changes_nothing_and_says_why(daemon: Daemon, hello: Path) -> None:
    write(hello, "raise RuntimeError('broken')")
    with pytest.raises(PluginFailedError, match="RuntimeError: broken"):
        await daemon.ask("plugin:load", target=str(hello))
    assert await names(daemon) == ["plugin", "permission"]
    assert await facts(daemon, "hello") == []


async def test_a_plugin_is_loaded_once(daemon: Daemon, hello: Path) -> None:
    await daemon.ask("plugin:load", target=str(hello))
    with pytest.raises(ConflictError):
        await daemon.ask("plugin:load", target=str(hello))


async def test_what_the_daemon_needs_is_not_unloaded(daemon: Daemon) -> None:
    with pytest.raises(ConflictError):
        await daemon.ask("plugin:unload", name="permission")
    assert "permission" in await names(daemon)


@pytest.mark.parametrize("event", ["plugin:unload", "plugin:reload"])
async def test_a_plugin_that_is_not_there_is_not_found(daemon: Daemon, event: str) -> None:
    with pytest.raises(NotFoundError) as caught:
        await daemon.ask(event, name="hello")
    assert (caught.value.what, caught.value.name) == ("plugin", "hello")


async def test_a_file_that_is_not_there_is_not_found(daemon: Daemon, tmp_path: Path) -> None:
    with pytest.raises(NotFoundError):
        await daemon.ask("plugin:load", target=str(tmp_path / "nothing.py"))


PAIR = """
from typing import Protocol
from ksi import AsyncPlugin

class Clockwork(Protocol): ...
class Spring(Protocol): ...

class Hand(AsyncPlugin):
    name = "hand"
    requires = (Clockwork,)
    {hand}

class Works(AsyncPlugin):
    name = "works"
    provides = (Clockwork,)
    {works}

    async def initialize(self):
        self.host.services.register(Clockwork, object())
"""


@pytest.fixture
def pair(tmp_path: Path) -> Callable[..., Path]:
    """A file whose first plugin needs its second."""

    def written(*, hand: str = "", works: str = "") -> Path:
        file = tmp_path / "pair.py"
        file.write_text(PAIR.format(hand=hand, works=works))
        return file

    return written


async def test_of_a_file_those_plugins_are_loaded_first_that_others_need(
    daemon: Daemon, pair: Callable[..., Path]
) -> None:
    loaded = (await daemon.ask("plugin:load", target=str(pair())))["plugins"]
    assert [plugin["name"] for plugin in loaded] == ["works", "hand"]


async def test_plugins_of_a_file_that_need_each_other_in_a_circle_are_named(
    daemon: Daemon, pair: Callable[..., Path]
) -> None:
    file = pair(hand="provides = (Spring,)", works="requires = (Spring,)")
    with pytest.raises(DependencyCycleError, match="hand -> works -> hand"):
        await daemon.ask("plugin:load", target=str(file))


async def test_a_file_of_which_one_plugin_fails_leaves_none_and_its_place_in_the_log(
    daemon: Daemon, pair: Callable[..., Path], caplog: pytest.LogCaptureFixture
) -> None:
    before = await names(daemon)
    file = pair(hand="async def initialize(self): raise RuntimeError('the hand fell off')")
    with pytest.raises(PluginFailedError, match="the hand fell off"):
        await daemon.ask("plugin:load", target=str(file))
    assert await names(daemon) == before
    assert "pair.py" in caplog.text
    assert [plugin["name"] for plugin in (await daemon.ask("plugin:load", target=str(pair())))["plugins"]] == [
        "works",
        "hand",
    ]
