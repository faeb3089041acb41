"""Scripts that know nothing of KSI: recorded, replayed without any model, and asked what if."""

from __future__ import annotations

import asyncio
import hashlib
import random
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anthropic
import httpx
import openai
import pytest

from ksi.client.client import EventClient
from ksi.client.streams import EventStream
from ksi.testing.daemon_process import DaemonProcess
from tests.daemon.upstream import KEY, Scripts, Upstream, serving

OPENAI = """
import json, sys
from openai import OpenAI

client = OpenAI()
messages = [{"role": "user", "content": "What is two and three?"}]
tools = [{"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}]
first = client.chat.completions.create(model="m", messages=messages, tools=tools).choices[0].message
arguments = json.loads(first.tool_calls[0].function.arguments)
open(sys.argv[1], "a").write("added\\n")
messages += [first.model_dump(exclude_none=True)]
messages += [{"role": "tool", "tool_call_id": "call-1", "content": f"the sum {sum(arguments.values())}"}]
print(client.chat.completions.create(model="m", messages=messages, tools=tools).choices[0].message.content)
"""
ANTHROPIC = """
import sys
from anthropic import Anthropic

client = Anthropic()
messages = [{"role": "user", "content": "What is two and three?"}]
tools = [{"name": "add", "input_schema": {"type": "object"}}]
first = client.messages.create(model="m", max_tokens=64, messages=messages, tools=tools)
open(sys.argv[1], "a").write("added\\n")
result = {"type": "tool_result", "tool_use_id": "call-1", "content": str(sum(first.content[0].input.values()))}
messages += [{"role": "assistant", "content": first.content}, {"role": "user", "content": [result]}]
print(client.messages.create(model="m", max_tokens=64, messages=messages, tools=tools).content[0].text)
with client.messages.stream(model="m", max_tokens=64, messages=[{"role": "user", "content": "one two"}]) as stream:
    print("".join(stream.text_stream))
"""
FIVE = """
import sys
from openai import OpenAI

client = OpenAI()
for prompt in sys.argv[1:]:
    messages = [{"role": "user", "content": prompt}]
    print(client.chat.completions.create(model="m", messages=messages).choices[0].message.content)
"""
FIVE_OF_ANTHROPIC = """
import sys
from anthropic import Anthropic

client = Anthropic(max_retries=0)
for prompt in sys.argv[1:]:
    messages = [{"role": "user", "content": prompt}]
    print(client.messages.create(model="m", max_tokens=64, messages=messages).content[0].text)
"""
PROMPTS = ("tell one", "tell two", "tell three", "tell four", "tell five")


@pytest.fixture
async def upstream() -> AsyncIterator[Upstream]:
    async with serving() as upstream:
        yield upstream


@pytest.fixture
async def ksi(tmp_path: Path, upstream: Upstream) -> AsyncIterator[Scripts]:
    settings = {"http.port": 0, "store.durability": "normal"}
    async with DaemonProcess(tmp_path / "home", settings=settings) as daemon:
        yield Scripts(daemon, upstream, tmp_path)
        assert await daemon.stop() == 0


# ── the commands ─────────────────────────────────────────────────────────────────────────────────────────────────────
@pytest.mark.parametrize("text", [OPENAI, ANTHROPIC], ids=["openai", "anthropic"])
async def test_an_unmodified_script_is_recorded_and_replayed_without_one_connection(
    ksi: Scripts, upstream: Upstream, tmp_path: Path, text: str
) -> None:
    script = ksi.script("agent.py", text)
    recorded = await ksi("record", "--", script, str(tmp_path / "tool"))
    assert recorded.code == 0, recorded.said
    assert "the sum 5" in recorded.out or "5" in recorded.out
    assert all(KEY in key for key in upstream.keys)
    connections = upstream.connections

    replayed = await ksi("replay", "last", "--", script, str(tmp_path / "tool"))
    assert (replayed.code, replayed.out) == (0, recorded.out), replayed.said
    assert "0 went upstream" in replayed.said
    assert upstream.connections == connections
    assert (tmp_path / "tool").read_text() == "added\nadded\n"

    async with ksi.daemon.client() as client:
        repeated = await client.request("timetravel:replay", run="last")
    assert repeated["calls"] == 0


