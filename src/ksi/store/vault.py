"""Payloads that can be erased: what has a subject is sealed with the subject's key, before it is digested.

The log and its chain hold ciphertext. Keys lie in a file of their own; who destroys a key has erased what was sealed
with it, in the log and in every copy of it, and the chain stays whole. Envelopes (names, streams, times, tags) are not
sealed.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from threading import Lock
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeVar

from msgspec.structs import replace

from ksi.core.envelope import EventEnvelope
from ksi.core.events import ERASED, FAILED, RecordedEvent
from ksi.store.row import REQUESTS, SEALED, Closing, Row, outcome_json

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

E = TypeVar("E", bound=RecordedEvent)
KEY_ID, NONCE = 16, 12
KEYS_MAX = 4_096
"""Keys in memory."""
GONE = b"null"
"""The payload of what was erased."""


class Key(NamedTuple):
    """A key of ``subject``; after an erasure it gets another one."""

    id: bytes
    subject: str
    secret: bytes


class KeyTable(Protocol):
    """Where keys are kept. Used by one thread at a time."""

    def current(self, subject: str) -> Key | None: ...
    def find(self, key_id: bytes) -> Key | None:
        """None: there is none, or it was destroyed."""

    def add(self, keys: Sequence[Key]) -> None:
        """They are safe when this returns."""

    def destroy(self, subject: str) -> None:
        """Forget its keys, so that nobody finds them any more."""

    def destroyed(self) -> bool:
        """Whether a key was ever destroyed."""

    def is_empty(self) -> bool:
        """Whether there never was one."""

    def knows(self, key_id: bytes) -> bool:
        """Whether there is, or was, such a key."""

    def close(self) -> None: ...


class Vault:
    """Seals and opens payloads. From any thread.

    ``table`` None: nothing is sealed here, and nothing can be erased; what others sealed is read as if it were erased.
    """

    def __init__(self, table: KeyTable | None) -> None:
        self._table = table
        self._lock = Lock()
        self._ciphers: dict[bytes, AESGCM] = {}
        self._current: dict[str, Key] = {}
        self._new: list[Key] = []
        self.has_erased = table is not None and table.destroyed()
        self.has_subjects = table is not None and not table.is_empty()

    @property
    def can_erase(self) -> bool:
        return self._table is not None

    # ── keys ─────────────────────────────────────────────────────────────────────────────────────────────────────────
    def write_keys(self) -> None:
        """Make that the new keys are on disk; what was sealed with them may follow."""
        if self._new:
            with self._lock:
                self._write_keys()

    def _write_keys(self) -> None:
        assert self._table is not None
        self._table.add(self._new)
        self._new = []

    def destroy(self, subject: str) -> None:
        """Erase what was sealed for ``subject`` by now. The destruction is on disk when this returns."""
        assert self._table is not None
        with self._lock:
            self._write_keys()
            self._table.destroy(subject)
            self._ciphers.clear()
            self._current.pop(subject, None)
            self.has_erased = True

    def knows(self, key_id: bytes) -> bool:
        with self._lock:
            return self._table is not None and self._table.knows(key_id)

    def close(self) -> None:
        if self._table is not None:
            self._table.close()

    def _key_of(self, subject: str) -> Key:
        assert self._table is not None
        key = self._current.get(subject)
        if key is None:
            key = self._table.current(subject)
        if key is None:
            key = Key(os.urandom(KEY_ID), subject, os.urandom(32))
            self._new = [*self._new, key]
            self.has_subjects = True
        if len(self._current) >= KEYS_MAX and not self._new:
            self._current.clear()
        self._current[subject] = key
        return key

    def _cipher(self, key: Key) -> AESGCM:
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM  # 0.1 s: only where something is sealed

        if len(self._ciphers) >= KEYS_MAX:
            self._ciphers.clear()
        return self._ciphers.setdefault(key.id, AESGCM(key.secret))

    # ── sealing ──────────────────────────────────────────────────────────────────────────────────────────────────────
    def sealed(self, row: Row) -> Row:
        """``row`` as it is stored."""
        if self._table is None or not _has_subject(row):
            return row
        return replace(
            row,
            origin=self._sealed_request(row.origin),
            ancestors=tuple(map(self._sealed_request, row.ancestors)),
            lines=tuple([self._sealed_event(line) for line in row.lines]),
            emits=tuple(map(self._sealed_request, row.emits)),
            closing=self._sealed_closing(row.closing, row.origin.subject),
        )

    def _sealed_request(self, request: EventEnvelope) -> EventEnvelope:
        if request.subject is None or not request.raw:
            return request
        return replace(request, raw=self._seal(request.raw, request.subject), typed=None)

    def _sealed_event(self, event: E) -> E:
        return event if event.subject is None else replace(event, raw=self._seal(event.raw, event.subject))

    def _sealed_closing(self, closing: Closing | None, subject: str | None) -> Closing | None:
        if closing is None or subject is None:
            return closing
        return replace(
            closing, raw=self._seal(closing.raw, subject), metadata=self._sealed_texts(closing.metadata, subject)
        )

    def _sealed_texts(self, metadata: Mapping[str, Any] | None, subject: str) -> dict[str, Any] | None:
        """What a request has read is in the metadata of its outcome, word by word."""
        if metadata is None:
            return None
        return {
            name: self._seal(value.encode(), subject) if isinstance(value, str) else value
            for name, value in metadata.items()
        }

    def _seal(self, raw: bytes, subject: str) -> bytes:
        with self._lock:
            key = self._key_of(subject)
            cipher = self._cipher(key)
        nonce = os.urandom(NONCE)
        return SEALED + key.id + nonce + cipher.encrypt(nonce, raw, key.id)

    # ── opening ──────────────────────────────────────────────────────────────────────────────────────────────────────
    def opened(self, events: list[RecordedEvent]) -> list[RecordedEvent]:
        """``events`` as readers get them; of what was erased the envelope is left, with ``erased`` in its metadata."""
        return [event if event.subject is None else self._opened_event(event) for event in events]

    def _opened_event(self, event: RecordedEvent) -> RecordedEvent:
        if not event.raw.startswith(SEALED):
            return event
        raw, metadata = self._open(event.raw), event.metadata
        is_outcome = event.kind == "outcome" and event.stream == REQUESTS
        if is_outcome:
            metadata = self._opened_texts(metadata) or {}
        if raw is None:
            return replace(event, raw=GONE, metadata={**metadata, ERASED: True})
        return replace(
            event, raw=outcome_json(raw, ok=FAILED not in event.tags) if is_outcome else raw, metadata=metadata
        )

    def _opened_texts(self, metadata: Mapping[str, Any] | None) -> dict[str, Any] | None:
        """Without those that were erased."""
        if metadata is None:
            return None
        opened = {name: self._opened_text(value) for name, value in metadata.items()}
        return {name: value for name, value in opened.items() if value is not None}

    def _opened_text(self, value: Any) -> Any:
        if not isinstance(value, bytes):
            return value
        opened = self._open(value)
        return None if opened is None else opened.decode()

    def opened_row(self, row: Row) -> Row:
        """The same for all of a row; of what was erased the payload is null."""
        if not _has_subject(row):
            return row
        return replace(
            row,
            origin=self._opened_request(row.origin),
            ancestors=tuple(map(self._opened_request, row.ancestors)),
            lines=tuple([self._opened_event(line) for line in row.lines]),
            emits=tuple(map(self._opened_request, row.emits)),
            closing=None if row.closing is None else self._opened_closing(row.closing),
        )

    def _opened_request(self, request: EventEnvelope) -> EventEnvelope:
        return request if request.subject is None else replace(request, raw=self._opened_raw(request.raw))

    def _opened_closing(self, closing: Closing) -> Closing:
        return replace(closing, raw=self._opened_raw(closing.raw), metadata=self._opened_texts(closing.metadata))

    def _opened_raw(self, raw: bytes) -> bytes:
        if not raw.startswith(SEALED):
            return raw
        opened = self._open(raw)
        return GONE if opened is None else opened

    def _open(self, sealed: bytes) -> bytes | None:
        key_id = key_of(sealed)
        with self._lock:
            cipher = self._ciphers.get(key_id) or self._found(key_id)
        start = len(SEALED) + KEY_ID
        nonce = sealed[start : start + NONCE]
        return None if cipher is None else cipher.decrypt(nonce, sealed[start + NONCE :], key_id)

    def _found(self, key_id: bytes) -> AESGCM | None:
        key = next((key for key in self._new if key.id == key_id), None)
        if key is None and self._table is not None:
            key = self._table.find(key_id)
        if key is None:
            self.has_erased = True  # also where the keys are elsewhere
        return None if key is None else self._cipher(key)


def _has_subject(row: Row) -> bool:
    if row.origin.subject is not None:
        return True
    for line in row.lines:
        if line.subject is not None:
            return True
    if not (row.ancestors or row.emits):
        return False
    return any(request.subject is not None for request in (*row.ancestors, *row.emits))


def sealed_in(row: Row) -> Iterator[bytes]:
    """The sealed payloads of a stored row."""
    closing = () if row.closing is None else (row.closing.raw,)
    requests = (row.origin, *row.ancestors, *row.emits)
    for raw in (*(request.raw for request in requests), *(line.raw for line in row.lines), *closing):
        if raw.startswith(SEALED):
            yield raw


def key_of(sealed: bytes) -> bytes:
    """The id of the key that a payload is sealed with."""
    return sealed[len(SEALED) : len(SEALED) + KEY_ID]


class MemoryKeys:
    """Keys of a log that is forgotten with its process."""

    def __init__(self) -> None:
        self._keys: dict[bytes, Key | None] = {}

    def current(self, subject: str) -> Key | None:
        return next((key for key in self._keys.values() if key is not None and key.subject == subject), None)

    def find(self, key_id: bytes) -> Key | None:
        return self._keys.get(key_id)

    def add(self, keys: Sequence[Key]) -> None:
        self._keys.update({key.id: key for key in keys})

    def destroy(self, subject: str) -> None:
        self._keys = {raw: None if key is None or key.subject == subject else key for raw, key in self._keys.items()}

    def is_empty(self) -> bool:
        return not self._keys

    def destroyed(self) -> bool:
        return None in self._keys.values()

    def knows(self, key_id: bytes) -> bool:
        return key_id in self._keys

    def close(self) -> None:
        self._keys.clear()
