"""The embedded model, for real: its answers, its cancels, and how its process lives and dies."""

from __future__ import annotations

import asyncio
import os
import select
import signal
import subprocess
import sys
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing, contextmanager
from pathlib import Path

import httpx
import msgspec
import pytest
import pytest_asyncio

from ksi.core.errors import (
    ContextLengthError,
    ModelUnavailableError,
    NotFoundError,
    ProviderTimeoutError,
    StreamInterruptedError,
)
from ksi.providers.base import AnyChunk, CompletionRequest, Counted, Finished, TextDelta
from ksi.providers.local import SLOTS, LocalProvider
from ksi.providers.model import SMOLLM2, ModelStore
from ksi.providers.timeouts import Timeouts
from tests.providers.faulty_server import ask, collect, take, text_of

pytestmark = pytest.mark.asyncio(loop_scope="module")

# The prompt alone keeps the model busy for some 18 s: who is idle long before that has really stopped.
LONG_PROMPT = "word " * 1500
IDLE_WITHIN = 9.0


@pytest.fixture(scope="module")
def store() -> ModelStore:
    pytest.importorskip("xllamacpp", reason="the model's runtime is not installed: pip install 'ksi[local]'")
    store = ModelStore()
    try:
        store.install()
    except ModelUnavailableError as error:
        pytest.skip(f"no model: {error}")
    return store


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def provider(store: ModelStore) -> AsyncGenerator[LocalProvider, None]:
    provider = LocalProvider(store)
    yield provider
    await provider.aclose()


def request(text: str = "Tell me about the sea.", **fields: object) -> CompletionRequest:
    return ask(text, **{"model": SMOLLM2.name, "temperature": 0.0, "max_tokens": 24, **fields})


async def until_idle(provider: LocalProvider) -> None:
    async with asyncio.timeout(IDLE_WITHIN):
        while not await provider.is_idle():
            pass  # each question is a round trip to the child


async def until_busy(provider: LocalProvider) -> None:
    await provider.start()
    async with asyncio.timeout(IDLE_WITHIN):
        while await provider.is_idle():
            pass


@contextmanager
def watched(pid: int) -> Iterator[int]:
    descriptor = os.pidfd_open(pid)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


async def ended(descriptor: int, *, within: float) -> bool:
    """Whether the process behind ``descriptor`` ends within so many seconds."""
    readable, _, _ = await asyncio.to_thread(select.select, [descriptor], [], [], within)
    return bool(readable)


def own_children() -> set[int]:
    return {int(child) for child in Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()}


def has_open(pid: int, path: Path) -> bool:
    return str(path) in Path(f"/proc/{pid}/maps").read_text()


async def test_an_answer_comes_token_by_token_with_its_usage(provider: LocalProvider) -> None:
    *deltas, last = await collect(provider.stream(request(max_tokens=8)))
    assert [type(delta) for delta in deltas] == [TextDelta, Counted] * 8
    assert [delta.usage.output_tokens for delta in deltas if isinstance(delta, Counted)] == list(range(1, 9))
    assert isinstance(last, Finished)
    assert (last.reason, last.provider, last.model) == ("length", "local", SMOLLM2.name)
    assert last.usage.output_tokens == 8
    assert last.usage.input_tokens > 5
    assert not last.usage.estimated


async def test_other_questions_get_other_answers_at_the_same_time(provider: LocalProvider) -> None:
    questions = ("Tell me about the sea.", "What is bread made of?", "Name a colour.")
    texts = await asyncio.gather(*(collect(provider.stream(request(question))) for question in questions))
    assert len({text_of(text) for text in texts}) == len(questions)


async def test_it_goes_on_behind_the_answer_so_far_and_does_not_repeat_it(provider: LocalProvider) -> None:
    so_far = "The sea is wide, and under its waves there"
    chunks = await collect(provider.stream(request(continue_text=so_far)))
    assert text_of(chunks)
    assert not text_of(chunks).startswith("The sea is wide")
    last = chunks[-1]
    assert isinstance(last, Finished)
    assert last.usage.output_tokens <= 24


async def test_an_answer_fits_the_schema_that_was_asked_for(provider: LocalProvider) -> None:
    colour = {"enum": ["red", "blue"]}
    schema = {
        "type": "object",
        "properties": {"colour": colour},
        "required": ["colour"],
        "additionalProperties": False,
    }
    chunks = await collect(provider.stream(request("Red or blue?", response_schema=schema)))
    assert msgspec.json.decode(text_of(chunks))["colour"] in colour["enum"]


async def test_models_name_the_file_by_its_hash(provider: LocalProvider) -> None:
    (info,) = await provider.models()
    assert (info.name, info.provider, info.sha256) == (SMOLLM2.name, "local", SMOLLM2.sha256)


async def test_another_model_is_not_found(provider: LocalProvider) -> None:
    with pytest.raises(NotFoundError):
        await collect(provider.stream(ask(model="gpt")))