async def test_the_key_of_the_script_is_not_stored(ksi: Scripts, upstream: Upstream, tmp_path: Path) -> None:
    await ksi("record", "--", ksi.script("agent.py", OPENAI), str(tmp_path / "tool"))
    assert len(upstream.keys) == 2
    files = [file for file in ksi.daemon.home.path.rglob("*") if file.is_file()]
    assert [file for file in files if KEY.encode() in file.read_bytes()] == []


@pytest.mark.parametrize("text", [FIVE, FIVE_OF_ANTHROPIC], ids=["openai", "anthropic"])
async def test_one_changed_character_names_its_call_and_what_if_pays_only_from_there_on(
    ksi: Scripts, upstream: Upstream, text: str
) -> None:
    script = ksi.script("agent.py", text)
    await ksi("record", "--", script, *PROMPTS)
    connections = upstream.connections
    replayed = await ksi("replay", "last", "--", script, *PROMPTS[:2], "tell threE", *PROMPTS[3:])
    assert (replayed.code, replayed.out) == (1, "one tell \ntwo tell \n")
    shown = [line for line in replayed.said.splitlines() if line[:2] in ("- ", "+ ")]
    assert ["tell three" in shown[0], "tell threE" in shown[1], len(shown)] == [True, True, 2]
    assert "ConflictError" in replayed.said
    assert (len(upstream.bodies), upstream.connections) == (5, connections)

    async with ksi.daemon.client() as client:
        calls = (await client.request("log:read", kinds=["request"], pattern="door:call"))["events"]
    upstream.bodies.clear()
    refused = await ksi("whatif", "last", "--", script, *PROMPTS)
    assert (refused.code, "--live" in refused.said) == (2, True)
    at = f"@{calls[2]['position']}"
    asked = await ksi(
        "whatif", "last", "--at", at, "--set", "messages.0.content=tell 33", "--live", "--", script, *PROMPTS
    )
    assert asked.code == 0, asked.said
    assert asked.out.splitlines()[:3] == ["one tell ", "two tell ", "33 tell "]
    assert upstream.prompts() == ["tell 33", "tell four", "tell five"]
    assert "2 calls served, 3 asked anew" in asked.said
    assert "tools ran again" in asked.said
    again = await ksi("replay", "last", "--", script, *PROMPTS)
    assert (again.code, again.out) == (0, asked.out)  # to the script it looks as if it had asked the other thing


async def test_what_if_of_a_changed_script_pays_for_what_is_new(ksi: Scripts, upstream: Upstream) -> None:
    script = ksi.script("agent.py", FIVE)
    await ksi("record", "--", script, *PROMPTS)
    upstream.bodies.clear()
    asked = await ksi("whatif", "last", "--live", "--", script, *PROMPTS[:4], "tell six")
    assert (asked.code, upstream.prompts()) == (0, ["tell six"]), asked.said
    replayed = await ksi("replay", "last", "--", script, *PROMPTS[:4], "tell six")
    assert (replayed.code, replayed.out) == (0, asked.out)


async def test_the_exit_code_is_that_of_the_script(ksi: Scripts) -> None:
    script = ksi.script("agent.py", "import sys; sys.exit(7)")
    assert (await ksi("record", "--", script)).code == 7
    assert (await ksi("record", "--", str(Path("/no/such/script.py")))).code == 2


async def test_calls_that_are_not_made_again_are_told(ksi: Scripts) -> None:
    script = ksi.script("agent.py", FIVE)
    await ksi("record", "--", script, *PROMPTS)
    replayed = await ksi("replay", "last", "--", script, *PROMPTS[:3])
    assert (replayed.code, "2 recorded calls were not made" in replayed.said) == (1, True)


