"""Completions recorded from a provider and given again, without calling any. A miss is an error, never a call."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import AsyncGenerator, Iterable
from contextlib import aclosing
from pathlib import Path

import msgspec

from ksi.core import canonical
from ksi.core.errors import NotFoundError
from ksi.providers.base import AnyChunk, Capabilities, CompletionRequest, Finished, ModelInfo, Provider
from ksi.providers.timeouts import DEFAULT_TIMEOUTS, Timeouts, patiently

PROVIDER = "replay"
CAPABILITIES = Capabilities(continues=True, structured=True, tools=True)


class Recording(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One answer. Those of equal requests are told apart by their order."""

    request_hash: str
    model: str
    chunks: tuple[AnyChunk, ...]


def request_hash(request: CompletionRequest) -> str:
    """What equal requests have in common, 32 hex digits: the hash of their canonical JSON.

    Decoded once between, so that ``0`` and ``0.0`` in a field of floats are the same.
    """
    plain = msgspec.json.decode(canonical.encode(request), type=CompletionRequest)
    return canonical.digest(canonical.encode(plain)).hex()


class ReplayProvider:
    """Gives recorded answers: the n-th equal request gets the n-th recording of it."""

    name = PROVIDER
    capabilities = CAPABILITIES

    def __init__(self, recordings: Iterable[Recording]) -> None:
        self._recordings: defaultdict[str, list[Recording]] = defaultdict(list)
        self._given: defaultdict[str, int] = defaultdict(int)
        for recording in recordings:
            self._recordings[recording.request_hash].append(recording)

    async def start(self) -> None:
        """Nothing to do."""

    async def aclose(self) -> None:
        """Nothing to do."""

    async def models(self) -> list[ModelInfo]:
        names = {recording.model for recordings in self._recordings.values() for recording in recordings}
        return [ModelInfo(name=name, provider=self.name) for name in sorted(names)]

    def stream(
        self, request: CompletionRequest, *, timeouts: Timeouts = DEFAULT_TIMEOUTS
    ) -> AsyncGenerator[AnyChunk, None]:
        return patiently(self._chunks(request), timeouts, provider=self.name)

    async def _chunks(self, request: CompletionRequest) -> AsyncGenerator[AnyChunk, None]:
        for chunk in self._next(request_hash(request)).chunks:
            yield msgspec.structs.replace(chunk, provider=self.name) if isinstance(chunk, Finished) else chunk

    def _next(self, key: str) -> Recording:
        occurrence = self._given[key]
        recorded = self._recordings.get(key, [])
        if occurrence >= len(recorded):
            raise NotFoundError("recorded completion", f"{key}#{occurrence + 1} (there are {len(recorded)} of it)")
        self._given[key] += 1
        return recorded[occurrence]


class RecordingProvider:
    """Passes everything on to ``inner`` and keeps each answer that came to its end."""

    def __init__(self, inner: Provider) -> None:
        self.recordings: list[Recording] = []
        self._inner = inner

    @property
    def name(self) -> str:
        return self._inner.name

    @property
    def capabilities(self) -> Capabilities:
        return self._inner.capabilities

    async def start(self) -> None:
        await self._inner.start()

    async def aclose(self) -> None:
        await self._inner.aclose()

    async def models(self) -> list[ModelInfo]:
        return await self._inner.models()

    async def stream(
        self, request: CompletionRequest, *, timeouts: Timeouts = DEFAULT_TIMEOUTS
    ) -> AsyncGenerator[AnyChunk, None]:
        kept: list[AnyChunk] = []
        async with aclosing(self._inner.stream(request, timeouts=timeouts)) as chunks:
            async for chunk in chunks:
                kept.append(chunk)
                yield chunk
        key = request_hash(request)
        self.recordings.append(Recording(request_hash=key, model=request.model, chunks=tuple(kept)))


def write_recordings(path: Path, recordings: Iterable[Recording]) -> None:
    """One JSON object a line."""
    path.write_bytes(b"".join(canonical.encode(recording) + b"\n" for recording in recordings))


def read_recordings(path: Path) -> list[Recording]:
    """What :func:`write_recordings` wrote.

    Raises:
        OSError: There is no such file.
        msgspec.DecodeError: A line is no recording.
    """
    return [msgspec.json.decode(line, type=Recording) for line in path.read_bytes().splitlines()]
