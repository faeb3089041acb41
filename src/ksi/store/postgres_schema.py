"""The database of the PostgreSQL log: its tables, the one function that writes to them, and connections to it.

All of it stands in the schema ``ksi``, so a database holds one log.
"""

from __future__ import annotations

import getpass
import hashlib
import os
import socket
from contextlib import closing
from typing import Any, Literal, NamedTuple

import psycopg
from psycopg.conninfo import make_conninfo

from ksi.core.errors import LogDamagedError, LogLockedError, LogVersionError, UnavailableError
from ksi.store.postgres_arrays import register
from ksi.store.postgres_keys import KIND, write_anew
from ksi.store.schema import Durability

Access = Literal["own", "share", "read"]
"""``own``: nobody else writes. ``share``: others that share may write too. ``read``: only reads, beside all others."""
Connection = psycopg.Connection[tuple[Any, ...]]
VERSION = b"2"
LOCKS = 0x4B_53_49_31  # "KSI1": the first key of the advisory locks; the second says which
WRITE, OWNER, SCHEMA = 1, 2, 3
LOCK_TIMEOUT = 10
STATEMENT_TIMEOUT = 60
IDLE_TIMEOUT = 10
TAKE_TIMEOUT = 1
"""Seconds: for a turn to write; for one statement; for a client that sleeps in a transaction; for the log to be given
back by somebody who has gone just now."""
CHANNEL = "ksi"

TABLES = """
CREATE SCHEMA ksi;
CREATE TABLE ksi.meta(key text PRIMARY KEY, value bytea NOT NULL);
-- The truth. last is the position of the row's last event; body is packed, its last 16 bytes are the digest.
CREATE TABLE ksi.log(last bigint PRIMARY KEY, body bytea NOT NULL);
-- Bodies are read whole, and deflating them would cost more than it saves.
ALTER TABLE ksi.log ALTER body SET STORAGE EXTERNAL;
-- A link for each commit; at (microseconds since 1970) strictly increases.
CREATE TABLE ksi.commits(at bigint PRIMARY KEY, last bigint NOT NULL UNIQUE, hash bytea NOT NULL);
-- Ids that can not be derived; done is the row that closed the request, when it came later.
CREATE TABLE ksi.ids(id bytea PRIMARY KEY, pos bigint NOT NULL, done bigint);
CREATE TABLE ksi.open(id bytea PRIMARY KEY, pos bigint NOT NULL);
-- An entry for each row that holds events of the stream: the last version that it holds. Names may hold any character.
CREATE TABLE ksi.streams(name bytea, version bigint, last bigint NOT NULL, PRIMARY KEY (name, version));
CREATE TABLE ksi.keys(key bigint, last bigint, PRIMARY KEY (key, last));
CREATE TABLE ksi.names(name bytea PRIMARY KEY);
CREATE TABLE ksi.checkpoints(subscriber bytea PRIMARY KEY, pos bigint NOT NULL);
"""
VIEWS = """
-- Read models are made of the log. Unlogged: neither the server's own log nor a replica nor a copy of its files keeps
-- what was erased. A crash of the server empties all unlogged tables together, this one too: so they are built again.
CREATE UNLOGGED TABLE IF NOT EXISTS ksi.views(
    name text PRIMARY KEY, version bigint NOT NULL, shape text NOT NULL, pos bigint NOT NULL
);
"""
STEPS = {
    b"1": """
DROP TABLE IF EXISTS ksi.snapshots;
TRUNCATE ksi.views;
ALTER TABLE ksi.views SET UNLOGGED;
""",
}
"""From each older version to the next one."""