async def test_what_is_ignored_may_differ(ksi: Scripts) -> None:
    text = FIVE.replace('"content": prompt}]', '"content": prompt, "name": str(__import__("time").time_ns())}]')
    script = ksi.script("agent.py", text)
    await ksi("record", "--", script, "tell one")
    assert (await ksi("replay", "last", "--", script, "tell one")).code == 1
    ignoring = await ksi("replay", "last", "--ignore", "$.messages[*].name", "--", script, "tell one")
    assert ignoring.code == 0, ignoring.said


# ── the door itself ──────────────────────────────────────────────────────────────────────────────────────────────────
@asynccontextmanager
async def door(ksi: Scripts, event: str, **fields: Any) -> AsyncIterator[tuple[str, EventStream, EventClient, str]]:
    """The base URL of a door, its stream, the client that holds it, and its run."""
    token = f"{random.getrandbits(128):x}"
    digest = hashlib.sha256(token.encode()).hexdigest()
    if event != "door:replay":
        fields["upstreams"] = {"openai": f"{ksi.upstream.url}/v1", "anthropic": ksi.upstream.url}
    url = await ksi.daemon.http_url()
    async with ksi.daemon.client() as client, client.stream(event, {"token_sha256": digest, **fields}) as opened:
        run = (await anext(opened)).data["run"]
        yield f"{url}/r/{token}/v1", opened, client, run
        if event == "door:replay":
            opened.cancel()
        else:
            await client.request("door:close", token_sha256=digest, exit_code=0)
        assert [chunk async for chunk in opened] == []


async def in_openais_words(base: str, prompt: str) -> str:
    async with openai.AsyncOpenAI(base_url=base, api_key=KEY, max_retries=0) as client:
        messages: Any = [{"role": "user", "content": prompt}]
        stream = await client.chat.completions.create(model="m", messages=messages, stream=True)
        return "".join([chunk.choices[0].delta.content or "" async for chunk in stream])


async def in_anthropics_words(base: str, prompt: str) -> str:
    url = f"{base.removesuffix('/v1')}/anthropic"
    async with anthropic.AsyncAnthropic(base_url=url, api_key=KEY, max_retries=0) as client:
        messages: Any = [{"role": "user", "content": prompt}]
        async with client.messages.stream(model="m", max_tokens=64, messages=messages) as stream:
            return "".join([text async for text in stream.text_stream])


Ask = Callable[[str, str], Awaitable[str]]


async def gathered(ask: Ask, base: str, order: list[str]) -> dict[str, str]:
    """Five streamed answers at once, begun in this order."""

    async def later(prompt: str, turns: int) -> str:
        for _ in range(turns):
            await asyncio.sleep(0)
        return await ask(base, prompt)

    answers = await asyncio.gather(*(later(prompt, turns) for turns, prompt in enumerate(order)))
    return dict(zip(order, answers, strict=True))


@pytest.mark.parametrize("ask", [in_openais_words, in_anthropics_words])
@pytest.mark.parametrize("replays", [5, pytest.param(50, marks=pytest.mark.soak)])
async def test_five_streams_at_once_are_the_same_in_any_order(
    ksi: Scripts, upstream: Upstream, replays: int, ask: Ask
) -> None:
    async with door(ksi, "door:record") as (base, _, _, run):
        recorded = await gathered(ask, base, list(PROMPTS))
    connections, source = upstream.connections, random.Random(5)
    for _ in range(replays):
        async with door(ksi, "door:replay", run=run) as (base, opened, _, _):
            assert await gathered(ask, base, source.sample(PROMPTS, 5)) == recorded
        assert (opened.end["calls"], opened.end["divergences"], opened.end["left"]) == (5, 0, 0)
    assert upstream.connections == connections


def streamed(prompt: str, **fields: Any) -> dict[str, Any]:
    return {"model": "m", "stream": True, "messages": [{"role": "user", "content": prompt}], **fields}


