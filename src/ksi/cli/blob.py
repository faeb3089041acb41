"""``ksi blob``: large payloads, to the daemon and back."""

from __future__ import annotations

import base64
import hashlib
import os
from pathlib import Path

import click

from ksi.cli.invocation import Invocation, family
from ksi.cli.output import Record, json_line, size
from ksi.cli.reach import run
from ksi.client.client import EventClient, Options
from ksi.core import ids
from ksi.core.blobs import PIECE_BYTES_MAX
from ksi.core.errors import UnavailableError

FILE = click.Path(path_type=Path, dir_okay=False)


@family()
def blob() -> None:
    """Keep large payloads beside the log; events name them by their hash."""


@blob.command()
@click.argument("file", type=FILE)
@click.option("--media-type", default="application/octet-stream", show_default=True, help="What it is.")
@click.option("--subject", metavar="NAME", help="Whose personal data this is: `ksi erase NAME` removes it.")
@click.pass_obj
def put(invocation: Invocation, file: Path, media_type: str, subject: str | None) -> None:
    """Put FILE beside the log, and print its hash."""
    made = run(invocation, lambda client: _put(client, file, media_type, Options(subject=subject)))
    click.echo(json_line(made) if invocation.json else f"{made['blob']}  {size(made['bytes'])}")


async def _put(client: EventClient, file: Path, media_type: str, options: Options) -> Record:
    upload, digest, offset = ids.text(ids.new_id()), hashlib.sha256(), 0
    with file.open("rb") as source:
        while piece := source.read(PIECE_BYTES_MAX):
            await client.request("blob:write", upload=upload, offset=offset, data=base64.b64encode(piece).decode())
            digest.update(piece)
            offset += len(piece)
    if not offset:
        await client.request("blob:write", upload=upload, data="")
    said = {"upload": upload, "blob": digest.hexdigest(), "media_type": media_type}
    made: Record = await client.request("blob:put", said, options=options)
    return made


@blob.command()
@click.argument("hash")
@click.argument("file", type=FILE)
@click.pass_obj
def get(invocation: Invocation, hash: str, file: Path) -> None:
    """Write the blob with this HASH into FILE, a new one, and check it."""
    run(invocation, lambda client: _get(client, hash, file))
    click.echo(json_line({"file": str(file), "blob": hash}) if invocation.json else str(file))


async def _get(client: EventClient, blob: str, file: Path) -> None:
    part, digest = file.with_name(f"{file.name}.{os.getpid()}.part"), hashlib.sha256()
    try:
        with part.open("xb") as target:
            async for piece in client.stream("blob:get", blob=blob):
                data = base64.b64decode(piece.data["data"])
                digest.update(data)
                target.write(data)
        if digest.hexdigest() != blob:
            raise UnavailableError(f"the blob {blob}", "it is not what was put")
        os.link(part, file)
    finally:
        part.unlink(missing_ok=True)
