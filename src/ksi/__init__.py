"""An agent runtime you can kill, rewind and rerun."""

__version__ = "0.1.0"