@asynccontextmanager
async def asked(base: str, prompt: str) -> AsyncIterator[httpx.Response]:
    """An answer as it comes."""
    async with (
        httpx.AsyncClient(trust_env=False) as http,
        http.stream("POST", f"{base}/chat/completions", json=streamed(prompt)) as response,
    ):
        yield response


async def test_frames_are_passed_on_as_they_come_and_are_recorded_as_they_came(
    ksi: Scripts, upstream: Upstream
) -> None:
    async with door(ksi, "door:record") as (base, _, client, run):
        async with asked(base, "hold the line") as response:
            pieces = response.aiter_raw()
            first = await anext(pieces)
            assert not upstream.go_on.is_set()
            upstream.go_on.set()
            body = first + b"".join([piece async for piece in pieces])
        wanted = {"correlation_id": run, "kinds": ["chunk"]}
        chunks = (await client.request("log:read", wanted))["events"]
    said = [chunk["data"]["body"]["text"] for chunk in chunks if chunk["data"]["type"] == "piece"]
    assert "".join(said).encode() == body
    assert len(said) > 1


async def test_a_script_that_hangs_up_stops_the_provider(ksi: Scripts, upstream: Upstream) -> None:
    async with door(ksi, "door:record") as (base, _, _, _):
        async with asked(base, "hold it") as response:
            await anext(response.aiter_raw())
        async with asyncio.timeout(10):
            await upstream.reader_gone.wait()


async def test_any_path_and_method_is_passed_on(ksi: Scripts) -> None:
    async with door(ksi, "door:record") as (base, _, _, run), httpx.AsyncClient(trust_env=False) as http:
        answer = await http.get(f"{base}/files/a%2Fb?limit=3")
        assert answer.json()["path"] == "/v1/files/a%2Fb?limit=3"
        assert "set-cookie" not in answer.headers
        beside = await http.request("PROPFIND", f"{base.removesuffix('/v1')}/v2/files")
        assert (beside.json()["path"], beside.json()["method"]) == ("/v2/files", "PROPFIND")
    async with door(ksi, "door:replay", run=run) as (base, _, _, _), httpx.AsyncClient(trust_env=False) as http:
        assert (await http.get(f"{base}/files/a%2Fb?limit=3")).content == answer.content
        again = await http.request("PROPFIND", f"{base.removesuffix('/v1')}/v2/files")
        assert again.content == beside.content


async def test_a_key_in_the_query_string_goes_upstream_and_is_not_stored(ksi: Scripts) -> None:
    async with door(ksi, "door:record") as (base, _, _, run), httpx.AsyncClient(trust_env=False) as http:
        answer = await http.get(f"{base}/files?limit=3&key={KEY}&api-version=1")
        assert answer.json()["path"] == "/v1/files?limit=3&key=****************&api-version=1"
    files = [file for file in ksi.daemon.home.path.rglob("*") if file.is_file()]
    assert [file for file in files if KEY.encode() in file.read_bytes()] == []
    async with door(ksi, "door:replay", run=run) as (base, _, _, _), httpx.AsyncClient(trust_env=False) as http:
        assert (await http.get(f"{base}/files?limit=3&key=another&api-version=1")).content == answer.content


async def test_responses_are_recorded_and_counted_and_replayed(ksi: Scripts, upstream: Upstream) -> None:
    async def told(base: str) -> tuple[str, str]:
        async with openai.AsyncOpenAI(base_url=base, api_key=KEY, max_retries=0) as ai:
            whole = await ai.responses.create(model="m", input="one two", max_output_tokens=9)
            async with ai.responses.stream(model="m", input="three four", max_output_tokens=9) as stream:
                return whole.output_text, (await stream.get_final_response()).output_text

    async with door(ksi, "door:record") as (base, _, client, run):
        await client.request("budget:set", scope="provider:openai", tokens=1000)
        recorded = await told(base)
        (budget,) = (await client.request("budget:list"))["budgets"]
    assert recorded == ("two one ", "four three ")
    assert (budget["tokens_spent"], budget["tokens_held"]) == (20, 0)
    connections = upstream.connections
    async with door(ksi, "door:replay", run=run) as (base, opened, _, _):
        assert await told(base) == recorded
    assert (opened.end["left"], upstream.connections) == (0, connections)


