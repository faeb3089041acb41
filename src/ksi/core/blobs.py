"""Large payloads, kept beside the log under the hash of their content: values, and the port that a store implements."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import msgspec

PIECE_BYTES_MAX = 256 << 10
"""Bytes that one request writes, or one chunk of a stream reads."""
BLOB_BYTES_MAX = 4 << 30


class Blob(msgspec.Struct, frozen=True):
    """``blob`` is the SHA-256 of the content, as 64 hexadecimal digits."""

    blob: str
    bytes: int


class Mirrored(msgspec.Struct, frozen=True):
    """``path`` is a folder with so many ``blobs``: of them ``copied`` just now, while ``removed`` were erased ones.

    ``damaged`` are those that are not what their names say; they are not in it.
    """

    path: str
    blobs: int
    copied: int
    removed: int
    damaged: Sequence[str] = ()


class Blobs(Protocol):
    """Where they are kept."""

    async def write(self, upload: str, offset: int, data: bytes) -> int:
        """Put ``data`` at ``offset`` of an upload, which begins with the first piece; how many bytes it has now.

        Raises:
            ValidationError: It has fewer than ``offset`` bytes.
            PayloadTooLargeError: It would be larger than a blob may be.
            UnavailableError: The disk does not take it.
        """

    async def put(self, upload: str, blob: str, *, subject: str | None) -> Blob:
        """Make a blob of what was uploaded; it is on disk when this returns. Again is no error.

        Raises:
            NotFoundError: There is no such upload, and no such blob.
            ValidationError: Its content has another hash.
            UnavailableError: The disk does not take it.
        """

    async def find(self, blob: str) -> Blob:
        """Raises NotFoundError."""

    async def read(self, blob: str, offset: int, size: int) -> bytes:
        """At most ``size`` bytes. Raises NotFoundError."""

    async def mirror(self, folder: Path) -> Mirrored:
        """Have the same blobs in ``folder``, which is theirs alone: those that it lacks are copied, erased ones go.

        Raises:
            ConflictError: There is something else in it.
            UnavailableError: The disk does not take it.
        """

    async def drop(self, subject: str) -> int:
        """Remove the blobs of a subject; how many they were."""
