"""SQLite on a disk that forgets: what synchronous=FULL promises is seen to hold, and OFF is seen to lose."""

import errno
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from random import Random

import apsw
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ksi.testing.disk import SECTOR, Disk, Image, PowerLostError
from ksi.testing.vfs import DiskVFS


@pytest.fixture
def vfs() -> Iterator[DiskVFS]:
    with DiskVFS() as vfs:
        yield vfs


def connect(vfs: DiskVFS, path: Path, synchronous: str = "FULL") -> apsw.Connection:
    connection = apsw.Connection(str(path), vfs=vfs.name)
    for pragma in ("page_size = 512", "journal_mode = WAL", f"synchronous = {synchronous}", "wal_autocheckpoint = 5"):
        connection.execute(f"PRAGMA {pragma}").fetchall()
    return connection


def prepare(vfs: DiskVFS, path: Path, synchronous: str) -> apsw.Connection:
    """The table is on disk before anything fails."""
    connection = connect(vfs, path)
    connection.execute("CREATE TABLE row (number INTEGER PRIMARY KEY, text TEXT)")
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    connection.execute(f"PRAGMA synchronous = {synchronous}")
    return connection


def write_until_it_fails(connection: apsw.Connection, rows: int = 30) -> int:
    """How many commits were acknowledged."""
    for number in range(rows):
        try:
            connection.execute("INSERT INTO row VALUES (?, ?)", (number, "x" * 300))
        except (apsw.IOError, apsw.FullError):
            return number
    return rows


def numbers(connection: apsw.Connection) -> list[int]:
    return [number for (number,) in connection.execute("SELECT number FROM row ORDER BY number")]


def lost(path: Path, synchronous: str, seed: int) -> int:
    """Acknowledged commits that are gone after a crash at a random moment; the last sectors to be kept are random."""
    with DiskVFS() as vfs:
        writer, reader = prepare(vfs, path, synchronous), connect(vfs, path)
        vfs.disk.fail_after(Random(seed).randrange(1, 100))
        acknowledged = 0
        while vfs.disk.is_powered and acknowledged < 30:
            acknowledged += write_some(writer, reader, acknowledged)
        vfs.disk.crash(seed)
        writer.close()
        reader.close()
        return acknowledged - survivors(vfs, path, acknowledged)


def write_some(writer: apsw.Connection, reader: apsw.Connection, number: int) -> int:
    try:
        writer.execute("INSERT INTO row VALUES (?, ?)", (number, "x" * 300))
    except apsw.IOError:
        return 0
    with suppress(apsw.IOError):
        assert numbers(reader)[-1] == number, "a second connection sees the commit"
    return 1


def survivors(vfs: DiskVFS, path: Path, acknowledged: int) -> int:
    """How many of the acknowledged commits are there; -1 where the database is damaged."""
    connection = apsw.Connection(str(path), vfs=vfs.name)
    try:
        if connection.execute("PRAGMA integrity_check").fetchall() != [("ok",)]:
            return -1
        found = numbers(connection)
    except apsw.CorruptError:
        return -1
    finally:
        connection.close()
    assert found == list(range(len(found)))
    assert len(found) <= acknowledged + 1, "at most the commit under way"
    return min(len(found), acknowledged)


def test_full_keeps_every_acknowledged_commit_over_fifty_crashes(tmp_path: Path) -> None:
    assert [lost(tmp_path / f"{seed}.db", "FULL", seed) for seed in range(50)] == [0] * 50


@pytest.mark.parametrize("synchronous", ["OFF", "NORMAL"])
def test_weaker_settings_are_seen_to_lose(tmp_path: Path, synchronous: str) -> None:
    assert sum(lost(tmp_path / f"{seed}.db", synchronous, seed) for seed in range(20)) > 0


def test_a_crash_without_a_seed_keeps_exactly_what_was_synced(vfs: DiskVFS, tmp_path: Path) -> None:
    writer = prepare(vfs, tmp_path / "a.db", "FULL")
    writer.execute("INSERT INTO row VALUES (1, 'synced')")
    writer.execute("PRAGMA synchronous = OFF")
    writer.execute("INSERT INTO row VALUES (2, 'not')")
    vfs.disk.crash()
    writer.close()
    assert numbers(connect(vfs, tmp_path / "a.db")) == [1]


def test_a_dead_connection_gets_errors_and_closes_without_harm_to_the_living(vfs: DiskVFS, tmp_path: Path) -> None:
    dead = prepare(vfs, tmp_path / "a.db", "FULL")
    dead.execute("INSERT INTO row VALUES (1, '')")
    vfs.disk.crash()
    living = connect(vfs, tmp_path / "a.db")
    living.execute("INSERT INTO row VALUES (2, '')")
    with pytest.raises(apsw.IOError):
        dead.execute("INSERT INTO row VALUES (3, '')")
    dead.close()
    living.execute("INSERT INTO row VALUES (4, '')")
    assert numbers(living) == [1, 2, 4]
    living.close()
    assert numbers(connect(vfs, tmp_path / "a.db")) == [1, 2, 4]


