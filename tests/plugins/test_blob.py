"""Large payloads are on disk before the event that names them, whole or not at all."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import os
from collections.abc import AsyncIterator
from pathlib import Path
from uuid import uuid4

import pytest

from ksi.core.blobs import PIECE_BYTES_MAX, Blobs
from ksi.core.errors import ConflictError, NotFoundError, PayloadTooLargeError, UnavailableError, ValidationError
from ksi.core.threads import InlineThreads
from ksi.plugins.blob import BlobPlugin
from ksi.plugins.care import Care
from ksi.store import blobs
from ksi.store.blobs import BlobStore
from tests.plugins.running import Daemon, running

CONTENT = os.urandom(3 * PIECE_BYTES_MAX + 1000)
HASH = hashlib.sha256(CONTENT).hexdigest()


def opened(directory: Path) -> BlobStore:
    return BlobStore(directory / "blobs", InlineThreads())


@pytest.fixture
async def daemon(tmp_path: Path) -> AsyncIterator[Daemon]:
    async with running(BlobPlugin, Care, services={Blobs: opened(tmp_path)}) as started:
        yield started


def encoded(data: bytes) -> str:
    return base64.b64encode(data).decode()


async def written(daemon: Daemon, content: bytes = CONTENT) -> str:
    upload = str(uuid4())
    for offset in range(0, len(content), PIECE_BYTES_MAX):
        piece = encoded(content[offset : offset + PIECE_BYTES_MAX])
        await daemon.ask("blob:write", upload=upload, offset=offset, data=piece)
    return upload


def files_of(directory: Path) -> list[str]:
    return sorted(str(file.relative_to(directory)) for file in directory.rglob("*") if file.is_file())


async def test_what_was_put_in_pieces_comes_back_in_pieces(daemon: Daemon, tmp_path: Path) -> None:
    put = await daemon.ask("blob:put", upload=await written(daemon), blob=HASH, media_type="image/png")
    assert put == {"blob": HASH, "bytes": len(CONTENT)}
    reader = daemon.follow("blob:get", blob=HASH)
    assert await reader.ended == put
    pieces = [data for _, data in await reader.take(4)]
    assert [piece["offset"] for piece in pieces] == [number * PIECE_BYTES_MAX for number in range(4)]
    assert b"".join(base64.b64decode(piece["data"]) for piece in pieces) == CONTENT
    assert files_of(tmp_path / "blobs") == [f"{HASH[:2]}/{HASH}"]
    (fact,) = [event async for event in daemon.log.read_stream(f"blob/{HASH}")]
    assert fact.data == {**put, "media_type": "image/png"}


async def test_a_reader_goes_on_where_it_was(daemon: Daemon) -> None:
    await daemon.ask("blob:put", upload=await written(daemon), blob=HASH)
    reader = daemon.follow("blob:get", blob=HASH, offset=len(CONTENT) - 10)
    await reader.ended
    ((_, piece),) = await reader.take(1)
    assert base64.b64decode(piece["data"]) == CONTENT[-10:]


async def test_pieces_are_not_in_the_log(daemon: Daemon) -> None:
    await written(daemon)
    assert await daemon.log.head() is None


async def test_what_is_not_what_it_is_called_is_not_put(daemon: Daemon, tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match=HASH):
        await daemon.ask("blob:put", upload=await written(daemon, CONTENT[:-1]), blob=HASH)
    with pytest.raises(NotFoundError):
        await daemon.ask("blob:put", upload=str(uuid4()), blob=HASH)
    assert [name for name in files_of(tmp_path / "blobs") if "part" not in name] == []
    assert [event async for event in daemon.log.read_stream(f"blob/{HASH}")] == []
    reader = daemon.follow("blob:get", blob=HASH)
    with pytest.raises(NotFoundError):
        await reader.ended


async def test_a_piece_again_changes_nothing_and_none_may_be_missing(daemon: Daemon) -> None:
    upload = str(uuid4())
    for _ in range(2):
        assert await daemon.ask("blob:write", upload=upload, data=encoded(b"abc")) == {"bytes": 3}
    with pytest.raises(ValidationError, match="3 bytes"):
        await daemon.ask("blob:write", upload=upload, offset=4, data=encoded(b"e"))


async def test_to_put_it_again_is_no_error(daemon: Daemon) -> None:
    upload = await written(daemon)
    first = await daemon.ask("blob:put", upload=upload, blob=HASH)
    assert await daemon.ask("blob:put", upload=upload, blob=HASH) == first
    assert await daemon.ask("blob:put", upload=await written(daemon), blob=HASH) == first


@pytest.mark.parametrize("upload", ["../../../etc/passwd", "", "x"])
async def test_an_upload_is_a_uuid_and_nothing_else(daemon: Daemon, upload: str, tmp_path: Path) -> None:
    with pytest.raises(ValidationError):
        await daemon.ask("blob:write", upload=upload, data=encoded(b"abc"))
    with pytest.raises(ValidationError):
        await daemon.ask("blob:put", upload=str(uuid4()), blob=f"../{HASH[3:]}")
    assert files_of(tmp_path) == []


async def test_what_is_too_large_is_refused(daemon: Daemon, monkeypatch: pytest.MonkeyPatch) -> None:
    upload = str(uuid4())
    with pytest.raises(ValidationError):
        await daemon.ask("blob:write", upload=upload, data=encoded(bytes(PIECE_BYTES_MAX + 1)))
    monkeypatch.setattr(blobs, "BLOB_BYTES_MAX", 100)
    with pytest.raises(PayloadTooLargeError):
        await daemon.ask("blob:write", upload=upload, data=encoded(bytes(101)))


async def test_those_of_a_subject_go_with_it_and_others_stay(daemon: Daemon, tmp_path: Path) -> None:
    store: Blobs = daemon.kernel.services.get(Blobs)
    mine, shared = b"mine", b"shared"
    for content, subject in ((mine, "person/1"), (shared, "person/1"), (shared, None)):
        await store.put(await written(daemon, content), hashlib.sha256(content).hexdigest(), subject=subject)
    assert (await daemon.ask("store:erase", subject="person/1"))["blobs"] == 2
    left = hashlib.sha256(shared).hexdigest()
    assert files_of(tmp_path / "blobs") == [f"{left[:2]}/{left}"]
    with pytest.raises(NotFoundError):
        await store.find(hashlib.sha256(mine).hexdigest())


async def put(store: Blobs, daemon: Daemon, content: bytes, subject: str | None = None) -> str:
    blob = hashlib.sha256(content).hexdigest()
    return (await store.put(await written(daemon, content), blob, subject=subject)).blob


async def test_a_mirror_takes_what_it_lacks_and_loses_what_was_erased(daemon: Daemon, tmp_path: Path) -> None:
    store, mirror = daemon.kernel.services.get(Blobs), tmp_path / "mirror"
    await put(store, daemon, b"one")
    await put(store, daemon, b"mine", "person/1")
    await written(daemon, b"an upload that is not whole yet")
    made = await store.mirror(mirror)
    assert (made.blobs, made.copied, made.removed) == (2, 2, 0)
    await put(store, daemon, b"another")
    await store.drop("person/1")
    made = await store.mirror(mirror)
    assert (made.blobs, made.copied, made.removed) == (2, 1, 1)
    held = [name for name in files_of(tmp_path / "blobs") if not name.startswith("part/")]
    assert files_of(mirror) == held


async def test_a_blob_that_is_not_what_its_name_says_is_named_and_not_copied(daemon: Daemon, tmp_path: Path) -> None:
    store = daemon.kernel.services.get(Blobs)
    blob = await put(store, daemon, b"one")
    (tmp_path / "blobs" / blob[:2] / blob).write_bytes(b"two")
    made = await store.mirror(tmp_path / "mirror")
    assert (made.blobs, made.damaged, files_of(tmp_path / "mirror")) == (0, [f"{blob[:2]}/{blob}"], [])


async def test_a_folder_with_something_else_is_left_alone(daemon: Daemon, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "diary").touch()
    with pytest.raises(ConflictError):
        await daemon.kernel.services.get(Blobs).mirror(tmp_path / "mine")


async def test_a_disk_that_takes_nothing_is_unavailable(tmp_path: Path) -> None:
    (tmp_path / "blobs").write_text("in the way")
    async with running(BlobPlugin, services={Blobs: opened(tmp_path)}) as started:
        with pytest.raises(UnavailableError):
            await started.ask("blob:write", upload=str(uuid4()), data=encoded(b"abc"))


async def test_an_upload_that_nobody_ended_is_removed_after_a_day(tmp_path: Path) -> None:
    store, upload, young = opened(tmp_path), str(uuid4()), str(uuid4())
    for each in (upload, young):
        await asyncio.wait_for(store.write(each, 0, b"abc"), 10)
    os.utime(tmp_path / "blobs" / "part" / upload, (0, 0))
    store.remove_old_parts()
    assert files_of(tmp_path / "blobs") == [f"part/{young}"]
