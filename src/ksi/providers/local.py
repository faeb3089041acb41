"""The embedded model as a provider: OpenAI's protocol, spoken to a child process that this owns."""

from __future__ import annotations

import asyncio
import importlib.util
import re
from collections.abc import AsyncGenerator
from contextlib import aclosing
from pathlib import Path

import httpx

from ksi.core.errors import ModelUnavailableError, NotFoundError, ProviderOverloadedError, StreamInterruptedError
from ksi.providers.base import AnyChunk, Capabilities, CompletionRequest, ModelInfo
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
        log_path: Where the child's own words go; None: nowhere.
    """

    name = PROVIDER

    def __init__(
        self,
        store: ModelStore | None = None,
        *,
        model: ModelFile = SMOLLM2,
        slots: int = SLOTS,
        log_path: Path | None = None,
    ) -> None:
        self.capabilities = Capabilities(continues=True, structured=True, context_window=CONTEXT_WINDOW)
        self._store = store or ModelStore()
        self._model = model
        self._slots = slots
        self._free_slots = asyncio.Semaphore(slots)
        self._log_path = log_path
        self._starting = asyncio.Lock()
        self._process: ModelProcess | None = None
        self._server: OpenAIProvider | None = None

    @property
    def pid(self) -> int | None:
        """The child's process id, while it runs."""
        return self._process.pid if self._process and self._process.is_running else None

    async def start(self) -> None:
        """Start the child if it does not run (1 s).

        Raises:
            ModelUnavailableError: The model's file or the runtime is missing, wrong, or does not come up.
        """
        await self._running()

    async def aclose(self) -> None:
        async with self._starting:
            await self._stop()

    async def models(self) -> list[ModelInfo]:
        return [info for info in self._store.list_models() if info.name == self._model.name]

    def stream(
        self, request: CompletionRequest, *, timeouts: Timeouts = DEFAULT_TIMEOUTS
    ) -> AsyncGenerator[AnyChunk, None]:
        return patiently(self._chunks(request, timeouts), timeouts, provider=self.name)

    async def is_idle(self) -> bool:
        """Whether the child neither computes nor queues anything; True when there is none."""
        process = self._process
        if process is None or not process.is_running:
            return True
        headers = {"authorization": f"Bearer {process.api_key}"}
        response = await self._http.get(f"{process.address}/metrics", headers=headers, timeout=IDLE_TIMEOUT)
        return _BUSY.search(response.raise_for_status().text) is None

    async def _chunks(self, request: CompletionRequest, timeouts: Timeouts) -> AsyncGenerator[AnyChunk, None]:
        if request.model != self._model.name:
            raise NotFoundError(f"model of {self.name}", request.model)
        # The queue is here: the child would not see that one who waits in its own queue has gone.
        async with self._free_slots:
            server = await self._running()
            try:
                async with aclosing(server.stream(request, timeouts=timeouts)) as chunks:
                    async for chunk in chunks:
                        yield chunk
            except (StreamInterruptedError, ProviderOverloadedError):
                if self._process is not None:
                    await self._process.settle()
                raise

    async def _running(self) -> OpenAIProvider:
        async with self._starting:
            if self._server is None or self.pid is None:
                await self._stop()
                await self._spawn()
            assert self._server is not None
            return self._server

    async def _spawn(self) -> None:
        if importlib.util.find_spec("xllamacpp") is None:
            raise ModelUnavailableError("its runtime is missing; run: pip install 'ksi[local]'", provider=self.name)
        path = await asyncio.to_thread(self._store.verify, self._model)
        self._process = await ModelProcess.spawn(
            path,
            self._model.name,
            provider=self.name,
            slots=self._slots,
            context_window=CONTEXT_WINDOW,
            log_path=self._log_path,
        )
        self._http = _loopback_client()
        self._server = OpenAIProvider(
            base_url=f"{self._process.address}/v1",
            api_key=self._process.api_key,
            name=self.name,
            capabilities=self.capabilities,
            # A word for each batch of the prompt: only as it writes does the child see that the reader has gone.
            extra_body={"return_progress": True},
            http=self._http,
        )

    async def _stop(self) -> None:
        server, process = self._server, self._process
        self._server = self._process = None
        try:
            if server is not None:
                await server.aclose()
        finally:
            if process is not None:
                await process.stop()


def _loopback_client() -> httpx.AsyncClient:
    """Without the environment's proxy, and without idle connections, which the child may just be closing."""
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=0)
    return httpx.AsyncClient(trust_env=False, limits=limits, timeout=None)  # noqa: S113 - `stream` holds every limit
