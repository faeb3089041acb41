"""A process that archives a log and attaches it again, over and over, until it is killed."""

from __future__ import annotations

import asyncio
import os
import sys
from itertools import count
from pathlib import Path

from ksi.core.events import Position
from ksi.store import archive_file, archiving
from ksi.store.sqlite_log import SqliteEventStore


async def main(path: Path, before: int) -> None:
    for module in (archive_file, archiving):
        vars(module)["PAGE"] = 3  # so that a kill hits it between commits
    async with SqliteEventStore.open(path) as store:
        os.write(1, b"open\n")
        for number in count():
            file = path.with_name(f"{os.getpid()}-{number}.archive")
            await store.archive(file, before=Position(before))
            await store.attach(file)


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), int(sys.argv[2])))