@pytest.mark.parametrize("change", range(1, 12))
def test_the_power_goes_at_the_change_that_was_named(vfs: DiskVFS, tmp_path: Path, change: int) -> None:
    writer = prepare(vfs, tmp_path / "a.db", "FULL")
    before = vfs.disk.changes
    vfs.disk.fail_after(change)
    write_until_it_fails(writer)
    assert vfs.disk.changes - before == change
    assert not vfs.disk.is_powered
    vfs.disk.crash()
    writer.close()


def test_a_full_disk_refuses_writes_reads_go_on_and_space_ends_it(vfs: DiskVFS, tmp_path: Path) -> None:
    writer = prepare(vfs, tmp_path / "a.db", "FULL")
    writer.execute("INSERT INTO row VALUES (0, '')")
    vfs.disk.full()
    with pytest.raises(apsw.FullError):
        writer.execute("INSERT INTO row VALUES (1, '')")
    assert numbers(writer) == [0]
    vfs.disk.full(False)
    writer.execute("INSERT INTO row VALUES (1, '')")
    assert numbers(writer) == [0, 1]
    writer.close()


def test_a_database_that_was_never_synced_has_no_name_after_a_crash(vfs: DiskVFS, tmp_path: Path) -> None:
    connection = apsw.Connection(str(tmp_path / "a.db"), vfs=vfs.name)
    connection.execute("PRAGMA synchronous = OFF; CREATE TABLE row (number)")
    vfs.disk.crash()
    connection.close()
    assert list(tmp_path.iterdir()) == []


# ── files beside the database ────────────────────────────────────────────────────────────────────────────────────────
def test_a_file_beside_goes_back_to_its_last_sync(tmp_path: Path) -> None:
    disk, path = Disk(), tmp_path / "witness"
    file = disk.open(path)
    file.pwrite(b"one", 0)
    file.fsync()
    file.pwrite(b"two", 0)
    assert file.pread(3, 0) == b"two"
    disk.crash()
    with pytest.raises(PowerLostError):
        file.pwrite(b"three", 0)
    file.close()
    assert path.read_bytes() == b"one"


def test_a_file_beside_fills_up_and_loses_power_with_the_disk(tmp_path: Path) -> None:
    disk = Disk()
    file = disk.open(tmp_path / "witness")
    disk.full()
    with pytest.raises(OSError, match="full") as caught:
        file.pwrite(b"x", 0)
    assert caught.value.errno == errno.ENOSPC
    disk.full(False)
    disk.fail_after(2)
    file.pwrite(b"x", 0)
    with pytest.raises(PowerLostError):
        file.fsync()
    file.close()


Write = tuple[int, bytes]
writes = st.lists(st.tuples(st.integers(0, 3000), st.binary(min_size=1, max_size=1500)), max_size=6)


def apply(content: bytes, changes: list[Write], image: Image) -> bytes:
    file = bytearray(content)
    for offset, data in changes:
        image.changes(offset, offset + len(data), lambda size, at: bytes(file[at : at + size]))
        file.extend(bytes(max(0, offset - len(file))))
        file[offset : offset + len(data)] = data
    return bytes(file)


@given(st.binary(max_size=2000), writes)
def test_losing_all_gives_the_synced_file_and_keeping_all_the_written_one(content: bytes, changes: list[Write]) -> None:
    image = Image(len(content), named=True)
    now = apply(content, changes, image)
    assert image.survivors(now, lambda: False) == content
    assert image.survivors(now, lambda: True) == now


@given(writes, st.randoms(use_true_random=False))
def test_each_sector_survives_whole_or_not_at_all(changes: list[Write], random: Random) -> None:
    content = bytes(8 * SECTOR)
    image = Image(len(content), named=True)
    now = apply(content, changes, image)[: len(content)]
    after = image.survivors(now, lambda: random.random() < 0.5)
    for at in range(0, len(content), SECTOR):
        assert after[at : at + SECTOR] in (content[at : at + SECTOR], now[at : at + SECTOR])


@given(st.binary(min_size=1, max_size=2000), st.integers(0, 2000), st.booleans())
def test_a_truncation_that_was_not_synced_never_holds(content: bytes, size: int, keeps: bool) -> None:
    image = Image(len(content), named=True)
    image.changes(size, len(content), lambda size, at: content[at : at + size])
    assert image.survivors(content[:size], lambda: keeps) == content
