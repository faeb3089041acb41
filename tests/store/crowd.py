"""Processes that append to one log on PostgreSQL, readers that follow it, and what goes wrong between them.

As a program it is one of the writers: it appends until all is acknowledged, and says so on stdout.
"""

from __future__ import annotations

import asyncio
import random
import sys
from asyncio.subprocess import PIPE
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from uuid import UUID

from ksi.core import ids
from ksi.core.errors import KSIError, UnavailableError, WrongExpectedVersionError
from ksi.core.events import ANY, NewEvent, RecordedEvent
from ksi.store import postgres_notify
from ksi.store.postgres_log import PostgresEventStore
from ksi.testing.postgres import PostgresServer

SHARED = ["item/1", "item/2", "item/3"]
AT_ONCE = 4
"""Units that a writer has under way."""
SLEEP = """
CREATE FUNCTION ksi.sleep() RETURNS trigger LANGUAGE plpgsql AS
    $$ BEGIN PERFORM pg_sleep(random() * 0.01); RETURN NULL; END $$;
CREATE CONSTRAINT TRIGGER sleep AFTER INSERT ON ksi.commits DEFERRABLE INITIALLY DEFERRED
    FOR EACH ROW EXECUTE FUNCTION ksi.sleep();
"""
"""Between the position and its COMMIT time passes."""
ROLL_BACK = """
CREATE FUNCTION ksi.roll_back() RETURNS trigger LANGUAGE plpgsql AS
    $$ BEGIN IF random() < 0.1 THEN RAISE EXCEPTION 'unlucky' USING ERRCODE = '40001'; END IF; RETURN NULL; END $$;
CREATE CONSTRAINT TRIGGER roll_back AFTER INSERT ON ksi.commits DEFERRABLE INITIALLY DEFERRED
    FOR EACH ROW EXECUTE FUNCTION ksi.roll_back();
"""
"""One commit in ten is rolled back at its very end."""
LOCK = "PERFORM pg_advisory_xact_lock(1263749425, 1);"
NOTIFY = "PERFORM pg_notify('ksi', '');"
KILL = """
SELECT pg_terminate_backend(pid) FROM pg_stat_activity
WHERE application_name LIKE 'ksi %' AND random() < 0.2
"""


def without(server: PostgresServer, line: str) -> None:
    """Take ``line`` out of the function by which all write."""
    ((text,),) = server.execute("SELECT pg_get_functiondef('ksi.keep'::regproc)")
    assert line in text
    server.execute(text.replace(line, ""))


# ── a writer ─────────────────────────────────────────────────────────────────────────────────────────────────────────
async def write(url: str, seed: int, units: int) -> None:
    choices = random.Random(seed)
    left = list(range(units))
    while left:
        with suppress(UnavailableError):  # the connection was cut off while it was opened
            async with PostgresEventStore.open(url, access="share") as store:
                await asyncio.gather(
                    *[_appender(store, choices, [*SHARED, *[f"own/{seed}"] * 3], left) for _ in range(AT_ONCE)]
                )


async def _appender(store: PostgresEventStore, choices: random.Random, streams: list[str], left: list[int]) -> None:
    while left:
        left.pop()
        await _append(store, choices, choices.choice(streams))


async def _append(store: PostgresEventStore, choices: random.Random, stream: str) -> None:
    events = [_event() for _ in range(choices.randint(1, 3))]
    with_version = choices.random() < 0.5
    while True:
        try:
            expected = await store.version(stream) if with_version else ANY
            appended = await store.append(stream, events, expected_version=expected)
        except WrongExpectedVersionError:
            continue  # others append to it as well
        except UnavailableError:
            await asyncio.sleep(0.05)  # there is no server, and nothing tells when it is back
        else:
            for event, position, version in zip(events, appended.positions, appended.versions, strict=True):
                sys.stdout.write(f"{event.event_id} {stream} {version} {position}\n")
            return


def _event() -> NewEvent:
    return NewEvent(name="item:put", data={}, event_id=UUID(bytes=ids.new_id()))