KEEP = """
CREATE OR REPLACE FUNCTION ksi.keep(
    known bytea, link_at bigint, link_last bigint, link_hash bytea,
    lasts bigint[], bodies bytea[], entered bytea[], entered_at bigint[], opened bytea[], opened_at bigint[],
    closed bytea[], closed_at bigint[], stream_names bytea[], versions bigint[], stream_lasts bigint[],
    keys bigint[], key_lasts bigint[], new_names bytea[], subscribers bytea[], stood bigint[], moved bigint[]
) RETURNS boolean LANGUAGE plpgsql AS $$
-- Stores a batch that was decided on the log up to the link known, and its link. False: the log has gone on since.
-- A batch that is there already, because its sender did not learn of it, is not stored again.
-- Each statement below sees what was committed before the lock was given: positions are true only after it.
BEGIN
    PERFORM pg_advisory_xact_lock(1263749425, 1);
    IF known IS DISTINCT FROM (SELECT hash FROM ksi.commits ORDER BY at DESC LIMIT 1) THEN
        RETURN EXISTS (SELECT FROM ksi.commits c WHERE c.at = link_at AND c.hash = link_hash);
    END IF;
    IF EXISTS (
        SELECT FROM unnest(subscribers, stood, moved) AS m(subscriber, stood, moved)
        LEFT JOIN ksi.checkpoints c USING (subscriber)
        WHERE coalesce(c.pos, 0) <> m.stood AND (link_hash IS NOT NULL OR coalesce(c.pos, 0) <> m.moved)
    ) THEN
        RETURN false;
    END IF;
    INSERT INTO ksi.log SELECT * FROM unnest(lasts, bodies);
    INSERT INTO ksi.ids(id, pos) SELECT * FROM unnest(entered, entered_at);
    INSERT INTO ksi.open SELECT * FROM unnest(opened, opened_at);
    INSERT INTO ksi.streams SELECT * FROM unnest(stream_names, versions, stream_lasts);
    INSERT INTO ksi.keys SELECT * FROM unnest(keys, key_lasts);
    INSERT INTO ksi.names SELECT unnest(new_names) ON CONFLICT DO NOTHING;
    IF cardinality(closed) > 0 THEN
        UPDATE ksi.ids SET done = c.pos FROM unnest(closed, closed_at) AS c(id, pos) WHERE ids.id = c.id;
        DELETE FROM ksi.open WHERE id = ANY (closed);
    END IF;
    IF cardinality(subscribers) > 0 THEN
        DELETE FROM ksi.checkpoints WHERE subscriber = ANY (subscribers);
        INSERT INTO ksi.checkpoints
            SELECT * FROM unnest(subscribers, moved) AS m(subscriber, pos) WHERE m.pos > 0;
    END IF;
    IF link_hash IS NOT NULL THEN
        INSERT INTO ksi.commits VALUES (link_at, link_last, link_hash);
    END IF;
    PERFORM pg_notify('ksi', '');
    RETURN true;
END $$;
"""
_KEEP_DIGEST = hashlib.sha256(KEEP.encode()).digest()
_SETTINGS = f"""
SET default_transaction_isolation = 'read committed';
SET lock_timeout = '{LOCK_TIMEOUT}s';
SET statement_timeout = '{STATEMENT_TIMEOUT}s';
SET idle_in_transaction_session_timeout = '{IDLE_TIMEOUT}s';
-- An owner whose network was cut is not kept out by what the server still takes for its connection.
SET tcp_keepalives_idle = 10;
SET tcp_keepalives_interval = 5;
SET tcp_keepalives_count = 3;
SET tcp_user_timeout = '30s';
"""
NETWORK: dict[str, str | int] = {
    "client_encoding": "utf8",
    "connect_timeout": 5,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 30_000,
}


def connect(url: str, durability: Durability = "full") -> Connection:
    """A connection that commits each statement by itself.

    Raises:
        psycopg.OperationalError: There is no server, or it does not let us in.
        UnavailableError: The url is none.
    """
    connection = psycopg.connect(conninfo_of(url), autocommit=True)
    try:
        register(connection)
        connection.execute(_SETTINGS)
        if durability == "normal":
            connection.execute("SET synchronous_commit = off")
        elif _setting(connection, "synchronous_commit") == "off":
            connection.execute("SET synchronous_commit = on")
    except BaseException:
        connection.close()
        raise
    return connection


def conninfo_of(url: str) -> str:
    try:
        return make_conninfo(url, **NETWORK, application_name=our_name())
    except psycopg.ProgrammingError:
        # The reason would show a part of it, perhaps the password.
        raise UnavailableError("the log", "store.url is not like postgresql://user@host/database") from None


def our_name() -> str:
    """How others see who holds the log; PostgreSQL keeps 63 bytes of it."""
    return f"ksi {getpass.getuser()}@{socket.gethostname()} pid {os.getpid()}"[:63]


def syncs(connection: Connection) -> bool:
    """Whether a commit is on the platter when the server says so."""
    return _setting(connection, "fsync") == "on" and _setting(connection, "synchronous_commit") != "off"


class Database(NamedTuple):
    """A server as it was found. ``syncs``: what it commits is on the platter."""

    place: str
    version: str
    syncs: bool


