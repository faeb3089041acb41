"""A folder of blobs, made the same as another one: what is missing is copied, and what was erased goes."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

from ksi.core.blobs import Mirrored
from ksi.core.errors import ConflictError, NotFoundError
from ksi.store.backup import sha256_of, sync_file

_PLACE = re.compile(r"(of/[0-9a-f]{64}/)?[0-9a-f]{2}/[0-9a-f]{64}")
PART = ".part"
"""Behind the name of a blob that is being copied."""


def mirrored(source: Path, target: Path) -> Mirrored:
    """Have the blobs of ``source`` in ``target``, each of which is read again. Blobs never change, so others stay.

    Raises:
        ConflictError: There is something else in ``target``.
        NotFoundError: There is no ``source``.
    """
    if not source.is_dir():
        raise NotFoundError("folder of blobs", str(source))
    _refuse_others(target)
    wanted, held = set(_blobs(source)), set(_blobs(target))
    damaged = [place for place in sorted(wanted - held) if not _copied(source / place, target / place)]
    gone = [place for place in held - wanted if place.startswith("of/")]
    for place in gone:
        (target / place).unlink()
    for folder in {(target / place).parent for place in (*wanted - held, *gone)}:
        sync_file(folder)
    copied = len(wanted - held) - len(damaged)
    return Mirrored(str(target), len(wanted) - len(damaged), copied, len(gone), damaged)


def _blobs(folder: Path) -> Iterator[str]:
    """Where they lie in it."""
    places = (file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file())
    return (place for place in places if _PLACE.fullmatch(place))


def _refuse_others(target: Path) -> None:
    for file in target.rglob("*"):
        place = file.relative_to(target).as_posix()
        if file.is_file() and not _PLACE.fullmatch(place.removesuffix(PART)):
            raise ConflictError(f"{file} is no blob: give the blobs a folder of their own", path=str(file))


def _copied(file: Path, target: Path) -> bool:
    """Whether the copy is what its name says; else there is none."""
    target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    part = target.with_name(target.name + PART)
    try:
        shutil.copyfile(file, part)
    except FileNotFoundError:  # erased meanwhile
        return True
    part.chmod(0o600)
    if sha256_of(part) != target.name:
        part.unlink()
        return False
    sync_file(part)
    part.rename(target)
    return True
