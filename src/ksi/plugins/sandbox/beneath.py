"""A directory that no path leads out of.

Each component is opened by itself, in the directory that was opened before it, and never followed where it is a link.
So it does not matter what somebody renames, or puts in the place of what, between a look and an act: whatever is opened
stood below the root by real directories. Links are refused also where they lead to the inside, files also where they
have a second name, for that may be outside.
"""

from __future__ import annotations

import errno
import os
import secrets
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Literal, NamedTuple

from ksi.core.errors import ConflictError, NotFoundError, UnavailableError, ValidationError

DEPTH_MAX = 32
NAME_BYTES_MAX = 255
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
# Without waiting: the open of a named pipe would wait for its other end.
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_IS_LINK = frozenset({errno.ELOOP, errno.ENOTDIR})
"""What the system says of a link that is not followed: the second where a directory was asked for."""
Kind = Literal["file", "directory", "link", "other"]


class Item(NamedTuple):
    """What stands in a directory. ``size`` is in bytes, of a file."""

    name: str
    kind: Kind
    size: int


def components(path: str) -> list[str]:
    """The parts of a path below the root; ``.`` is the root itself.

    Raises:
        ValidationError: It is absolute, has ``..``, or is no path.
    """
    if path == ".":
        return []
    parts = path.removesuffix("/").split("/")
    for part in parts:
        if part in {"", ".", ".."} or "\0" in part or len(os.fsencode(part)) > NAME_BYTES_MAX:
            raise ValidationError(f"{path!r} is no path below the sandbox: relative, without . and .., please")
    if len(parts) > DEPTH_MAX:
        raise ValidationError(f"{path!r} is deeper than {DEPTH_MAX} directories")
    return parts


class Beneath:
    """The files below one directory. Blocking: for a thread. Paths are relative, as in ``notes/today.md``."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def make(self) -> None:
        """Be there."""
        self._root.mkdir(mode=0o700, parents=True, exist_ok=True)

    def read(self, path: str, offset: int, size: int) -> tuple[bytes, int]:
        """At most ``size`` bytes from ``offset`` on, and how many the file has.

        Raises:
            ValidationError: The path leads out, over a link, or to what is no file of the sandbox's alone.
            NotFoundError: There is no such file.
        """
        with self._parent(path) as (directory, name):
            descriptor = _opened(path, name, _FILE, directory)
        try:
            found = os.fstat(descriptor)
            _refuse_foreign(path, found)
            return os.pread(descriptor, size, offset), found.st_size
        finally:
            os.close(descriptor)

    def write(self, path: str, content: bytes) -> None:
        """Have ``content`` stand there, all of it or nothing; directories on the way are made.

        What stood there under that name is replaced, a link too: what it points to is not touched.

        Raises:
            ValidationError: The path leads out, or over a link.
            ConflictError: It is a directory.
            UnavailableError: The disk does not take it.
        """
        self.make()
        with self._parent(path, make=True) as (directory, name):
            fresh = f".ksi-{secrets.token_hex(8)}.new"
            try:
                _put(fresh, content, directory)
                os.replace(fresh, name, src_dir_fd=directory, dst_dir_fd=directory)
            except (IsADirectoryError, NotADirectoryError):
                raise ConflictError(f"{path} is a directory", path=path) from None
            except OSError as error:
                raise UnavailableError(path, reason=_reason(error)) from None
            finally:
                with suppress(FileNotFoundError):
                    os.unlink(fresh, dir_fd=directory)

    def delete(self, path: str) -> bool:
        """Remove a file, a link, or a directory with all that is in it; whether there was one.

        Raises:
            ValidationError: The path leads out, or over a link.
        """
        try:
            with self._parent(path) as (directory, name):
                _remove(name, directory)
        except (FileNotFoundError, NotFoundError):
            return False
        return True

    def items(self, path: str) -> list[Item]:
        """What stands in a directory, by name.

        Raises:
            ValidationError: The path leads out, over a link, or to a file.
            NotFoundError: There is no such directory.
        """
        with self._directory(path, components(path)) as directory, os.scandir(directory) as entries:
            return sorted(_item(entry) for entry in entries)

    @contextmanager
    def _parent(self, path: str, *, make: bool = False) -> Iterator[tuple[int, str]]:
        """The directory that ``path`` stands in, open, and its name there."""
        *above, name = components(path) or [""]
        if not name:
            raise ValidationError("that is the sandbox itself: name what is in it")
        with self._directory(path, above, make=make) as directory:
            yield directory, name

    @contextmanager
    def _directory(self, path: str, parts: list[str], *, make: bool = False) -> Iterator[int]:
        directory = _opened(path, os.fspath(self._root), _DIRECTORY, None)
        try:
            for part in parts:
                if make:
                    _make(part, directory)
                below = _opened(path, part, _DIRECTORY, directory)
                os.close(directory)
                directory = below
            yield directory
        finally:
            os.close(directory)


def _opened(path: str, name: str, flags: int, directory: int | None) -> int:
    try:
        return os.open(name, flags, dir_fd=directory)
    except FileNotFoundError:
        raise NotFoundError("file of the sandbox", path) from None
    except OSError as error:
        if error.errno in _IS_LINK:
            raise ValidationError(f"{path!r} goes over a link, or through what is no directory") from None
        raise UnavailableError(path, reason=_reason(error)) from None


def _reason(error: OSError) -> str:
    return error.strerror or str(error)


def _refuse_foreign(path: str, found: os.stat_result) -> None:
    if stat.S_ISDIR(found.st_mode):
        raise ValidationError(f"{path!r} is a directory")
    if not stat.S_ISREG(found.st_mode):
        raise ValidationError(f"{path!r} is no file: a pipe, a socket or a device")
    if found.st_nlink > 1:
        raise ValidationError(f"{path!r} is a hard link: the file has another name, which may be outside")


def _make(name: str, directory: int) -> None:
    try:
        os.mkdir(name, 0o700, dir_fd=directory)
    except FileExistsError:
        return
    except OSError as error:
        raise UnavailableError(name, reason=_reason(error)) from None


def _put(name: str, content: bytes, directory: int) -> None:
    descriptor = os.open(name, _NEW, 0o600, dir_fd=directory)
    try:
        left = memoryview(content)
        while left:
            left = left[os.write(descriptor, left) :]
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _remove(name: str, directory: int) -> None:
    try:
        os.unlink(name, dir_fd=directory)
    except (IsADirectoryError, PermissionError):  # what the system says of a directory
        shutil.rmtree(name, dir_fd=directory)


def _item(entry: os.DirEntry[str]) -> Item:
    found = entry.stat(follow_symlinks=False)
    kind: Kind = "other"
    if stat.S_ISREG(found.st_mode):
        kind = "file"
    elif stat.S_ISDIR(found.st_mode):
        kind = "directory"
    elif stat.S_ISLNK(found.st_mode):
        kind = "link"
    return Item(entry.name, kind, found.st_size if kind == "file" else 0)
