"""A server of MCP for tests, by hand: it is there at once, and can break as no package would let it."""

from __future__ import annotations

import json
import os
import sys
from typing import Any

DESCRIPTIONS = {
    "add": "Add two numbers.",
    "process": "Say which process this is, and what it was given.",
    "fail": "Say that it failed.",
    "die": "End in mid-call.",
    "hang": "Never answer.",
    "shout": "Say what is no message.",
    "swell": "Say a line without an end.",
}
NUMBERS = {"a": {"type": "integer"}, "b": {"type": "integer"}}


def answer(method: str, params: dict[str, Any]) -> dict[str, Any] | None:
    match method:
        case "initialize":
            about = {"serverInfo": {"name": "tools", "version": "1"}, "capabilities": {"tools": {}}}
            return {"protocolVersion": params["protocolVersion"], **about}
        case "tools/list":
            return {"tools": [described(name) for name in DESCRIPTIONS]}
        case "tools/call":
            return called(params["name"], params.get("arguments", {}))
    return None


def described(name: str) -> dict[str, Any]:
    schema = {"type": "object", "properties": NUMBERS if name == "add" else {}}
    return {"name": name, "description": DESCRIPTIONS[name], "inputSchema": schema}


def called(tool: str, arguments: dict[str, Any]) -> dict[str, Any] | None:
    match tool:
        case "add":
            return text(arguments["a"] + arguments["b"])
        case "process":
            given = {"greeting": os.environ.get("GREETING"), "key": os.environ.get("OPENAI_API_KEY")}
            return text(json.dumps({"pid": os.getpid(), **given}))
        case "fail":
            return {**text("no such luck"), "isError": True}
        case "die":
            sys.exit("out of paper")
        case "shout":
            say("hm\n" * 99)
        case "swell":
            say("x" * (5 << 20))
    return None


def text(said: object) -> dict[str, Any]:
    return {"content": [{"type": "text", "text": str(said)}]}


def say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def main() -> None:
    for line in sys.stdin:
        asked = json.loads(line)
        if "id" not in asked:
            continue
        result = answer(asked["method"], asked.get("params", {}))
        said: dict[str, Any] = {"jsonrpc": "2.0", "id": asked["id"]}
        if result is not None:
            say(json.dumps({**said, "result": result}))
        elif asked["method"] != "tools/call":
            say(json.dumps({**said, "error": {"code": -32601, "message": "no such method"}}))


if __name__ == "__main__":
    main()
