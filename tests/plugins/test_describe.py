"""The events described by a running kernel."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest

from ksi.codegen import described
from ksi.codegen.catalogue import read
from ksi.codegen.descriptions import WRITERS, Descriptions, Format, description
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


def as_text(made: Any) -> str:
    return made if isinstance(made, str) else msgspec.json.encode(made).decode()


@pytest.mark.parametrize("form", WRITERS)
async def test_each_format_describes_the_events_that_are_registered(daemon: Daemon, form: Format) -> None:
    text = as_text(await daemon.ask(f"describe:{form}"))
    for name in daemon.kernel.registry.events:
        assert name in text


@pytest.mark.parametrize("form", WRITERS)
async def test_a_saved_registry_gives_the_same_without_the_daemon(daemon: Daemon, form: Format) -> None:
    saved = read(msgspec.json.encode(await daemon.ask("describe:registry")))
    made = await daemon.ask(f"describe:{form}")
    assert description(saved, form, status_of) == (
        made if isinstance(made, str) else msgspec.json.encode(made).decode()
    )


async def test_many_events_come_in_pages(daemon: Daemon, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = await daemon.ask("describe:registry")
    monkeypatch.setattr(described, "PAGE_BYTES", 5_000)
    page = await daemon.ask("describe:registry")
    found, pages = page["events"], 1
    while "next" in page:
        page = await daemon.ask("describe:registry", after=page["next"])
        found, pages = found + page["events"], pages + 1
    assert (found, pages > 3) == (whole["events"], True)


async def test_what_is_unloaded_is_not_described_any_more_and_the_hash_says_so(daemon: Daemon) -> None:
    before = await daemon.ask("describe:openapi")
    await daemon.ask("plugin:unload", name="painting")
    after = await daemon.ask("describe:openapi")
    assert before["paths"].keys() - after["paths"].keys() > {"/v1/events/painting:paint"}
    assert before["info"]["x-ksi-hash"] != after["info"]["x-ksi-hash"]


async def test_a_description_is_made_once_for_each_state_of_the_registry(daemon: Daemon) -> None:
    descriptions = daemon.kernel.services.get(Descriptions)
    first = descriptions.get("openapi")
    assert descriptions.get("openapi") is first
    await daemon.ask("plugin:unload", name="painting")
    assert descriptions.get("openapi") is not first
