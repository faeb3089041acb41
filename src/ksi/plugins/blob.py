"""Blobs: payloads that are too large for an event, kept beside the log; events name them by their hash."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Annotated

import msgspec
from msgspec import Meta

from ksi.core.blobs import PIECE_BYTES_MAX, Blob, Blobs
from ksi.core.events import fact
from ksi.kernel.context import EventContext
from ksi.kernel.declare import End, event, query, stream
from ksi.kernel.plugin import AsyncPlugin

Upload = Annotated[
    str, Meta(pattern="^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$", description="a UUID that the client chose")
]
Hash = Annotated[str, Meta(pattern="^[0-9a-f]{64}$", description="SHA-256 of the content")]
Offset = Annotated[int, Meta(ge=0, description="bytes in front of it")]


@fact("blob:was_put")
class BlobWasPut(msgspec.Struct, frozen=True):
    """The content with this hash is there."""

    blob: str
    bytes: int
    media_type: str


class Written(msgspec.Struct, frozen=True):
    """How many bytes the upload has now."""

    bytes: int


class Piece(msgspec.Struct, frozen=True):
    """A part of a blob, as base64."""

    offset: int
    data: bytes


class BlobPlugin(AsyncPlugin):
    """Takes and gives large payloads in pieces."""

    name = "blob"
    requires = (Blobs,)

    async def initialize(self) -> None:
        self._blobs = self.host.services.get(Blobs)

    # Not recorded, so a query: the log is to hold neither the pieces nor that they came. What counts is blob:put.
    @query(
        "blob:write",
        errors=["payload_too_large", "unavailable"],
        examples=[{"upload": "01992f3a-7c2e-7000-8000-000000000000", "offset": 0, "data": "aGVsbG8="}],
    )
    async def write(
        self,
        upload: Upload,
        data: Annotated[bytes, Meta(max_length=PIECE_BYTES_MAX, description="as base64, at most 256 KiB of content")],
        offset: Offset = 0,
    ) -> Written:
        """Write a piece of an upload. The same piece again changes nothing."""
        return Written(await self._blobs.write(upload, offset, data))

    @event(
        "blob:put",
        durability="before",
        on_crash="rerun",
        timeout=None,
        errors=["not_found", "unavailable"],
        examples=[{"upload": "01992f3a-7c2e-7000-8000-000000000000", "blob": "0" * 64}],
    )
    async def put(
        self, upload: Upload, blob: Hash, context: EventContext, media_type: str = "application/octet-stream"
    ) -> Blob:
        """Make a blob of an upload that is whole. It is on disk before the event that says so."""
        made: Blob = await context.effect(
            "blob:put",
            {"upload": upload, "blob": blob},
            lambda: self._blobs.put(upload, blob, subject=context.envelope.subject),
            result=Blob,
            idempotent=True,
        )
        context.append(f"blob/{blob}", BlobWasPut(blob, made.bytes, media_type))
        return made

    @stream("blob:get", record=False, errors=["not_found", "unavailable"], examples=[{"blob": "0" * 64}])
    async def get(self, blob: Hash, offset: Offset = 0) -> AsyncIterator[Piece | End[Blob]]:
        """Give a blob in pieces, from an offset on."""
        whole = await self._blobs.find(blob)
        while data := await self._blobs.read(blob, offset, PIECE_BYTES_MAX):
            yield Piece(offset, data)
            offset += len(data)
        yield End(whole)
