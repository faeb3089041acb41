"""A disk that loses power, fills up or fails on command: what was written and not synced is forgotten.

The files are real and live where their paths say; the disk remembers, sector by sector, what each held when it was
last synced, and :meth:`Disk.crash` puts that back. :class:`~ksi.testing.vfs.DiskVFS` puts SQLite on it,
:meth:`Disk.open` any other file. The model: a sector is written whole or not at all, sectors of different writes reach
the platter in any order, a sync holds for its own file (a new file's name included), a deletion holds at once.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random
from threading import RLock

SECTOR = 512
Read = Callable[[int, int], bytes]
"""``read(size, offset)``: shorter at the end of the file."""


class PowerLostError(OSError):
    """The disk went away under an open file. Crash the disk, then open the file anew."""

    def __init__(self) -> None:
        super().__init__(errno.EIO, "the disk lost its power")


class Image:
    """One file: what of it differs from its last sync. ``named``: whether its name would survive."""

    def __init__(self, size: int, *, named: bool) -> None:
        self.named = named
        self.size = size
        self._synced: dict[int, bytes] = {}  # sectors changed since the last sync, as they were at it

    def changes(self, start: int, end: int, read: Read) -> None:
        """Bytes from ``start`` to ``end`` are about to be changed or cut off: keep the sectors they are in."""
        for sector in range(start // SECTOR, -(-end // SECTOR)):
            if sector not in self._synced:
                at = sector * SECTOR
                self._synced[sector] = read(min(SECTOR, self.size - at), at) if at < self.size else b""

    def synced(self, size: int) -> None:
        self.named = True
        self.size = size
        self._synced.clear()

    def survivors(self, now: bytes, keeps: Callable[[], bool]) -> bytes:
        """The file after power loss, when it holds ``now``; ``keeps`` decides for each changed sector."""
        after = bytearray(now[: self.size].ljust(self.size, b"\0"))
        for sector, before in self._synced.items():
            at = sector * SECTOR
            kept = now[at : at + SECTOR] if keeps() else b""
            content = kept + before[len(kept) :]  # a truncation that was not synced never holds
            if content:
                after.extend(bytes(max(0, at - len(after))))
                after[at : at + len(content)] = content
        return bytes(after)


class Disk:
    """See the module. Used from any thread."""

    def __init__(self) -> None:
        self._lock = RLock()
        self._images: dict[str, Image] = {}
        self._powered = True
        self._boots = 0
        self._full = False
        self._syncs_fail = False
        self._left: int | None = None
        self.changes = 0
        """Writes, truncations, syncs and deletions so far; a range for :meth:`fail_after`."""

    def fail_after(self, changes: int) -> None:
        """Lose the power at the ``changes``-th write, truncation, sync or deletion from now (1: at the next one)."""
        self._left = changes

    def full(self, is_full: bool = True) -> None:
        """Refuse writes for want of space (ENOSPC), or have space again."""
        self._full = is_full

    def fail_syncs(self, fails: bool = True) -> None:
        """Fail each sync (EIO), or sync again. What was to be synced is written, and not safe."""
        self._syncs_fail = fails

    def crash(self, seed: int | None = None) -> None:
        """Lose the power now, and come back with what was synced.

        Of what was not synced nothing is left, or with ``seed`` the sectors and new files that it chooses. Handles
        from before the crash are dead: they answer every call with an error, and close.
        """
        random = Random(seed)
        keeps = (lambda: False) if seed is None else (lambda: random.random() < 0.5)
        with self._lock:
            for path, image in self._images.items():
                self._rewind(Path(path), image, keeps)
            self._images.clear()
            self._powered, self._left = True, None
            self._boots += 1

    def open(self, path: Path) -> DiskFile:
        """A file on this disk for who writes past SQLite; made where it is missing."""
        return DiskFile(self, path)

    def image(self, path: str) -> Image:
        """The file ``path``, which is about to be opened."""
        with self._lock:
            if path not in self._images:
                there = Path(path)
                self._images[path] = Image(there.stat().st_size if there.exists() else 0, named=there.exists())
            return self._images[path]

    def forget(self, path: str) -> None:
        """The file ``path`` is deleted."""
        with self._lock:
            self._images.pop(path, None)

    @property
    def boots(self) -> int:
        """How often it came back; a handle of an earlier count is dead."""
        return self._boots

    def is_dead(self, boot: int) -> bool:
        """Whether a handle that was opened at ``boot`` can do nothing any more."""
        return boot != self._boots or not self._powered

    def check(self, boot: int) -> None:
        """Raise PowerLostError where a handle of ``boot`` is dead."""
        if self.is_dead(boot):
            raise PowerLostError

    @contextmanager
    def change(self, boot: int, *, grows: bool = False) -> Iterator[None]:
        """One change by a handle of ``boot``; where the power goes at it, it is done and nobody learns of it."""
        with self._lock:
            self.check(boot)
            if grows and self._full:
                raise OSError(errno.ENOSPC, "the disk is full")
            self.changes += 1
            if self._left is not None:
                self._left -= 1
                self._powered = self._left > 0
            yield
            self.check(boot)

    def sync(self, boot: int, image: Image, size: int) -> None:
        """Make ``image``, a file of ``size`` bytes, safe for a handle of ``boot``."""
        with self.change(boot):
            if self._syncs_fail:
                raise OSError(errno.EIO, "the sync failed")
            if self.is_powered:
                image.synced(size)

    @property
    def is_powered(self) -> bool:
        return self._powered

    def _rewind(self, path: Path, image: Image, keeps: Callable[[], bool]) -> None:
        now = path.read_bytes() if path.exists() else b""
        # Anew under the same name: dead handles keep the old inode, with its locks and its shared memory.
        path.unlink(missing_ok=True)
        path.with_name(path.name + "-shm").unlink(missing_ok=True)
        if image.named or keeps():
            path.write_bytes(image.survivors(now, keeps))


class DiskFile:
    """A file on a :class:`Disk`, by position."""

    def __init__(self, disk: Disk, path: Path) -> None:
        self._disk = disk
        self._boot = disk.boots
        self._image = disk.image(str(path.resolve()))
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)

    def pread(self, size: int, offset: int) -> bytes:
        self._disk.check(self._boot)
        return os.pread(self._descriptor, size, offset)

    def pwrite(self, data: bytes, offset: int) -> int:
        with self._disk.change(self._boot, grows=True):
            self._image.changes(offset, offset + len(data), lambda size, at: os.pread(self._descriptor, size, at))
            return os.pwrite(self._descriptor, data, offset)

    def fsync(self) -> None:
        self._disk.sync(self._boot, self._image, os.fstat(self._descriptor).st_size)

    def close(self) -> None:
        os.close(self._descriptor)
