"""Reading the log, and following it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID

import msgspec
import pytest

from ksi.core.clock import microseconds
from ksi.core.errors import AmbiguousError, CancelledError, NotFoundError, ShuttingDownError, ValidationError
from ksi.core.events import NewEvent
from ksi.plugins.event import Event
from ksi.plugins.log import Log
from ksi.plugins.monitor import Monitor
from ksi.plugins.state import State
from tests.plugins.running import OWNER, Daemon, running


@pytest.fixture
async def daemon() -> AsyncIterator[Daemon]:
    """Holds three values: facts at @2, @5 and @8, each between its request and its outcome."""
    async with running(Log, Event, Monitor, State) as daemon:
        for n, key in enumerate("abc"):
            await daemon.ask("state:set", key=key, value=n, namespace=key)
        yield daemon


async def event_at(daemon: Daemon, reference: str) -> Any:
    return (await daemon.ask("log:get", id=reference))["event"]


def places(answer: Any) -> list[int]:
    return [event["position"] for event in answer["events"]]


# ── read ─────────────────────────────────────────────────────────────────────────────────────────────────────────────
async def test_nothing_said_reads_the_facts(daemon: Daemon) -> None:
    assert places(await daemon.ask("log:read")) == [2, 5, 8]


async def test_an_event_is_shown_with_all_that_is_known_of_it(daemon: Daemon) -> None:
    shown = await event_at(daemon, "@2")
    request = await event_at(daemon, "@1")
    recorded = await daemon.log.at(2)  # type: ignore[arg-type]  # a position
    assert recorded is not None
    assert shown == {
        "position": 2,
        "name": "state:value_was_set",
        "kind": "fact",
        "stream": "state/a",
        "version": 1,
        "event_id": str(recorded.event_id),
        "correlation_id": request["event_id"],
        "causation_id": request["event_id"],
        "recorded_at": recorded.recorded_at.isoformat().replace("+00:00", "Z"),
        "principal": OWNER,
        "data": {"namespace": "a", "key": "a", "value": 0, "version": 1},
        "metadata": shown["metadata"],
    }
    assert "principal" not in shown["metadata"]


async def test_filters_all_hold(daemon: Daemon) -> None:
    kinds = ["request", "outcome"]
    assert places(await daemon.ask("log:read", kinds=kinds)) == [1, 3, 4, 6, 7, 9]
    assert places(await daemon.ask("log:read", stream="state/b")) == [5]
    assert places(await daemon.ask("log:read", pattern="state:", kinds=["fact", "request"], after=4)) == [5, 7, 8]
    assert places(await daemon.ask("log:read", pattern="agent:")) == []
    assert places(await daemon.ask("log:read", after="@2", until="@5")) == [5]


@pytest.mark.parametrize("since_us", [-(10**18), 10**18])
async def test_a_time_that_no_calendar_has_is_refused(daemon: Daemon, since_us: int) -> None:
    with pytest.raises(ValidationError, match="since_us"):
        await daemon.ask("log:read", since_us=since_us)


async def test_pages_meet_without_gap_or_double_in_both_directions(daemon: Daemon) -> None:
    first = await daemon.ask("log:read", limit=2)
    second = await daemon.ask("log:read", limit=2, after=first["next"])
    assert (places(first), places(second), second["next"]) == ([2, 5], [8], None)
    newest = await daemon.ask("log:read", limit=2, backwards=True)
    rest = await daemon.ask("log:read", limit=2, backwards=True, until=newest["next"])
    assert (places(newest), places(rest), rest["next"]) == ([8, 5], [2], None)


async def test_a_page_of_large_events_ends_before_it_fills_a_frame(daemon: Daemon) -> None:
    for key in "uvwxyz":
        await daemon.ask("state:set", key=key, value=key * 200_000)
    found: list[int] = []
    page: Any = {"next": 8}
    while page["next"] is not None:
        page = await daemon.ask("log:read", after=page["next"], limit=4)
        assert len(msgspec.json.encode(page)) < 2**20
        found += places(page)
    assert found == [11, 14, 17, 20, 23, 26]


async def test_since_is_a_time(daemon: Daemon) -> None:
    second = await daemon.log.at(5)  # type: ignore[arg-type]  # a position
    assert second is not None
    assert places(await daemon.ask("log:read", since_us=microseconds(second.recorded_at))) == [5, 8]


async def test_a_run_is_read_by_the_beginning_of_its_id(daemon: Daemon) -> None:
    request = await event_at(daemon, "@4")
    assert places(await daemon.ask("log:read", correlation_id=request["event_id"])) == [5]
    assert places(await daemon.ask("log:read", correlation_id="last")) == [8]
    with pytest.raises(NotFoundError):
        await daemon.ask("log:read", correlation_id="01000000-0000-7000-8000-000000000000")


@pytest.mark.parametrize(
    "fields",
    [{"limit": 0}, {"limit": 1001}, {"after": "x"}, {"after": "@"}, {"after": "²"}, {"kinds": ["facts"]}, {"pat": "*"}],
)
async def test_a_question_that_makes_no_sense_is_refused(daemon: Daemon, fields: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        await daemon.ask("log:read", **fields)


# ── get ──────────────────────────────────────────────────────────────────────────────────────────────────────────────
@pytest.mark.parametrize("place", range(1, 10))
async def test_an_event_of_any_kind_is_found_by_its_id_and_by_a_unique_beginning(daemon: Daemon, place: int) -> None:
    event_id = (await event_at(daemon, f"@{place}"))["event_id"]
    assert (await event_at(daemon, event_id))["position"] == place
    assert (await event_at(daemon, event_id[:-1].upper()))["position"] == place


async def test_a_beginning_that_fits_several_is_ambiguous() -> None:
    async with running(Log) as daemon:
        ids = [UUID(f"0000000000007000800000000000000{n}") for n in (1, 2, 3)]
        await daemon.log.append("a/1", [NewEvent(name="a:b", data={}, event_id=one) for one in ids])
        with pytest.raises(AmbiguousError, match="fits 3 events") as caught:
            await daemon.ask("log:get", id="00000000-0000-7")
        assert caught.value.matches == [str(one) for one in ids]


@pytest.mark.parametrize(
    ("reference", "error"),
    [
        ("@99", NotFoundError),
        ("01000000-0000-7000-8000-000000000000", NotFoundError),
        ("01000000", NotFoundError),
        ("0100", ValidationError),
        ("", ValidationError),
        ("no-such-thing", ValidationError),
        ("zzzzzzzz-0000-7000-8000-000000000000", ValidationError),
    ],
)
async def test_a_reference_to_nothing_says_so(daemon: Daemon, reference: str, error: type[Exception]) -> None:
    with pytest.raises(error):
        await daemon.ask("log:get", id=reference)


# ── streams, verify ──────────────────────────────────────────────────────────────────────────────────────────────────
async def test_streams_are_listed_by_name(daemon: Daemon) -> None:
    listed = await daemon.ask("log:streams", pattern="state/", limit=2)
    assert listed["streams"] == [
        {"name": "state/a", "version": 1, "position": 2},
        {"name": "state/b", "version": 1, "position": 5},
    ]


async def test_a_whole_log_has_no_problems(daemon: Daemon) -> None:
    assert await daemon.ask("log:verify") == {"problems": [], "head": 9}


# ── subscribe ────────────────────────────────────────────────────────────────────────────────────────────────────────
async def test_a_subscriber_catches_up_and_goes_on_live(daemon: Daemon) -> None:
    reader = daemon.follow("event:subscribe", after="@2")
    caught_up = await reader.take(2)
    await daemon.ask("state:set", key="d", value=4)
    ((at, event),) = await reader.take(1)
    assert [place for place, _ in caught_up] == ["@5", "@8"]
    assert (at, event["data"]["key"]) == ("@11", "d")
    assert isinstance(await reader.end_of(), CancelledError)


async def test_nothing_said_shows_only_what_comes(daemon: Daemon) -> None:
    reader = daemon.follow("event:subscribe", pattern="state:")
    await asyncio.sleep(0)
    await daemon.ask("state:set", key="d", value=4)
    assert [at for at, _ in await reader.take(1)] == ["@11"]
    assert reader.began == "@9", "where to go on for whoever loses it before the first event"
    await reader.end_of()


async def test_a_subscriber_of_a_run_sees_that_run_with_its_requests(daemon: Daemon) -> None:
    run = (await event_at(daemon, "@4"))["correlation_id"]
    reader = daemon.follow("event:subscribe", after="start", kinds=["request", "fact", "outcome"], correlation_id=run)
    assert [event["kind"] for _, event in await reader.take(3)] == ["request", "fact", "outcome"]
    await reader.end_of()


async def test_a_named_subscriber_goes_on_behind_what_it_took(daemon: Daemon) -> None:
    first = daemon.follow("event:subscribe", after="checkpoint", subscriber="me")
    assert [at for at, _ in await first.take(3)] == ["@2", "@5", "@8"]
    await daemon.ask("state:set", key="d", value=4)
    await first.take(1)
    await daemon.ask("state:set", key="e", value=5)
    await first.take(1)
    await first.end_of()
    await daemon.ask("state:set", key="f", value=6)
    second = daemon.follow("event:subscribe", after="checkpoint", subscriber="me")
    assert [at for at, _ in await second.take(1)] == ["@17"]
    await second.end_of()


async def test_a_slow_reader_that_wants_gaps_is_told_how_much_it_missed(daemon: Daemon) -> None:
    reader = daemon.follow("event:subscribe", after="start", overflow="drop", credit=4)
    await reader.take(3)
    await asyncio.gather(*[daemon.ask("state:set", key=str(n), value=n) for n in range(600)])
    assert reader.call is not None
    reader.call.grant(1000)
    seen = await reader.take_until(f"@{9 + 3 * 600 - 1}")
    missed = sum(gap["dropped"] for gap in reader.gaps)
    assert missed > 0
    assert missed + len(seen) == 600
    await reader.end_of()


async def test_subscriptions_do_not_delay_the_end_of_the_daemon(daemon: Daemon) -> None:
    reader = daemon.follow("event:subscribe", after="start")
    await reader.take(3)
    async with asyncio.timeout(5):
        await daemon.kernel.router.drain(600)
    with pytest.raises(ShuttingDownError):
        await reader.ended
    with pytest.raises(ShuttingDownError):
        await daemon.follow("event:subscribe").ended


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ({"after": "checkpoint"}, ValidationError),
        ({"after": "yesterday"}, ValidationError),
        ({"overflow": "explode"}, ValidationError),
        ({"correlation_id": "01000000-0000-7000-8000-000000000000"}, NotFoundError),
    ],
)
async def test_a_wrong_subscription_ends_with_its_error(
    daemon: Daemon, fields: dict[str, Any], error: type[Exception]
) -> None:
    with pytest.raises(error):
        await daemon.follow("event:subscribe", **fields).ended


# ── monitor ──────────────────────────────────────────────────────────────────────────────────────────────────────────
async def test_the_monitor_gives_recent_events_newest_first(daemon: Daemon) -> None:
    answer = await daemon.ask("monitor:get_events", event_patterns=["state:*"], limit=2)
    assert (answer["count"], answer["total_events"]) == (2, 9)
    assert [event["event_name"] for event in answer["events"]] == ["state:value_was_set", "state:set"]
    assert answer["events"][0]["data"]["key"] == "c"


async def test_the_monitor_knows_times_in_seconds_and_in_iso_form(daemon: Daemon) -> None:
    second = await daemon.log.at(5)  # type: ignore[arg-type]  # a position
    assert second is not None
    for since in (second.recorded_at.timestamp() - 1e-6, second.recorded_at.isoformat()):
        answer = await daemon.ask("monitor:get_events", since=since, reverse=False)
        assert places(answer) == [4, 5, 7, 8]
    with pytest.raises(ValidationError):
        await daemon.ask("monitor:get_events", since="yesterday")


async def test_the_monitor_gives_what_one_client_did(daemon: Daemon) -> None:
    assert (await daemon.ask("monitor:get_events", client_id="test"))["count"] == 6
    assert (await daemon.ask("monitor:get_events", client_id="somebody"))["count"] == 0


async def test_the_monitor_counts_calls_and_errors(daemon: Daemon) -> None:
    with pytest.raises(ValidationError):
        await daemon.ask("log:get")
    stats = await daemon.ask("monitor:get_stats")
    assert stats["events"]["state:set"] == {"calls": 3, "errors": {}}
    assert stats["events"]["log:get"]["errors"] == {"validation_error": 1}
    assert stats["total_events"] == 9
    metrics = await daemon.ask("system:metrics")
    assert metrics["errors"] == {"validation_error": 1}
    assert metrics["events"]["state:set"] == {"calls": 3, "errors": {}}
    assert metrics["calls"] == sum(stats["calls"] for stats in metrics["events"].values())
