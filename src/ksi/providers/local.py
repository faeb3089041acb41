"""The embedded model as a provider: OpenAI's protocol, spoken to a child process that this owns."""

from __future__ import annotations

import asyncio
import importlib.util
import re
from collections.abc import AsyncGenerator
from contextlib import aclosing
from pathlib import Path
from typing import Literal

import httpx
import msgspec

from ksi.core.errors import ModelUnavailableError, NotFoundError, ProviderOverloadedError, StreamInterruptedError
from ksi.providers.base import AnyChunk, Capabilities, CompletionRequest, ModelInfo
from ksi.providers.local_child import Serving
from ksi.providers.model import PROVIDER, SMOLLM2, ModelFile, ModelStore
from ksi.providers.model_process import ModelProcess
from ksi.providers.openai import OpenAIProvider
from ksi.providers.timeouts import DEFAULT_TIMEOUTS, Timeouts, patiently

SLOTS = 2
CONTEXT_WINDOW = 4096
IDLE_TIMEOUT = 5.0
_BUSY = re.compile(r"^llamacpp:requests_(?:processing|deferred) ([1-9]\d*)", re.MULTILINE)


class LocalProvider:
    """Completions of the embedded model: real, small, and not smart.

    The child process starts at the first use, starts again at the next use if it died, and stops with ``aclose``.

    Args:
        store: Where the model's file is.
        slots: Answers at the same time; more wait here, in order.
        threads: Threads that compute; on a busy machine one is the fastest.
        log_path: Where the child's own words go; None: nowhere.
    """

    name = PROVIDER
    writes_ahead: Literal[True] = True

    def __init__(
        self,
        store: ModelStore | None = None,
        *,
        model: ModelFile = SMOLLM2,
        slots: int = SLOTS,
        threads: int = 1,
        log_path: Path | None = None,
    ) -> None:
        self.capabilities = Capabilities(continues=True, structured=True, context_window=CONTEXT_WINDOW)
        self._store = store or ModelStore()
        self._model = model
        self._slots = slots
        self._threads = threads
        self._free_slots = asyncio.Semaphore(slots)
        self._log_path = log_path
        self._starting = asyncio.Lock()
        self._child: _Child | None = None

    @property
    def pid(self) -> int | None:
        """The child's process id, while it runs."""
        return self._child.process.pid if self._child and self._child.process.is_running else None

    async def start(self) -> None:
        """Start the child if it does not run (1 s).

        Raises:
            ModelUnavailableError: The model's file or the runtime is missing, wrong, or does not come up.
        """
        await self._running()

    async def aclose(self) -> None:
        """Stop the child, and give its memory back; another use starts it again."""
        async with self._starting:
            await self._stop()

    async def models(self) -> list[ModelInfo]:
        infos = [info for info in self._store.list_models() if info.name == self._model.name]
        return [msgspec.structs.replace(info, context_window=CONTEXT_WINDOW) for info in infos]

    def stream(
        self, request: CompletionRequest, *, timeouts: Timeouts = DEFAULT_TIMEOUTS
    ) -> AsyncGenerator[AnyChunk, None]:
        return patiently(self._chunks(request, timeouts), timeouts, provider=self.name)

    async def is_idle(self) -> bool:
        """Whether the child neither computes nor queues anything; True when there is none."""
        if self._child is None or not self._child.process.is_running:
            return True
        return await self._child.is_idle()

    async def _chunks(self, request: CompletionRequest, timeouts: Timeouts) -> AsyncGenerator[AnyChunk, None]:
        if request.model != self._model.name:
            raise NotFoundError(f"model of {self.name}", request.model)
        # The queue is here: the child would not see that one who waits in its own queue has gone.
        async with self._free_slots:
            child = await self._running()
            try:
                async with aclosing(child.server.stream(request, timeouts=timeouts)) as chunks:
                    async for chunk in chunks:
                        yield chunk
            except (StreamInterruptedError, ProviderOverloadedError):
                await child.process.settle()
                raise

    async def _running(self) -> _Child:
        async with self._starting:
            if self._child is None or not self._child.process.is_running:
                await self._stop()
                self._child = await self._spawn()
            return self._child

    async def _spawn(self) -> _Child:
        if importlib.util.find_spec("xllamacpp") is None:
            raise ModelUnavailableError("its runtime is missing; run: pip install 'ksi[local]'", provider=self.name)
        path = await asyncio.to_thread(self._store.verify, self._model)
        serving = Serving(
            model_path=str(path),
            model_name=self._model.name,
            slots=self._slots,
            threads=self._threads,
            context_window=CONTEXT_WINDOW,
        )
        process = await ModelProcess.spawn(serving, provider=self.name, log_path=self._log_path)
        return _Child(process, self.capabilities)

    async def _stop(self) -> None:
        child, self._child = self._child, None
        if child is not None:
            await child.aclose()


class _Child:
    """A running process and what speaks to it."""

    def __init__(self, process: ModelProcess, capabilities: Capabilities) -> None:
        self.process = process
        self._http = _loopback_client()
        self.server = OpenAIProvider(
            base_url=f"{process.address}/v1",
            api_key=process.api_key,
            name=PROVIDER,
            capabilities=capabilities,
            # A word for each batch of the prompt: only as it writes does the child see that the reader has gone.
            # And how many tokens there are by now: an answer that is cancelled has no end that would say it.
            extra_body={"return_progress": True, "timings_per_token": True},
            http=self._http,
        )

    async def is_idle(self) -> bool:
        headers = {"authorization": f"Bearer {self.process.api_key}"}
        try:
            response = await self._http.get(f"{self.process.address}/metrics", headers=headers, timeout=IDLE_TIMEOUT)
        except httpx.TimeoutException:
            return False  # too busy to say
        except httpx.TransportError:
            return True  # it has just ended
        return _BUSY.search(response.text) is None

    async def aclose(self) -> None:
        try:
            await self.server.aclose()
        finally:
            await self.process.stop()


def _loopback_client() -> httpx.AsyncClient:
    """Without the environment's proxy, and without idle connections, which the child may just be closing."""
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=0)
    return httpx.AsyncClient(trust_env=False, limits=limits, timeout=None)  # noqa: S113 - `stream` holds every limit
