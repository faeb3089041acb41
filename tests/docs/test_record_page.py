"""The page about scripts does what it shows, with the script and the commands that stand there."""

from __future__ import annotations

from pathlib import Path

from ksi.testing.daemon_process import DaemonProcess
from tests.daemon.upstream import Scripts, serving
from tests.docs.pages import ROOT, blocks, commands, only

PAGE = ROOT / "docs" / "how-to" / "record-a-script.md"


async def test_each_command_says_what_the_page_shows(tmp_path: Path) -> None:
    (console,) = blocks(PAGE, "console")
    record, replay, diverging, whatif = (line[1:] for line in commands(console))
    settings = {"http.port": 0, "store.durability": "normal"}
    async with serving() as upstream, DaemonProcess(tmp_path / "home", settings=settings) as daemon:
        ksi = Scripts(daemon, upstream, tmp_path)
        script = ksi.script("my_agent.py", only(PAGE, "python", "# my_agent.py"))

        def with_it(line: list[str]) -> list[str]:
            return [script if word == "my_agent.py" else word for word in line if word != "python"]

        recorded = await ksi(*with_it(record))
        assert (recorded.code, recorded.out) == (0, "sea. a Name \nship. a Name \n")
        replayed = await ksi(*with_it(replay))
        assert (replayed.code, replayed.out) == (0, recorded.out)
        diverged = await ksi(*with_it(diverging))
        assert diverged.code == 1
        for line in only(PAGE, "text", "+ {").splitlines():
            assert line in diverged.said
        asked = await ksi(*with_it(whatif))
        assert (asked.code, upstream.prompts()) == (0, ["Name a sea.", "Name a ship.", "Name a shop."])
