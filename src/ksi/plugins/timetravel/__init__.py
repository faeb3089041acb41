"""Time travel: what was, what made it so, and the same once more."""

from ksi.plugins.timetravel.plugin import TimeTravel

__all__ = ["TimeTravel"]