async def test_a_prompt_longer_than_the_window_is_refused_at_once(provider: LocalProvider) -> None:
    with pytest.raises(ContextLengthError):
        await collect(provider.stream(request("word " * 5000)))


async def test_without_the_key_the_child_answers_nobody(provider: LocalProvider) -> None:
    await provider.start()
    assert provider._child is not None
    async with httpx.AsyncClient(trust_env=False) as stranger:
        answer = await stranger.post(f"{provider._child.process.address}/v1/chat/completions", json={"messages": []})
    assert answer.status_code == 401


async def test_the_child_is_idle_soon_after_a_cancel_while_it_decodes(provider: LocalProvider) -> None:
    async with aclosing(provider.stream(request(max_tokens=2000))) as stream:
        await take(stream, 3)
        assert not await provider.is_idle()
    await until_idle(provider)


async def test_the_child_is_idle_soon_after_a_cancel_while_it_reads_the_prompt(provider: LocalProvider) -> None:
    reading = asyncio.create_task(collect(provider.stream(request(LONG_PROMPT))))
    await until_busy(provider)
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading
    await until_idle(provider)


async def test_a_timeout_stops_the_child_as_a_cancel_does(provider: LocalProvider) -> None:
    with pytest.raises(ProviderTimeoutError):
        await collect(provider.stream(request("other " + LONG_PROMPT), timeouts=Timeouts(first_token=0.5)))
    await until_idle(provider)


async def test_a_cancel_in_the_queue_leaves_the_others_alone(provider: LocalProvider) -> None:
    running = [provider.stream(request(max_tokens=500, seed=seed)) for seed in range(SLOTS)]
    for stream in running:
        await take(stream, 1)
    waiting: list[asyncio.Task[list[AnyChunk]]] = [
        asyncio.create_task(collect(provider.stream(request()))) for _ in range(2)
    ]
    await take(running[0], 4)
    waiting[0].cancel()
    await take(running[0], 4)
    assert [task.done() for task in waiting] == [True, False]
    for stream in running:
        await stream.aclose()
    assert text_of(await waiting[1])
    await until_idle(provider)


async def test_a_child_that_dies_in_mid_answer_interrupts_it_and_the_next_use_starts_another(
    provider: LocalProvider,
) -> None:
    stream = provider.stream(request(max_tokens=500))
    await take(stream, 2)
    first = provider.pid
    assert first is not None
    os.kill(first, signal.SIGKILL)
    with pytest.raises(StreamInterruptedError):
        await collect(stream)
    assert text_of(await collect(provider.stream(request())))
    assert provider.pid not in {None, first}


async def test_closing_the_provider_ends_its_child_and_streams(store: ModelStore) -> None:
    provider = LocalProvider(store)
    stream = provider.stream(request(max_tokens=500))
    await take(stream, 1)
    pid = provider.pid
    assert pid is not None
    with watched(pid) as child:
        await provider.aclose()
        assert await ended(child, within=0)
    assert provider.pid is None
    with pytest.raises(StreamInterruptedError):
        await collect(stream)


async def test_a_cancel_while_the_child_starts_leaves_none_behind(store: ModelStore) -> None:
    others = own_children()
    starting = asyncio.create_task(LocalProvider(store).start())
    async with asyncio.timeout(IDLE_WITHIN):
        while not (loading := [child for child in own_children() - others if has_open(child, store.path())]):  # noqa: ASYNC110 - nothing tells
            await asyncio.sleep(0)
    (child,) = loading
    with watched(child) as descriptor:
        starting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await starting
        assert await ended(descriptor, within=0)


async def test_a_tampered_model_is_never_loaded(tmp_path: Path, store: ModelStore) -> None:
    tampered = ModelStore(tmp_path)
    with store.path().open("rb") as source:
        tampered.path().write_bytes(source.read(1 << 20))
    with pytest.raises(ModelUnavailableError, match="is not the model"):
        await LocalProvider(tampered).start()


PARENT = """
import asyncio
from ksi.providers.local import LocalProvider
async def main():
    provider = LocalProvider()
    await provider.start()
    print(provider.pid, flush=True)
    await asyncio.Event().wait()
asyncio.run(main())
"""


async def test_the_child_dies_with_a_parent_that_is_killed(store: ModelStore) -> None:
    environment = {**os.environ, "KSI_MODELS": str(store.directory)}
    parent = await asyncio.create_subprocess_exec(sys.executable, "-c", PARENT, stdout=subprocess.PIPE, env=environment)
    assert parent.stdout is not None
    with watched(int(await parent.stdout.readline())) as child:
        parent.kill()
        assert await ended(child, within=5)
    await parent.wait()


async def test_the_child_ends_with_its_stdin(store: ModelStore) -> None:
    provider = LocalProvider(store)
    await provider.start()
    assert provider.pid is not None
    assert provider._child is not None
    with watched(provider.pid) as child:
        stdin = provider._child.process._process.stdin
        assert stdin is not None
        stdin.close()
        assert await ended(child, within=5)
    await provider.aclose()
