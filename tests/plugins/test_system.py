"""The daemon about itself."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Annotated, Any, Literal

import msgspec
import pydantic
import pytest

from ksi.core.errors import MissingServiceError, UnknownEventError, ValidationError
from ksi.core.ports import Shutdown
from ksi.daemon import BUILT_IN
from ksi.kernel.declare import query
from ksi.kernel.loader import Source
from ksi.kernel.plugin import AsyncPlugin
from ksi.kernel.registry import EventHandler, EventRegistry
from ksi.plugins.correlation import Correlation
from ksi.plugins.discovery import Discover, discovery
from ksi.plugins.entity import Entity
from ksi.plugins.event import Event
from ksi.plugins.log import Log
from ksi.plugins.monitor import Monitor
from ksi.plugins.permission import Permission
from ksi.plugins.plugin import PluginControl
from ksi.plugins.state import State
from ksi.plugins.system import System
from tests.plugins.running import OWNER, Daemon, running

ALL = (System, Permission, State, Log, Event, Monitor, Correlation, Entity, PluginControl)
LINE_BYTES_MAX = 64 * 1024
"""What the older of the original clients can read in one line."""


class Colour(pydantic.BaseModel):
    """A payload as plugin authors write it."""

    name: str
    strength: float | None = pydantic.Field(default=None, description="0 to 1")


class Painting(AsyncPlugin):
    """Parameters of all kinds."""

    name = "painting"

    @query("painting:plain")
    async def plain(
        self,
        text: Annotated[str, msgspec.Meta(description="what to write")],
        maybe: str | None = None,
        either: int | str = 3,
        mode: Literal["wet", "dry"] = "wet",
        tags: tuple[str, ...] = (),
        anything: Any = None,
        options: dict[str, int] | None = None,
    ) -> str:
        """Paint a text.

        Slowly.
        """
        return text

    @query("painting:model")
    async def model(self, colour: Colour) -> str:
        """Paint with a colour."""
        return colour.name


class Asked:
    """Remembers that the end was asked for."""

    def __init__(self) -> None:
        self.reason: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    def request(self, reason: str) -> None:
        self.reason.set_result(reason)


@pytest.fixture
async def daemon() -> AsyncIterator[Daemon]:
    async with running(*ALL, Painting) as daemon:
        yield daemon


async def test_health_says_that_the_daemon_is_well_and_what_it_holds(daemon: Daemon) -> None:
    await daemon.ask("state:set", key="a", value=1)
    health = await daemon.ask("system:health")
    assert (health["status"], health["head"], health["failed"]) == ("healthy", 3, [])
    assert health["log"] == {"backend": "memory", "durable": "memory", "read_only": False, "reason": None, "bytes": 0}
    assert {"system", "state", "painting"} <= set(health["plugins"])


async def test_discovery_uses_the_type_names_of_the_original_clients(daemon: Daemon) -> None:
    found = await daemon.ask("system:discover", namespace="painting")
    by_name = {event["event"]: event for event in found["events"]["painting"]}
    plain = by_name["painting:plain"]["parameters"]
    assert plain["text"] == {"type": "str", "required": True, "description": "what to write"}
    assert plain["maybe"] == {"type": "Optional[str]", "required": False, "description": "", "default": None}
    assert {name: field["type"] for name, field in plain.items()} == {
        "text": "str",
        "maybe": "Optional[str]",
        "either": "Union[int, str]",
        "mode": "str",
        "tags": "list",
        "anything": "Any",
        "options": "Optional[dict]",
    }
    model = by_name["painting:model"]["parameters"]
    assert (model["name"]["type"], model["strength"]["type"]) == ("str", "Optional[float]")
    assert model["strength"]["description"] == "0 to 1"
    assert by_name["painting:plain"]["summary"] == "Paint a text."


async def test_discovery_of_one_event_or_namespace_is_only_that(daemon: Daemon) -> None:
    one = await daemon.ask("system:discover", event="state:set")
    assert [event["event"] for event in one["events"]["state"]] == ["state:set"]
    assert list((await daemon.ask("system:discover", namespace="state"))["events"]) == ["state"]
    assert (await daemon.ask("system:discover", namespace="nothing"))["events"] == {}


async def test_discover_goes_page_by_page_through_all_that_fits(daemon: Daemon) -> None:
    whole = await daemon.ask("system:discover", kind="query", detail="name")
    pages = [await daemon.ask("system:discover", kind="query", detail="name", limit=5)]
    while after := pages[-1].get("next"):
        pages.append(await daemon.ask("system:discover", kind="query", detail="name", limit=5, after=after))
    listed = [event for page in pages for events in page["events"].values() for event in events]
    assert listed == [event for events in whole["events"].values() for event in events]
    assert [sum(map(len, page["events"].values())) for page in pages[:-1]] == [5] * (len(pages) - 1)
    assert "next" not in whole


async def test_discover_says_as_much_as_is_asked_for(daemon: Daemon) -> None:
    for detail, fields in (("name", {"event"}), ("summary", {"event", "summary"})):
        found = await daemon.ask("system:discover", namespace="state", detail=detail)
        assert all(event.keys() == fields for event in found["events"]["state"])


def test_all_that_is_built_in_is_discovered_in_one_line_of_the_older_client() -> None:
    registry = EventRegistry()
    for target in BUILT_IN:
        (plugin,) = [kind() for kind in Source(target).classes(1)]
        registry.register([EventHandler(function, noted, plugin.name) for function, noted in plugin.ksi_handlers()])
    line = msgspec.json.encode(discovery(registry.find(), Discover()))
    assert len(line) < LINE_BYTES_MAX * 3 // 4, "leave room for plugins that are loaded"


async def test_help_explains_an_event_with_examples(daemon: Daemon) -> None:
    explained = await daemon.ask("system:help", event="state:set")
    assert (explained["event"], explained["namespace"]) == ("state:set", "state")
    assert explained["summary"] == "Store a JSON value under a key; answers its new version."
    assert explained["parameters"]["key"]["required"] is True
    assert explained["examples"][0] == {"event": "state:set", "data": {"key": "colour", "value": "blue"}}


async def test_help_for_an_event_that_does_not_exist_suggests_one_that_does(daemon: Daemon) -> None:
    with pytest.raises(UnknownEventError) as caught:
        await daemon.ask("system:help", event="state:sett")
    assert "state:set" in caught.value.suggestions


async def test_a_description_has_schemas_and_rules(daemon: Daemon) -> None:
    described = {event["name"]: event for event in (await daemon.ask("system:describe"))["events"]}
    setting = described["state:set"]
    assert (setting["kind"], setting["durability"], setting["key"]) == ("command", "together", True)
    assert (setting["plugin"], setting["permission"], setting["timeout_s"]) == ("state", "state:set", 60.0)
    assert setting["errors"] == ["wrong_expected_version"]
    assert described["event:subscribe"]["chunk"] is not None
    assert described["painting:plain"]["doc"] == "Paint a text.\n\nSlowly."


async def test_every_event_has_a_summary_and_its_examples_fit_its_schema(daemon: Daemon) -> None:
    registry = daemon.kernel.registry
    own = [spec for spec in registry.find() if spec.handlers[0].owner != "painting"]
    assert [spec.name for spec in own if not spec.summary or not spec.declaration.examples] == []
    for spec in own:
        for example in spec.declaration.examples:
            spec.payload.decode(msgspec.json.encode(example))


async def test_every_parameter_of_the_discovery_is_described_or_speaks_for_itself(daemon: Daemon) -> None:
    speaks = {"key", "kinds", "namespace", "limit", "after", "until"}
    found = (await daemon.ask("system:discover"))["events"]
    silent = [
        f"{event['event']} {name}"
        for space, events in found.items()
        for event in events
        for name, field in event["parameters"].items()
        if space != "painting" and not field["description"] and name not in speaks
    ]
    assert silent == []


async def test_a_shutdown_is_on_disk_before_it_begins() -> None:
    asked = Asked()
    async with running(System, services={Shutdown: asked}) as daemon:
        assert await daemon.ask("system:shutdown", reason="upgrade") == {"status": "shutting_down"}
        assert await asked.reason == f"upgrade ({OWNER})"
        (fact,) = [event async for event in daemon.log.read_stream("system/daemon")]
        assert fact.name == "system:shutdown_requested"


async def test_a_shutdown_that_nobody_can_do_is_an_error_and_no_fact(daemon: Daemon) -> None:
    with pytest.raises(MissingServiceError):
        await daemon.ask("system:shutdown")
    assert [event async for event in daemon.log.read_all()] == []


async def test_a_field_that_does_not_exist_is_refused(daemon: Daemon) -> None:
    with pytest.raises(ValidationError):
        await daemon.ask("system:health", verbose=True)