async def test_nobody_comes_through_a_door_that_is_closed(ksi: Scripts) -> None:
    async with door(ksi, "door:record") as (base, _, _, _), httpx.AsyncClient(trust_env=False) as http:
        assert (await http.get(f"{base.removesuffix('/v1')}x/v1/models")).status_code == 401
    async with httpx.AsyncClient(trust_env=False) as http:
        assert (await http.get(f"{base}/models")).status_code == 401


async def test_what_might_go_over_a_budget_is_not_asked(ksi: Scripts, upstream: Upstream) -> None:
    async with door(ksi, "door:record") as (base, _, client, _), openai.AsyncOpenAI(base_url=base, api_key="k") as ai:
        await client.request("budget:set", scope="provider:openai", tokens=1000)
        messages: Any = [{"role": "user", "content": "tell one"}]
        await ai.chat.completions.create(model="m", messages=messages, max_tokens=500)
        (budget,) = (await client.request("budget:list"))["budgets"]
        assert (budget["tokens_spent"], budget["tokens_held"]) == (10, 0)
        with pytest.raises(openai.APIStatusError) as caught:
            await ai.chat.completions.create(model="m", messages=messages, max_tokens=5000)
        assert caught.value.response.json()["error"]["code"] == "budget_exceeded"
    assert len(upstream.bodies) == 1


async def test_a_stream_that_says_no_usage_is_asked_for_it_and_its_script_is_not_told(
    ksi: Scripts, upstream: Upstream
) -> None:
    plain = streamed("tell one", max_tokens=9)
    async with door(ksi, "door:record") as (base, _, client, run), httpx.AsyncClient(trust_env=False) as http:
        uncapped = await http.post(f"{base}/chat/completions", json=plain)
        await client.request("budget:set", scope="all", tokens=1_000)
        capped = await http.post(f"{base}/chat/completions", json=plain)
        told = await http.post(f"{base}/chat/completions", json={**plain, "stream_options": {"include_usage": True}})
        (budget,) = (await client.request("budget:list"))["budgets"]
        repeated = await client.request("timetravel:replay", run=run)
    assert (capped.content, "usage" in told.text, upstream.bodies[0]) == (uncapped.content, True, plain)
    assert (budget["tokens_spent"], budget["tokens_held"]) == (20, 0)
    assert repeated["calls"] == 0
    async with door(ksi, "door:replay", run=run) as (base, _, _, _), httpx.AsyncClient(trust_env=False) as http:
        assert (await http.post(f"{base}/chat/completions", json=plain)).content == capped.content


async def test_a_script_that_bounds_nothing_is_bounded_by_the_little_that_is_left(
    ksi: Scripts, upstream: Upstream
) -> None:
    async with door(ksi, "door:record") as (base, _, client, _), openai.AsyncOpenAI(base_url=base, api_key="k") as ai:
        await client.request("budget:set", scope="all", tokens=200)
        messages: Any = [{"role": "user", "content": "tell one"}]
        await ai.chat.completions.create(model="m", messages=messages)
    assert 0 < upstream.bodies[0]["max_completion_tokens"] < 200


async def test_what_a_model_has_used_beyond_its_bound_is_reserved_for_from_then_on(
    ksi: Scripts, upstream: Upstream
) -> None:
    async with door(ksi, "door:record") as (base, _, client, _), openai.AsyncOpenAI(base_url=base, api_key="k") as ai:
        await client.request("budget:set", scope="all", tokens=1_000)
        messages: Any = [{"role": "user", "content": "dear one"}]
        await ai.chat.completions.create(model="m", messages=messages, max_tokens=100)
        with pytest.raises(openai.APIStatusError) as caught:
            await ai.chat.completions.create(model="m", messages=messages, max_tokens=100)
        (exceeded,) = (await client.request("log:read", pattern="budget:was_exceeded"))["events"]
    assert caught.value.response.json()["error"]["code"] == "budget_exceeded"
    assert (exceeded["data"]["left"], exceeded["data"]["needed"]) == (493, 507)