# ── all of them ──────────────────────────────────────────────────────────────────────────────────────────────────────
class Follower:
    """Reads all from the start on, and notes what can not be."""

    def __init__(self, url: str) -> None:
        self._url = url
        self.read: list[RecordedEvent] = []
        self.fault: str | None = None
        self._moved = asyncio.Condition()

    async def reach(self, count: int) -> None:
        """Until so many are read, or no more are."""
        async with self._moved:
            await self._moved.wait_for(lambda: self.fault is not None or len(self.read) >= count)

    async def _follow(self) -> None:
        async with PostgresEventStore.open(self._url, access="read") as store, store.subscribe(after="start") as events:
            async for event in events:
                self.read.append(event)
                await self._move()

    async def _move(self) -> None:
        async with self._moved:
            self._moved.notify_all()

    async def run(self) -> None:
        while True:
            try:
                await self._follow()
            except UnavailableError:
                self.read.clear()  # its connection was cut off while it was opened
            except KSIError as error:
                self.fault = error.message
                await self._move()
                return


async def crowd(
    server: PostgresServer, url: str, *, writers: int, units: int, kill_every: float | None = None, timeout: float = 60
) -> list[str]:
    """What went wrong with ``writers`` processes that append ``units`` each, and two followers."""
    postgres_notify.POLL = 0.02
    followers = [Follower(url) for _ in range(2)]
    tasks = [asyncio.ensure_future(follower.run()) for follower in followers]
    if kill_every is not None:
        tasks.append(asyncio.ensure_future(_kill(server, kill_every)))
    writing = [asyncio.ensure_future(_writer(url, seed, units)) for seed in range(writers)]
    try:
        async with asyncio.timeout(timeout):
            told = [line for output in await asyncio.gather(*writing) for line in output.splitlines()]
            await asyncio.gather(*[follower.reach(len(told)) for follower in followers])
    except TimeoutError:
        return [f"nothing ended in {timeout} s", *(f"read {len(follower.read)}" for follower in followers)]
    except WriterFailed as failed:
        return [str(failed)]
    finally:
        for task in (*writing, *tasks):
            task.cancel()
        await asyncio.gather(*writing, *tasks, return_exceptions=True)
    return [fault for follower in followers for fault in faults(told, follower)]


class WriterFailed(Exception):
    """A writer ended with an error."""


async def _writer(url: str, seed: int, units: int) -> str:
    command = [sys.executable, "-m", "tests.store.crowd", url, str(seed), str(units)]
    process = await asyncio.create_subprocess_exec(*command, stdout=PIPE, stderr=PIPE)
    try:
        output, complaint = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode:
        raise WriterFailed(complaint.decode().splitlines()[-1])
    return output.decode()


async def _kill(server: PostgresServer, every: float) -> None:
    while True:
        await asyncio.sleep(every)
        await asyncio.to_thread(server.execute, KILL)


def faults(told: Sequence[str], follower: Follower) -> list[str]:
    """What ``follower`` missed, had twice or in the wrong order, against what writers were ``told``."""
    found = [] if follower.fault is None else [follower.fault]
    read = [f"{event.event_id} {event.stream} {event.version} {event.position}" for event in follower.read]
    found += [f"missed {line}" for line in set(told) - set(read)]
    found += [f"read {line}, which nobody was told" for line in set(read) - set(told)]
    found += [f"{count} times {line}" for line, count in Counter(read).items() if count > 1]
    positions = [event.position for event in follower.read]
    if positions != sorted(set(positions)):
        found.append("positions in the wrong order")
    for stream in {event.stream for event in follower.read}:
        versions = [event.version for event in follower.read if event.stream == stream]
        if versions != list(range(1, len(versions) + 1)):
            found.append(f"{stream} has versions {versions}")
    return found


if __name__ == "__main__":
    asyncio.run(write(sys.argv[1], int(sys.argv[2]), int(sys.argv[3])))
