"""The Model Context Protocol, both ways: KSI for its clients, and its servers' tools for agents."""

from ksi.plugins.mcp.plugin import Mcp
from ksi.plugins.mcp.servers import McpServers

__all__ = ["Mcp", "McpServers"]