async def test_a_call_that_a_kill_cut_off_counts_as_it_was_reserved(ksi: Scripts, upstream: Upstream) -> None:
    async def killed_in_the_middle() -> None:
        async with door(ksi, "door:record") as (base, _, client, _):
            await client.request("budget:set", scope="all", tokens=1_000)
            async with asked(base, "hold it") as response:
                async for _ in response.aiter_raw():
                    await ksi.daemon.kill()

    with pytest.raises(httpx.RemoteProtocolError):
        await killed_in_the_middle()
    await ksi.daemon.start()
    async with ksi.daemon.client() as client:
        (budget,) = (await client.request("budget:list"))["budgets"]
    assert (budget["tokens_spent"], budget["tokens_held"], len(upstream.bodies)) == (0, 1_000, 1)


async def test_a_stream_that_bounds_nothing_is_cut_where_the_budget_ends(ksi: Scripts) -> None:
    prompt = "many words " * 40
    async with door(ksi, "door:record") as (base, _, client, _), httpx.AsyncClient(trust_env=False) as http:
        size = len(httpx.Request("POST", base, json=streamed(prompt)).content)
        await client.request("budget:set", scope="all", tokens=size + 40)
        with pytest.raises(httpx.RemoteProtocolError):
            await http.post(f"{base}/chat/completions", json=streamed(prompt))
        (budget,) = (await client.request("budget:list"))["budgets"]
        assert budget["tokens_held"] == 0
        assert budget["tokens_spent"] >= 24


async def test_who_may_not_ask_is_refused_and_the_refusal_is_a_fact(tmp_path: Path, upstream: Upstream) -> None:
    (tmp_path / "home").mkdir(mode=0o700)
    profile = (
        '[permission]\ndefault_profile = "mute"\n[permission.profiles.mute]\nallow = ["*"]\ndeny = ["door:call"]\n'
    )
    (tmp_path / "home" / "ksi.toml").write_text(profile)
    async with DaemonProcess(tmp_path / "home", settings={"http.port": 0}) as daemon:
        ksi = Scripts(daemon, upstream, tmp_path)
        async with door(ksi, "door:record") as (base, _, client, _), httpx.AsyncClient(trust_env=False) as http:
            answer = await http.post(f"{base}/chat/completions", json=streamed("tell one"))
            assert (answer.status_code, answer.json()["error"]["code"]) == (403, "permission_denied")
            facts = (await client.request("log:read", pattern="permission:denied"))["events"]
            assert facts[0]["data"]["event"] == "door:call"
    assert upstream.bodies == []


async def test_an_upstream_that_is_not_there_is_not_there_in_the_replay_either(ksi: Scripts) -> None:
    ksi.upstream.url = "http://127.0.0.1:9"
    async with door(ksi, "door:record") as (base, _, _, run), httpx.AsyncClient(trust_env=False) as http:
        answer = await http.post(f"{base}/chat/completions", json=streamed("tell one"))
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "provider_overloaded")
    async with door(ksi, "door:replay", run=run) as (base, _, _, _), httpx.AsyncClient(trust_env=False) as http:
        again = await http.post(f"{base}/chat/completions", json=streamed("tell one"))
        assert (again.status_code, again.json()["error"]["code"]) == (503, "provider_overloaded")


async def test_a_password_in_an_address_is_refused_before_it_is_recorded(ksi: Scripts) -> None:
    refused = await ksi("record", "--", "x.py", variables={"OPENAI_BASE_URL": "http://me:secret@127.0.0.1/v1"})
    assert re.search("validation_error", refused.said)
    files = [file for file in ksi.daemon.home.path.rglob("*") if file.is_file()]
    assert [file for file in files if b"me:secret" in file.read_bytes()] == []
