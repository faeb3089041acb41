"""Completions on the embedded model: what a script can not show."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator

import httpx
import pytest
import pytest_asyncio

from ksi.core.errors import CancelledError, KSIConnectionError, ModelUnavailableError
from ksi.plugins.model import Model
from ksi.providers.local import LocalProvider
from ksi.providers.model import SMOLLM2, ModelStore
from ksi.testing.harness import EventTestHarness
from tests.plugins.scripted import chunks_of, harness, rest, take

pytestmark = pytest.mark.asyncio(loop_scope="module")
# The prompt alone keeps the model busy for some 18 s: who is idle long before that has really stopped.
LONG_PROMPT = "word " * 1500
IDLE_WITHIN = 9.0
RUN = "01a00000-0000-7000-8000-000000000001"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def provider() -> AsyncGenerator[LocalProvider, None]:
    pytest.importorskip("xllamacpp", reason="the model's runtime is not installed: pip install 'ksi[local]'")
    store = ModelStore()
    try:
        store.install()
    except ModelUnavailableError as error:
        pytest.skip(f"no model: {error}")
    provider = LocalProvider(store)
    yield provider
    await provider.aclose()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def ksi(provider: LocalProvider) -> AsyncGenerator[EventTestHarness, None]:
    async with harness(provider, models=(SMOLLM2.name,), more=(Model,)) as running:
        yield running


def ask(prompt: str, **more: object) -> dict[str, object]:
    return {"prompt": prompt, "temperature": 0.0, "max_tokens": 24, **more}


async def until_idle(provider: LocalProvider) -> None:
    async with asyncio.timeout(IDLE_WITHIN):
        while not await provider.is_idle():
            pass  # each question is a round trip to the child


async def tokens_written(provider: LocalProvider) -> int:
    """By the model since it was started, by its own count."""
    assert provider._child is not None
    process = provider._child.process
    async with httpx.AsyncClient(trust_env=False, headers={"authorization": f"Bearer {process.api_key}"}) as http:
        said = (await http.get(f"{process.address}/metrics")).text
    return int(re.findall(r"^llamacpp:tokens_predicted_total (\d+)", said, re.MULTILINE)[0])


async def test_other_prompts_give_other_texts_and_the_end_names_the_very_model(ksi: EventTestHarness) -> None:
    ends = [await ksi.request("completion:create", ask(prompt)) for prompt in ("What is the sea?", "Name a colour.")]
    assert len({end["text"] for end in ends}) == 2
    for end in ends:
        assert (end["provider"], end["model"], end["model_sha256"]) == ("local", SMOLLM2.name, SMOLLM2.sha256)
        assert not end["usage"]["estimated"]
        assert end["usage"]["output_tokens"] >= len(await chunks_of(ksi, end["completion"])) > 0


async def test_a_cancel_stops_the_model_in_the_middle_of_a_token(
    ksi: EventTestHarness, provider: LocalProvider
) -> None:
    await provider.start()
    before = await tokens_written(provider)
    stream = ksi.stream("completion:create", ask("Tell me a long story.", max_tokens=1000))
    seen = await take(stream, 3)
    stopped = await ksi.request("completion:cancel", {"run": "last"})
    await until_idle(provider)
    written = await tokens_written(provider) - before
    with pytest.raises(CancelledError) as caught:
        await rest(stream)
    assert stopped["text"].startswith(seen)
    assert caught.value.partial["text"] == stopped["text"]
    assert not stopped["usage"]["estimated"]
    assert 3 <= stopped["usage"]["output_tokens"] <= written  # what it wrote until it learned of the cancel is not seen


async def test_a_cancel_stops_the_model_while_it_reads_the_prompt(
    ksi: EventTestHarness, provider: LocalProvider
) -> None:
    await provider.start()
    stream = ksi.stream("completion:create", ask(LONG_PROMPT))
    async with asyncio.timeout(IDLE_WITHIN):
        while await provider.is_idle():
            pass  # as above
    await ksi.request("completion:cancel", {"run": "last"})
    await until_idle(provider)
    with pytest.raises(CancelledError):
        await rest(stream)


async def test_after_a_crash_the_model_goes_on_behind_the_last_token(ksi: EventTestHarness) -> None:
    stream = ksi.stream("completion:create", ask("Tell me about the sea."), event_id=RUN)
    await take(stream, 6)
    await ksi.crash()
    with pytest.raises(KSIConnectionError):
        await rest(stream)
    kept = "".join(await chunks_of(ksi, RUN))
    resumed = ksi.stream("completion:resume", {"run": "last"})
    added = await rest(resumed)
    assert kept
    assert added
    assert resumed.answer["text"] == kept + added
    assert len(await chunks_of(ksi, RUN)) + resumed.answer["usage"]["output_tokens"] <= 24


async def test_its_process_can_be_stopped_and_starts_again(ksi: EventTestHarness, provider: LocalProvider) -> None:
    await ksi.request("completion:create", ask("Hello."))
    (listed,) = (await ksi.request("model:list"))["models"]
    assert (listed["name"], listed["sha256"], listed["pid"]) == (SMOLLM2.name, SMOLLM2.sha256, provider.pid)
    assert await ksi.request("model:stop") == {"provider": "local", "was_running": True}
    assert provider.pid is None
    assert await ksi.request("model:stop") == {"provider": "local", "was_running": False}
    assert (await ksi.request("completion:create", ask("Hello.")))["text"]
