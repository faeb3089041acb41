"""``ksi log -f``: nothing falls between what it reads and what it follows."""

import asyncio
import signal
from pathlib import Path
from typing import Any

import msgspec

from ksi.transport.unix import UnixServer
from tests.cli.processes import Cli
from tests.transport.echo import EchoDoor


async def test_an_event_between_the_read_and_the_subscription_is_shown(tmp_path: Path) -> None:
    door = EchoDoor()

    def read(data: Any, _: Any) -> Any:
        door.head = 11  # behind what this page shows: whoever subscribes from the end now misses it
        return {"events": [{"position": 10}], "next": None}

    door.handlers |= {"system:health": lambda *_: {"head": 10}, "log:read": read}
    async with UnixServer(door, tmp_path / "daemon.sock"):
        following = await asyncio.create_subprocess_exec(
            *Cli(tmp_path).command("log", "-f"), stdout=asyncio.subprocess.PIPE
        )
        assert following.stdout is not None
        shown = [msgspec.json.decode(await following.stdout.readline()) for _ in range(2)]
        following.send_signal(signal.SIGINT)
        await following.communicate()
    assert shown == [{"position": 10}, 11]
