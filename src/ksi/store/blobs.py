"""Blobs as files: written beside, synced, renamed, and only then named in the log.

::

    blobs/3f/3f7a…       by the SHA-256 of the content
    blobs/of/<hash>/…    the same for those of one subject, so that they can go together
    blobs/part/<upload>  not yet whole
"""

from __future__ import annotations

import hashlib
import os
import shutil
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TypeVar

from ksi.core.blobs import BLOB_BYTES_MAX, Blob, Mirrored
from ksi.core.errors import NotFoundError, PayloadTooLargeError, UnavailableError, ValidationError
from ksi.core.threads import Threads
from ksi.store.backup import sha256_of, sync_file
from ksi.store.mirror import mirrored

T = TypeVar("T")
PART_AGE_MAX = 86_400.0
"""Seconds after which an upload that nobody ended is old."""


class BlobStore:
    """Implements :class:`ksi.core.blobs.Blobs` in ``directory``, which is made when it is needed."""

    def __init__(self, directory: Path, threads: Threads) -> None:
        self._directory = directory
        self._threads = threads

    def remove_old_parts(self) -> None:
        """Uploads that nobody ended."""
        for part in self._directory.glob("part/*"):
            if time.time() - part.stat().st_mtime > PART_AGE_MAX:
                part.unlink()

    async def write(self, upload: str, offset: int, data: bytes) -> int:
        return await self._run(partial(self._write, upload, offset, data))

    async def put(self, upload: str, blob: str, *, subject: str | None) -> Blob:
        return await self._run(partial(self._put, upload, blob, subject))

    async def find(self, blob: str) -> Blob:
        return Blob(blob, self._path(blob).stat().st_size)

    async def read(self, blob: str, offset: int, size: int) -> bytes:
        return await self._run(partial(self._read, blob, offset, size))

    async def drop(self, subject: str) -> int:
        return await self._run(partial(self._drop, subject))

    async def mirror(self, folder: Path) -> Mirrored:
        return await self._run(partial(self._mirror, folder))

    async def _run(self, job: Callable[[], T]) -> T:
        try:
            return await self._threads.run("blocking", job)
        except OSError as error:
            raise UnavailableError("the folder of blobs", error.strerror or repr(error)) from error

    # ── in a thread ──────────────────────────────────────────────────────────────────────────────────────────────────
    def _write(self, upload: str, offset: int, data: bytes) -> int:
        if offset + len(data) > BLOB_BYTES_MAX:
            raise PayloadTooLargeError("blob", size=offset + len(data), limit=BLOB_BYTES_MAX)
        part = self._part(upload)
        part.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(part, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            size = os.fstat(descriptor).st_size
            if size < offset:
                raise ValidationError(f"the upload has {size} bytes, not {offset}: go on there")
            os.pwrite(descriptor, data, offset)
            return max(size, offset + len(data))
        finally:
            os.close(descriptor)

    def _put(self, upload: str, blob: str, subject: str | None) -> Blob:
        part, target = self._part(upload), self._folder(blob, subject) / blob
        if not part.exists():
            if not target.exists():
                raise NotFoundError("upload", upload)
            return Blob(blob, target.stat().st_size)  # it was put before, perhaps by this very request
        found = sha256_of(part)
        if found != blob:
            raise ValidationError(f"what was uploaded has the hash {found}, not {blob}")
        target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        sync_file(part)
        part.rename(target)
        for directory in (target.parent, *target.parent.parents):
            sync_file(directory)
            if directory == self._directory.parent:
                break
        return Blob(blob, target.stat().st_size)

    def _read(self, blob: str, offset: int, size: int) -> bytes:
        with self._path(blob).open("rb") as file:
            file.seek(offset)
            return file.read(size)

    def _drop(self, subject: str) -> int:
        folder = self._subjects(subject)
        dropped = sum(file.is_file() for file in folder.rglob("*"))
        if folder.exists():
            shutil.rmtree(folder)
            sync_file(folder.parent)
        return dropped

    def _mirror(self, folder: Path) -> Mirrored:
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        return mirrored(self._directory, folder)

    # ── where ────────────────────────────────────────────────────────────────────────────────────────────────────────
    def _part(self, upload: str) -> Path:
        return self._directory / "part" / upload

    def _folder(self, blob: str, subject: str | None) -> Path:
        return (self._directory if subject is None else self._subjects(subject)) / blob[:2]

    def _subjects(self, subject: str) -> Path:
        return self._directory / "of" / hashlib.sha256(subject.encode()).hexdigest()

    def _path(self, blob: str) -> Path:
        shared = self._folder(blob, None) / blob
        found = shared if shared.exists() else next(self._directory.glob(f"of/*/{blob[:2]}/{blob}"), None)
        if found is None:
            raise NotFoundError("blob", blob)
        return found
