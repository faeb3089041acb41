"""The events described by a running kernel."""

from __future__ import annotations

from collections.abc import AsyncIterator

import msgspec
import pytest

from ksi.codegen.catalogue import read
from ksi.codegen.descriptions import MEDIA, Descriptions, Format, description
from ksi.plugins.describe import Describe
from ksi.plugins.plugin import PluginControl
from ksi.plugins.state import State
from ksi.transport.http.problems import status_of
from tests.codegen.painting import Painting
from tests.plugins.running import Daemon, running


@pytest.fixture
async def daemon() -> AsyncIterator[Daemon]:
    async with running(Describe, State, PluginControl, Painting) as started:
        yield started


@pytest.mark.parametrize("form", MEDIA)
async def test_each_format_describes_the_events_that_are_registered(daemon: Daemon, form: Format) -> None:
    made = await daemon.ask(f"describe:{form}")
    assert (made["format"], made["media_type"]) == (form, MEDIA[form])
    for name in daemon.kernel.registry.events:
        assert name in made["text"]


@pytest.mark.parametrize("form", MEDIA)
async def test_a_saved_registry_gives_the_same_text_without_the_daemon(daemon: Daemon, form: Format) -> None:
    saved = read((await daemon.ask("describe:registry"))["text"].encode())
    made = await daemon.ask(f"describe:{form}")
    assert msgspec.to_builtins(description(saved, form, status_of)) == made


async def test_what_is_unloaded_is_not_described_any_more_and_the_hash_says_so(daemon: Daemon) -> None:
    before = await daemon.ask("describe:openapi")
    await daemon.ask("plugin:unload", name="painting")
    after = await daemon.ask("describe:openapi")
    assert "painting:paint" in before["text"]
    assert "painting:paint" not in after["text"]
    assert before["hash"] != after["hash"]


async def test_a_description_is_made_once_for_each_state_of_the_registry(daemon: Daemon) -> None:
    descriptions = daemon.kernel.services.get(Descriptions)
    first = descriptions.get("openapi")
    assert descriptions.get("openapi") is first
    await daemon.ask("plugin:unload", name="painting")
    assert descriptions.get("openapi") is not first
