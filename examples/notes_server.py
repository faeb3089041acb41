"""A server of MCP with two tools: notes that an agent can write and read. Needs the extra ``mcp``.

``python notes_server.py`` speaks on stdin and stdout, ``python notes_server.py http`` at http://127.0.0.1:8000/mcp.
"""

from __future__ import annotations

import sys

from mcp.server import MCPServer

server = MCPServer("notes")
notes: dict[str, str] = {}


@server.tool()
def write_note(name: str, text: str) -> str:
    """Keep a note under a name."""
    notes[name] = text
    return f"{name} is kept"


@server.tool()
def read_note(name: str) -> str:
    """Read the note of a name."""
    return notes.get(name, "there is none")


if __name__ == "__main__":
    server.run("streamable-http" if "http" in sys.argv[1:] else "stdio")
