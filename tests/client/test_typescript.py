"""The TypeScript client, compiled by the strict compiler and run by node, against a real daemon."""

from __future__ import annotations

import asyncio
import os
import shutil
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from ksi.testing.daemon_process import DaemonProcess
from ksi.testing.proxy import Faults, FaultyProxy
from tests.client.ways import free_port
from tests.docs.pages import ROOT, only

INSTALLED = Path(sys.prefix) / "node"
CLIENT = ROOT / "clients" / "typescript"
HERE = Path(__file__).parent
OPTIONS = {
    "strict": True,
    "exactOptionalPropertyTypes": True,
    "noUncheckedIndexedAccess": True,
    "noUnusedLocals": False,
    "target": "es2022",
    "lib": ["es2022", "dom", "dom.iterable", "dom.asynciterable"],
    "types": [],
    "module": "nodenext",
    "moduleResolution": "nodenext",
}
NODE_GLOBALS = "declare const process: { argv: string[]; env: { [name: string]: string | undefined } };\n"

pytestmark = pytest.mark.skipif(
    shutil.which("node") is None or not (INSTALLED / ".installed").exists(),
    reason="node and what `make test-deps` installs for it are not here",
)


@pytest.fixture(params=["ws", "http"])
def way(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@asynccontextmanager
async def running(home: Path) -> AsyncIterator[DaemonProcess]:
    settings = {"http.port": free_port(), "providers.default": "script", "providers.script": "There was a lighthouse"}
    async with DaemonProcess(home, HERE / "work.py", settings=settings) as daemon:
        await daemon.http_url()
        yield daemon


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The client and the programs that use it, compiled with the types that a daemon describes."""
    return asyncio.run(compiled(tmp_path_factory.mktemp("typescript")))  # a loop of its own: those of tests are shorter


async def compiled(directory: Path) -> Path:
    async with running(directory / "home") as daemon, daemon.client() as client:
        described = await client.request("describe:typescript")
    source = directory / "src"
    shutil.copytree(CLIENT / "src", source / "ksi-client")
    (source / "types.ts").write_text(described["text"] if isinstance(described, dict) else described)
    (source / "node.d.ts").write_text(NODE_GLOBALS)
    shutil.copy(HERE / "typescript" / "checks.ts", source)
    page = only(ROOT / "docs" / "how-to" / "use-from-typescript.md", "typescript", "new Client")
    (source / "page.ts").write_text(page.replace('"ksi-client"', '"./ksi-client/index.js"'))
    (directory / "package.json").write_text('{"type":"module"}')
    options = OPTIONS | {"rootDir": "src", "outDir": "out"}
    (directory / "tsconfig.json").write_bytes(msgspec.json.encode({"compilerOptions": options, "include": ["src"]}))
    tsc = INSTALLED / "node_modules" / "typescript" / "bin" / "tsc"
    assert await output_of(await started("node", tsc, "--pretty", "false", cwd=directory)) == ""
    return directory / "out"


async def started(*command: str | Path, cwd: Path, **environment: str) -> Process:
    return await asyncio.create_subprocess_exec(
        *map(str, command), cwd=cwd, stdout=PIPE, stderr=PIPE, env={**os.environ, **environment}
    )


async def output_of(process: Process) -> str:
    out, errors = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode == 0, (out + errors).decode()
    return out.decode()


async def program(programs: Path, way: str, url: str, daemon: DaemonProcess, what: str) -> Process:
    token = daemon.home.token_file.read_text().strip()
    arguments = (programs / "checks.js", way, url, token, what)
    return await started("node", "--no-warnings", "--experimental-websocket", *arguments, cwd=programs)


async def check(programs: Path, way: str, daemon: DaemonProcess, what: str, url: str | None = None) -> Any:
    running = await program(programs, way, url or await daemon.http_url(), daemon, what)
    return msgspec.json.decode(await output_of(running))


async def test_calls_streams_and_subscriptions_say_what_the_daemon_says(
    programs: Path, way: str, tmp_path: Path
) -> None:
    async with running(tmp_path / "home") as daemon:
        assert await check(programs, way, daemon, "call") == {
            "version": 1,
            "value": "blau, ü",
            "code": "unknown_event",
            "name": "work:od",
        }
        assert await check(programs, way, daemon, "retry") == [7]
        assert await check(programs, way, daemon, "stream") == {
            "seen": list(range(1, 21)),
            "end": "counted",
            "rest": list(range(11, 21)),
            "restEnd": "counted",
        }


async def test_who_leaves_cancels_at_the_daemon(programs: Path, way: str, tmp_path: Path) -> None:
    async with running(tmp_path / "home") as daemon:
        assert await check(programs, way, daemon, "leave") == ["stream cancelled"]
        cancelled = await check(programs, way, daemon, "cancel")
        assert cancelled["code"] == "cancelled"
        assert cancelled["partial"]["used"] > 0
        assert await check(programs, way, daemon, "unread") == 1
    async with running(tmp_path / "other") as daemon:
        assert await check(programs, way, daemon, "abort") == {
            "names": ["AbortError"] * 3,
            "said": ["command cancelled", "query cancelled", "stream cancelled"],
        }


async def test_all_comes_through_a_bad_network(programs: Path, way: str, tmp_path: Path) -> None:
    async with running(tmp_path / "home") as daemon:
        port = int((await daemon.http_url()).rpartition(":")[2])
        faults = Faults(cut=0.03, portion_bytes=128, delay_max=0.01)
        async with FaultyProxy(("127.0.0.1", port), seed=5, faults=faults) as proxy:
            url = f"http://127.0.0.1:{proxy.port}"
            assert await check(programs, way, daemon, "through", url) == {
                "streams": [list(range(1, 101))] * 2,
                "followed": list(range(50)),
            }
            assert proxy.cuts > 3


async def test_a_subscription_outlives_its_daemon(programs: Path, way: str, tmp_path: Path) -> None:
    async with running(tmp_path / "home") as daemon, daemon.client() as client:
        following = await program(programs, way, await daemon.http_url(), daemon, "follow")
        assert following.stdout is not None
        seen = []
        for number in range(6):
            await client.request("work:do", number=number)
            seen.append(int(await asyncio.wait_for(following.stdout.readline(), 60)))
            if number in (1, 3):
                await (daemon.kill() if number == 1 else daemon.stop())
                await daemon.start()
        following.kill()
        await following.communicate()
    assert seen == list(range(6))


async def test_the_program_of_the_page_runs(programs: Path, tmp_path: Path) -> None:
    async with running(tmp_path / "home") as daemon:
        environment = {"KSI_URL": await daemon.http_url(), "KSI_TOKEN": daemon.home.token_file.read_text().strip()}
        said = await output_of(await started("node", programs / "page.js", cwd=programs, **environment))
    assert said.splitlines()[:2] == ["version 1", "There was a lighthouse"]
    assert said.splitlines()[2].endswith("state:value_was_set")
