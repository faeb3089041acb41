"""The log proves itself: a digest for each row, a hash link for each commit, and a witness of the head outside of it.

A cut or overwritten WAL opens without complaint, only shorter. The witness, written after the commit and before its
acknowledgement, knows what was acknowledged.
"""

from __future__ import annotations

import hashlib
import os
import struct
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

DIGEST = 16
"""Bytes of a row's digest, at the end of its body."""
NO_HASH = bytes(32)


class Link(NamedTuple):
    """A commit: its moment, the position of its last event, and the hash over all up to it."""

    at: int
    last: int
    hash: bytes


GENESIS = Link(0, 0, NO_HASH)


def sealed(body: bytes) -> bytes:
    """``body`` with its digest behind it."""
    return body + hashlib.blake2b(body, digest_size=DIGEST).digest()


def opened(stored: bytes) -> bytes | None:
    """The body that was sealed; None where it is not what was written."""
    body = stored[:-DIGEST]
    return body if sealed(body) == stored else None


def next_link(previous: Link, at: int, last: int, bodies: Iterable[bytes]) -> Link:
    """The link of a commit with these sealed ``bodies``."""
    digest = hashlib.sha256(previous.hash + _NUMBERS.pack(at, last))
    digest.update(b"".join([body[-DIGEST:] for body in bodies]))
    return Link(at, last, digest.digest())


_NUMBERS = struct.Struct(">QQ")
_SLOT = struct.Struct(">QQ32s16s")


def witness_of(log: Path) -> Path:
    """The file of the witness of the log at ``log``."""
    return log.with_name(log.name + "-head")


class Witness:
    """The head, in two checksummed slots written in turn: a torn write leaves the other one."""

    def __init__(self, path: Path) -> None:
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        self._turn = 0
        if os.fstat(self._descriptor).st_size < 2 * _SLOT.size:
            # All of it now: later writes need no room, also on a full disk.
            os.pwrite(self._descriptor, bytes(2 * _SLOT.size), 0)
            os.fsync(self._descriptor)

    def read(self) -> Link:
        """The newest whole slot; :data:`GENESIS` where there is none."""
        slots = _slots(os.pread(self._descriptor, 2 * _SLOT.size, 0))
        newest = max(slots)
        self._turn = 1 - slots.index(newest)
        return newest

    def write(self, link: Link) -> None:
        numbers = _NUMBERS.pack(link.at, link.last) + link.hash
        slot = numbers + hashlib.blake2b(numbers, digest_size=16).digest()
        os.pwrite(self._descriptor, slot, self._turn * _SLOT.size)
        self._turn = 1 - self._turn

    def sync(self) -> None:
        os.fsync(self._descriptor)

    def close(self) -> None:
        os.close(self._descriptor)


def seen_in(path: Path) -> Link:
    """What the witness in ``path`` has seen; the file is not touched, and not made where there is none."""
    return max(_slots(path.read_bytes())) if path.exists() else GENESIS


def _slots(raw: bytes) -> list[Link]:
    return [_read_slot(raw[turn * _SLOT.size : (turn + 1) * _SLOT.size]) for turn in (0, 1)]


def _read_slot(raw: bytes) -> Link:
    if len(raw) < _SLOT.size:
        return GENESIS
    at, last, link_hash, checksum = _SLOT.unpack(raw)
    if hashlib.blake2b(raw[:-16], digest_size=16).digest() != checksum:
        return GENESIS
    return Link(at, last, link_hash)