def look_at(url: str) -> Database:
    """The database at ``url``, whether it holds a log or not.

    Raises:
        UnavailableError: There is no server, or it does not let us in.
    """
    try:
        with closing(connect(url)) as connection:
            return Database(place_of(url), _setting(connection, "server_version"), syncs(connection))
    except psycopg.Error as error:
        raise UnavailableError(place_of(url), str(error).partition("\n")[0]) from error


def prepare(connection: Connection) -> None:
    """Make the tables where there are none.

    Raises:
        LogDamagedError: They are those of something else.
        LogVersionError: They are those of a newer version.
        UnavailableError: The database can not hold a log.
    """
    if _setting(connection, "server_encoding") != "UTF8":
        raise UnavailableError("the log", "its database is not in UTF8")
    with connection.transaction():
        connection.execute("SELECT pg_advisory_xact_lock(%s, %s)", (LOCKS, SCHEMA))
        if not exists(connection):
            connection.execute(TABLES)
            connection.execute("INSERT INTO ksi.meta VALUES ('version', %s), ('keys', %s)", (VERSION, KIND))
        connection.execute(VIEWS)  # also where somebody has dropped it: what is derived is made again
        _bring_up(connection)
        _check_version(connection)
        if meta(connection, "keep") != _KEEP_DIGEST:
            connection.execute(KEEP)
            set_meta(connection, "keep", _KEEP_DIGEST)
        if meta(connection, "keys") != KIND:
            connection.execute("SELECT pg_advisory_xact_lock(%s, %s)", (LOCKS, WRITE))
            write_anew(connection)
            set_meta(connection, "keys", KIND)


def exists(connection: Connection) -> bool:
    return connection.execute("SELECT to_regclass('ksi.meta')").fetchone() != (None,)


def _bring_up(connection: Connection) -> None:
    while (step := STEPS.get(found := meta(connection, "version") or b"")) is not None:
        connection.execute(step)
        set_meta(connection, "version", str(int(found) + 1).encode())


def _check_version(connection: Connection) -> None:
    found = meta(connection, "version")
    if found is not None and found.isdigit() and int(found) > int(VERSION):
        raise LogVersionError("the schema ksi", found=int(found), known=int(VERSION))
    if found != VERSION:
        raise LogDamagedError(f"the tables of the schema ksi are of version {found!r}, not {VERSION!r}", position=0)


def take(connection: Connection, url: str, access: Access) -> None:
    """Take the log for as long as ``connection`` lives.

    Raises:
        LogLockedError: Somebody else has it.
    """
    if access == "read":
        return
    function = "pg_advisory_lock" if access == "own" else "pg_advisory_lock_shared"
    try:
        with connection.transaction():
            connection.execute(f"SET LOCAL lock_timeout = '{TAKE_TIMEOUT}s'")
            connection.execute(f"SELECT {function}(%s, %s)", (LOCKS, OWNER))
    except psycopg.errors.LockNotAvailable:
        raise LogLockedError(place_of(url), _holder(connection)) from None


def _holder(connection: Connection) -> str:
    found = connection.execute(_HOLDER, (LOCKS, OWNER)).fetchone()
    return "another process" if found is None else "{} (backend {}, since {:%Y-%m-%dT%H:%M:%S%z})".format(*found)


_HOLDER = """
SELECT a.application_name, a.pid, a.backend_start FROM pg_locks l JOIN pg_stat_activity a USING (pid)
WHERE l.locktype = 'advisory' AND l.granted AND l.classid = %s AND l.objid = %s AND a.datname = current_database()
AND a.pid <> pg_backend_pid() LIMIT 1
"""


def place_of(url: str) -> str:
    """``url`` as it may be shown: without user and password."""
    facts = psycopg.conninfo.conninfo_to_dict(url)
    host, port = facts.get("host") or "localhost", facts.get("port")
    return f"postgresql://{host}{f':{port}' if port else ''}/{facts.get('dbname', '')}"


def meta(connection: Connection, key: str) -> bytes | None:
    found = connection.execute("SELECT value FROM ksi.meta WHERE key = %s", (key,), binary=True).fetchone()
    return None if found is None else found[0]


def set_meta(connection: Connection, key: str, value: bytes) -> None:
    upsert = "INSERT INTO ksi.meta VALUES (%s, %s) ON CONFLICT (key) DO UPDATE SET value = excluded.value"
    connection.execute(upsert, (key, value))


def _setting(connection: Connection, name: str) -> str:
    found = connection.execute("SELECT current_setting(%s)", (name,)).fetchone()
    assert found is not None
    return str(found[0])
