"""What only node can judge: TypeScript's compiler, and the parser of AsyncAPI's own project."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from ksi.codegen import asyncapi, typescript
from tests.codegen.built_in import built_in, catalogue_from
from tests.codegen.painting import Painting
from tests.docs.pages import ROOT, only

HOW_TO = ROOT / "docs" / "how-to"
INSTALLED = Path(sys.prefix) / "node"
PARSE = Path(__file__).parent / "node" / "parse.mjs"
USES = """
import type { KsiClient, KsiEventName, KsiEvents } from "./types";

export async function right(ksi: KsiClient): Promise<void> {
  const version: number = (await ksi.call("state:set", { key: "a", value: 1 })).version;
  await ksi.call("system:health");
  await ksi.call("state:list", { limit: version }, { timeout: 1, signal: AbortSignal.timeout(1) });
  const stream = ksi.stream("agent:send_message", { agent: "a", text: "b", from: "c" });
  for await (const chunk of stream) console.log(chunk.data.text.length, chunk.at);
  const tokens: number = (await stream.end).usage.input_tokens;
  const name: KsiEventName = "state:get";
  const code: KsiEvents["state:set"]["error"] = "wrong_expected_version";
  console.log(tokens, name, code);
}

export async function wrong(ksi: KsiClient): Promise<void> {
  await ksi.call("state:set", { kee: "a", value: 1 }); // wrong field
  await ksi.call("state:sett", { key: "a", value: 1 }); // wrong event
  await ksi.call("state:set", { key: 1, value: 1 }); // wrong type
  await ksi.call("state:set", { value: 1 }); // missing field
  await ksi.call("state:set"); // missing payload
  (await ksi.call("state:set", { key: "a", value: 1 })).verzion; // wrong answer
  ksi.stream("state:set", { key: "a", value: 1 }); // no stream
  for await (const chunk of ksi.stream("agent:send_message", { agent: "a", text: "b" })) {
    const number: number = chunk.data.text; // wrong chunk
  }
  const code: KsiEvents["state:set"]["error"] = "wrong"; // wrong code
}
"""

pytestmark = pytest.mark.skipif(
    shutil.which("node") is None or not (INSTALLED / ".installed").exists(),
    reason="node and what `make test-deps` installs for it are not here",
)


def node(*arguments: str | Path, cwd: Path = INSTALLED) -> str:
    done = subprocess.run(["node", *arguments], cwd=cwd, capture_output=True, text=True, check=False)
    assert done.stderr == ""
    return done.stdout


def compiled(directory: Path) -> list[str]:
    """What strict TypeScript has against the files of ``directory``, a line each."""
    options = {
        "strict": True,
        "exactOptionalPropertyTypes": True,
        "noEmit": True,
        "target": "es2022",
        "lib": ["es2022", "dom"],
        "types": [],
        "module": "esnext",
        "moduleResolution": "bundler",
    }
    (directory / "tsconfig.json").write_bytes(msgspec.json.encode({"compilerOptions": options}))
    said = node(INSTALLED / "node_modules" / "typescript" / "bin" / "tsc", "--pretty", "false", cwd=directory)
    return [line for line in said.splitlines() if not line.startswith(" ")]


def test_strict_typescript_takes_right_calls_and_refuses_wrong_ones(tmp_path: Path) -> None:
    (tmp_path / "types.ts").write_text(typescript.module(built_in()))
    (tmp_path / "painting.ts").write_text(typescript.module(catalogue_from(Painting)))
    (tmp_path / "uses.ts").write_text(USES)
    (tmp_path / "page.ts").write_text(only(HOW_TO / "describe-the-api.md", "typescript", "KsiClient"))
    wrong = {number for number, line in enumerate(USES.splitlines(), 1) if "// " in line}
    assert {line.partition(",")[0] for line in compiled(tmp_path)} == {f"uses.ts({number}" for number in wrong}


def test_the_parser_of_asyncapi_takes_the_documents(tmp_path: Path) -> None:
    catalogues = {"built-in.json": built_in(), "painting.json": catalogue_from(Painting)}
    for name, catalogue in catalogues.items():
        (tmp_path / name).write_bytes(msgspec.json.encode(asyncapi.document(catalogue)))
    operations = [len([*c.events, *(each for each in c.events if each.is_stream)]) for c in catalogues.values()]
    assert node(PARSE, *(tmp_path / name for name in catalogues)).splitlines() == [str(count) for count in operations]
