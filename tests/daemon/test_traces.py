"""A trace from the client through the daemon to the model's server, in the log's tree and at a collector."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ksi.client.client import Options
from ksi.testing.daemon_process import DaemonProcess
from tests.cli.processes import Cli
from tests.daemon.collector import Collector
from tests.providers.faulty_server import STREAM_END, STREAM_HEAD, FaultyServer, send, token, usage

TRACE, CLIENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
ANSWER = send(STREAM_HEAD, token("Hello."), token("", finish="stop"), usage(3, 2), STREAM_END)


def below(nodes: list[dict[str, Any]], *above: str) -> Iterator[tuple[str, ...]]:
    for node in nodes:
        yield (*above, node["name"])
        yield from below(node["children"], *above, node["name"])


async def test_one_tree_shows_client_daemon_agent_provider_and_commit(tmp_path: Path) -> None:
    upstream = FaultyServer([ANSWER])
    async with Collector().running() as collector, upstream.running():
        settings = {
            "trace.enabled": "true",
            "trace.share": "1",
            "trace.endpoint": collector.endpoint,
            "providers.default": "openai",
            "providers.openai.base_url": upstream.address,
            "providers.openai.models": "m",
        }
        daemon = DaemonProcess(tmp_path / "home", settings=settings)
        async with daemon, daemon.client(name="tester") as client:
            await client.request("agent:spawn", agent="fox")
            options = Options(traceparent=f"00-{TRACE}-{CLIENT}-01")
            await client.request("agent:send_message", agent="fox", text="Hi", options=options)
            tree = await client.request("correlation:tree", run="last")
            shown = await asyncio.to_thread(Cli(daemon.home.path).text, "log", "--tree", "--run", "last")
            await collector.until("agent:send_message")
    assert tree["trace_id"] == TRACE
    [root] = tree["tree"]
    assert (root["name"], root["kind"], root["event_id"]) == ("client tester", "client", CLIENT)
    ways = set(below(tree["tree"]))
    turn = ("client tester", "agent:send_message")
    asked = (*turn, "completion:create", "llm:stream")
    assert asked in ways
    assert any(way[:-1] == turn and "commit" in way[-1] for way in ways)
    assert any(way[:-1] == (*turn, "completion:create") and "commit" in way[-1] for way in ways)
    assert f"trace {TRACE}" in shown
    assert "client tester" in shown
    assert_collected(collector, upstream)


def assert_collected(collector: Collector, upstream: FaultyServer) -> None:
    """The collector has the same tree, and the model's server was told where it stands in it."""
    assert collector.services == {"ksi"}
    of_trace = [span for span in collector.spans if span.trace_id.hex() == TRACE]
    by_name = {span.name: span for span in of_trace}
    turn, completion, call = by_name["agent:send_message"], by_name["completion:create"], by_name["llm:stream"]
    assert turn.parent_span_id.hex() == CLIENT
    assert completion.parent_span_id == turn.span_id
    assert call.parent_span_id == completion.span_id
    assert turn.start_time_unix_nano <= completion.start_time_unix_nano <= call.start_time_unix_nano
    assert {span.parent_span_id for span in of_trace if span.name == "commit"} >= {turn.span_id, completion.span_id}
    assert {span.parent_span_id for span in of_trace if span.name == "handler"} >= {turn.span_id, completion.span_id}
    head = upstream.heads[-1].lower()
    assert f"traceparent: 00-{TRACE}-{completion.span_id.hex()}-01" in head
