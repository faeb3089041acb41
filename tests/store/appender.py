"""A process that appends until it is killed, and says on stdout what was acknowledged: a unit's number and position."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

from ksi.core.errors import KSIError
from ksi.core.ports import Committed
from ksi.store import tail, upkeep
from ksi.store.sqlite_log import SqliteEventStore
from ksi.testing.counters import CounterView, command


async def main(path: Path) -> None:
    tail.ROWS_MAX, tail.NEWEST, upkeep.CHANGES_MAX = 200, 20, 50  # so that a kill may hit a flush
    async with SqliteEventStore.open(path) as store:
        store.register(CounterView)

        def append(number: int) -> None:
            def done(committed: Committed | None, error: KSIError | None) -> None:
                assert committed is not None, error
                os.write(1, b"%d %d\n" % (number, committed.position))
                append(number + 32)

            store.write(command(f"counter/{number % 97}", amount=1), done)

        for number in range(32):
            append(number)
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1])))
