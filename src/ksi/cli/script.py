"""Running somebody's script with a door of the daemon in place of its models' providers."""

from __future__ import annotations

import asyncio
import hashlib
import os
import secrets
import signal
from collections.abc import Mapping, Sequence
from typing import Any

import click
import msgspec

from ksi.cli.invocation import Invocation
from ksi.cli.output import Record
from ksi.cli.reach import daemon_pid, run, wait_for_http
from ksi.client.client import EventClient
from ksi.client.streams import EventStream

OPENAI, ANTHROPIC = "OPENAI_BASE_URL", "ANTHROPIC_BASE_URL"
EXIT_NOT_FOUND = 127


class Ran(msgspec.Struct, frozen=True):
    """How the script and its door ended; ``said`` is all that came between."""

    exit_code: int
    run: str
    end: Record
    said: Sequence[Record]


def run_script(
    invocation: Invocation, script: Sequence[str], event: str, data: Mapping[str, Any], *, is_recorded: bool
) -> Ran:
    """Open a door by ``event``, run ``script`` with its address, close it. The daemon is started where none runs."""
    invocation.start = True

    async def through(client: EventClient) -> Ran:
        url = await _http_url(invocation)
        token = secrets.token_urlsafe(32)
        digest = hashlib.sha256(token.encode()).hexdigest()
        upstreams = {"upstreams": upstreams_of(os.environ)} if is_recorded else {}
        door = client.stream(event, {"token_sha256": digest, **data, **upstreams})
        async with door:
            opened = (await anext(door)).data
            said = asyncio.ensure_future(_taken(door))
            exit_code = await _child(script, environment_of(os.environ, f"{url}/r/{token}"))
            if is_recorded:
                await client.request("door:close", token_sha256=digest, exit_code=exit_code)
            else:
                door.cancel()
            chunks = await said
        return Ran(exit_code, opened["run"], door.end, chunks)

    return run(invocation, through)


def upstreams_of(environment: Mapping[str, str]) -> dict[str, str]:
    """Where the script would have asked: as its variables say, else at the providers."""
    wanted = {"openai": environment.get(OPENAI), "anthropic": environment.get(ANTHROPIC)}
    return {name: url for name, url in wanted.items() if url}


def environment_of(environment: Mapping[str, str], base: str) -> dict[str, str]:
    """The script's: its packages ask at ``base``, and no proxy stands before it."""
    no_proxy = ",".join(filter(None, [environment.get("NO_PROXY") or environment.get("no_proxy"), "127.0.0.1"]))
    doors = {OPENAI: f"{base}/v1", ANTHROPIC: f"{base}/anthropic"}
    return {**environment, **doors, "NO_PROXY": no_proxy, "no_proxy": no_proxy}


async def _taken(door: EventStream) -> list[Record]:
    """All that is said, from now on."""
    return [chunk.data async for chunk in door]


async def _http_url(invocation: Invocation) -> str:
    return await asyncio.to_thread(wait_for_http, invocation.home, daemon_pid(invocation.home))


async def _child(script: Sequence[str], environment: Mapping[str, str]) -> int:
    """Run it to its end; its exit code as a shell says it. Ctrl-C is for the script."""
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGINT, lambda: None)
    try:
        process = await asyncio.create_subprocess_exec(*script, env=environment)
        code = await _end_of(process)
    except (FileNotFoundError, PermissionError) as error:
        click.echo(f"ksi: {script[0]}: {error.strerror}", err=True)
        return EXIT_NOT_FOUND
    finally:
        loop.remove_signal_handler(signal.SIGINT)
    return code if code >= 0 else 128 - code


async def _end_of(process: asyncio.subprocess.Process) -> int:
    try:
        return await process.wait()
    finally:
        if process.returncode is None:  # nobody would take what it asks
            process.terminate()
            await process.wait()
