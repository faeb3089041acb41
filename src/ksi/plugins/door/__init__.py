"""The door for agents that know nothing of KSI: what a script asks of a model is recorded, and served again."""

from ksi.plugins.door.plugin import Doors

__all__ = ["Doors"]
