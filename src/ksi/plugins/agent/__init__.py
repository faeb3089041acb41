"""Agents: a name, instructions, tools and a conversation; each message to one is a turn that a model answers."""

from ksi.plugins.agent.plugin import Agent

__all__ = ["Agent"]
