"""What a provider's server or process may do: a typed error with what there was of the answer, and nothing is left."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from ksi.core.errors import (
    KSIError,
    ProviderBugError,
    ProviderError,
    ProviderTimeoutError,
    RateLimitedError,
    StreamInterruptedError,
)
from ksi.providers.base import Provider
from ksi.providers.process_group import LINE_BYTES_MAX
from ksi.providers.timeouts import Timeouts
from tests.plugins.scripted import harness
from tests.providers import test_anthropic, test_claude, test_openai
from tests.providers.faulty_server import STREAM_HEAD, FaultyServer, Reply, answer, event, send, then

pytestmark = pytest.mark.leakcheck

FAULTS: Mapping[str, type[KSIError]] = {
    "silent": ProviderTimeoutError,
    "disconnects": StreamInterruptedError,
    "malformed": ProviderBugError,
}
OF_THE_CLI_ALONE: Mapping[str, type[KSIError]] = {
    "ignores SIGINT": ProviderTimeoutError,
    "half a line": StreamInterruptedError,
    "a line without end": ProviderBugError,
    "no result": StreamInterruptedError,
}
OF_THE_CLI = {
    "silent": "time.sleep(60)",
    "disconnects": "sys.exit(1)",
    "malformed": "print('no JSON')",
    "ignores SIGINT": "signal.signal(signal.SIGINT, signal.SIG_IGN); time.sleep(60)",
    "half a line": "print('{\"type\": \"resu', end='', flush=True)",
    "a line without end": f"token('x' * {LINE_BYTES_MAX})",
    "no result": "end(); sys.exit(0)",
    "limits": "result(is_error=True, api_error_status=429, result='slow down')",
}
SERVERS = {"openai": test_openai.TestOpenAI(), "anthropic": test_anthropic.TestAnthropic()}


@asynccontextmanager
async def failing(name: str, fault: str, tmp_path: Path) -> AsyncIterator[Provider]:
    """A provider that says `one two`, and then fails so; one that ``limits`` says nothing."""
    if name == "claude":
        said = "" if fault == "limits" else "token('one'); token(' two'); "
        cli = test_claude.Cli(tmp_path)
        yield cli(f"begin(); {said}{OF_THE_CLI[fault]}")
        assert not test_claude.group_exists(cli.pid)
        return
    server, protocol = FaultyServer([]), SERVERS[name]
    server.replies.append(_reply(server, fault, [protocol.token("one"), protocol.token(" two")]))
    async with server.running():
        provider = protocol.make(server)
        yield provider
        if fault == "silent":
            async with asyncio.timeout(5):
                await server.reader_gone.wait()
        await provider.aclose()


def _reply(server: FaultyServer, fault: str, tokens: Sequence[bytes]) -> Reply:
    replies: dict[str, Reply] = {
        "silent": then(send(STREAM_HEAD, *tokens), server.silence),
        "disconnects": send(STREAM_HEAD, *tokens),
        "malformed": send(STREAM_HEAD, *tokens, event(b"{half")),
        "limits": answer(429, {"error": {"message": "slow down"}}, retry_after="100"),
    }
    return replies[fault]


async def failure_of(provider: Provider) -> tuple[ProviderError, Mapping[str, Any]]:
    """The error, and the fact of it."""
    timeouts = Timeouts(first_token=20, between_tokens=0.1)
    async with harness(provider, timeouts=timeouts, models=("m",)) as ksi:
        with pytest.raises(ProviderError) as caught:
            await ksi.request("completion:create", {"prompt": "12345678", "conversation": "c"})
        (ended,) = await ksi.facts("completion:interrupted")
        assert (await ksi.request("completion:status"))["running"] == 0
    return caught.value, ended.data


@pytest.mark.parametrize(
    ("name", "fault"),
    [*product([*SERVERS, "claude"], FAULTS), *product(["claude"], OF_THE_CLI_ALONE)],
)
async def test_a_fault_behind_the_first_token_is_its_error_with_the_text_and_its_usage(
    name: str, fault: str, tmp_path: Path
) -> None:
    async with failing(name, fault, tmp_path) as provider:
        error, ended = await failure_of(provider)
    assert type(error) is {**FAULTS, **OF_THE_CLI_ALONE}[fault]
    assert error.partial["text"] == "one two"
    assert error.partial["usage"] == ended["usage"] == {"input_tokens": 2, "output_tokens": 2, "estimated": True}
    assert ended["reason"] == error.code


@pytest.mark.parametrize("name", [*SERVERS, "claude"])
async def test_a_refusal_is_its_error_and_has_used_nothing(name: str, tmp_path: Path) -> None:
    async with failing(name, "limits", tmp_path) as provider:
        error, ended = await failure_of(provider)
    assert type(error) is RateLimitedError
    assert error.retry_after == (None if name == "claude" else 100.0)
    assert error.partial["text"] == ""
    assert ended["usage"] == {"input_tokens": 0, "output_tokens": 0, "estimated": False}
