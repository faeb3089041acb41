"""SQLite on a :class:`~ksi.testing.disk.Disk`: ``apsw.Connection(path, vfs=vfs.name)``."""

# ruff: noqa: N802  # the names of the methods are SQLite's

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from types import TracebackType
from typing import Any, Self

import apsw

from ksi.testing.disk import Disk

_numbers = count(1)


class DiskVFS(apsw.VFS):
    """The system's VFS, with what a :class:`Disk` remembers and refuses. Works with WAL and any number of connections.

    ::

        with DiskVFS() as vfs:
            connection = apsw.Connection(str(path), vfs=vfs.name)
            vfs.disk.crash()

    Close what was opened through it before the block ends.
    """

    def __init__(self, disk: Disk | None = None) -> None:
        self.disk = disk or Disk()
        self.name = f"ksi-disk-{next(_numbers)}"
        super().__init__(self.name, "")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.unregister()

    def xOpen(self, name: str | apsw.URIFilename | None, flags: list[int]) -> apsw.VFSFile:
        if name is None:  # a temporary file: nobody expects it to survive
            return apsw.VFSFile("", name, flags)
        return _File(self.disk, name, flags)

    def xDelete(self, filename: str, syncdir: bool) -> None:
        with sqlite_errors(), self.disk.change(self.disk.boots):
            super().xDelete(filename, syncdir)
            self.disk.forget(filename)

    def excepthook(
        self, etype: type[BaseException] | None, evalue: BaseException | None, etraceback: TracebackType | None
    ) -> bool:
        return isinstance(evalue, (apsw.IOError, apsw.FullError))  # SQLite has it as its code already


class _File(apsw.VFSFile):
    def __init__(self, disk: Disk, name: str | apsw.URIFilename, flags: list[int]) -> None:
        path = name.filename() if isinstance(name, apsw.URIFilename) else name
        self._disk = disk
        self._boot = disk.boots
        with sqlite_errors():
            disk.check(self._boot)
        self._image = disk.image(path)  # before the base makes the file
        super().__init__("", name, flags)

    def xRead(self, amount: int, offset: int) -> bytes:
        with sqlite_errors():
            self._disk.check(self._boot)
        return super().xRead(amount, offset)

    def xWrite(self, data: Any, offset: int) -> None:
        with sqlite_errors(), self._disk.change(self._boot, grows=True):
            self._image.changes(offset, offset + len(data), super().xRead)
            super().xWrite(data, offset)

    def xTruncate(self, newsize: int) -> None:
        with sqlite_errors(), self._disk.change(self._boot):
            self._image.changes(newsize, super().xFileSize(), super().xRead)
            super().xTruncate(newsize)

    def xSync(self, flags: int) -> None:
        with sqlite_errors():  # the disk's memory is the platter here: no real sync is needed
            self._disk.sync(self._boot, self._image, super().xFileSize())

    def xLock(self, level: int) -> None:
        if self._disk.is_dead(self._boot) and level == apsw.SQLITE_LOCK_EXCLUSIVE:
            # With it a dead connection that closes would delete the WAL of the living; without it closes quietly.
            raise apsw.BusyError("the disk lost its power")
        super().xLock(level)

    def excepthook(
        self, etype: type[BaseException] | None, evalue: BaseException | None, etraceback: TracebackType | None
    ) -> bool:
        return isinstance(evalue, (apsw.IOError, apsw.FullError))


@contextmanager
def sqlite_errors() -> Iterator[None]:
    """What the disk raises, as SQLite knows it."""
    try:
        yield
    except OSError as error:
        raise (apsw.FullError if error.errno == errno.ENOSPC else apsw.IOError)(error.strerror) from error
