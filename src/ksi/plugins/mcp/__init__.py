"""KSI for clients of the Model Context Protocol: events as tools, the log and conversations as resources."""

from ksi.plugins.mcp.plugin import Mcp

__all__ = ["Mcp"]
