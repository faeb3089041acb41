"""Doors for bytes: the Unix socket and its connections."""
