"""What the page on PostgreSQL shows holds: its program runs, its query gives the records."""

from __future__ import annotations

from pathlib import Path

import pytest

from ksi.testing.daemon_process import DaemonProcess
from ksi.testing.postgres import PostgresServer
from tests.docs.pages import ROOT, only
from tests.docs.test_pages import output_of

PAGE = ROOT / "docs" / "how-to" / "run-on-postgresql.md"


async def test_the_program_runs(tmp_path: Path, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "program.py").write_text(only(PAGE, "python", 'access="share"'))
    monkeypatch.setenv("DATABASE_URL", url)
    said = await output_of("program.py", cwd=tmp_path)
    assert said == "1 order:placed {'item': 'tea'}\n2 order:paid {'cents': 450}\n"


async def test_the_query_gives_the_records(tmp_path: Path, postgres: PostgresServer, url: str) -> None:
    async with DaemonProcess(tmp_path / "home", settings={"store.url": url}) as daemon, daemon.client() as client:
        await client.request("state:set", key="colour", value="red")
        await daemon.stop()
    assert postgres.execute(only(PAGE, "sql", "view:state")) == [("colour", "red")]
