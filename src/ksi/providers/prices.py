"""What models cost. Money is in micro-dollars, whole numbers: a sum of floats would not be what was paid.

Prices change: this table is as of :data:`AS_OF`, and ``[prices]`` of the configuration counts more.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import msgspec

AS_OF = "2025-11-24"
FREE = ("local", "script", "replay")
"""Providers whose answers cost nothing."""
_VERSION = re.compile(r"[-@](\d{4}-\d\d-\d\d|\d{8}|latest)")
"""What stands behind a name for the same model at the same price; more of it may be a dearer model."""


class Price(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Micro-dollars for a million tokens, read and written: 1,000,000 is one dollar.

    ``as_of`` is the day of the table that it comes from; None where the configuration says it, or it costs nothing.
    """

    input: int
    output: int
    as_of: str | None = None

    def cost(self, *, input_tokens: int, output_tokens: int) -> int:
        """Micro-dollars, rounded up."""
        return -(-(input_tokens * self.input + output_tokens * self.output) // 1_000_000)


def dollars(amount: float) -> int:
    """Micro-dollars."""
    return round(amount * 1_000_000)


def price_of(provider: str, model: str, configured: Mapping[str, Price]) -> Price | None:
    """The price of a model, by its name, with or without a date behind it; None where nobody knows it."""
    if provider in FREE:
        return Price(0, 0)
    if model in configured:
        return configured[model]
    name = next((name for name in _DOLLARS if model == name or _is_version(model, name)), None)
    if name is None:
        return None
    read, written = _DOLLARS[name]
    return Price(dollars(read), dollars(written), as_of=AS_OF)


def _is_version(model: str, name: str) -> bool:
    return model.startswith(name) and _VERSION.fullmatch(model, len(name)) is not None


_DOLLARS: Mapping[str, tuple[float, float]] = {
    # dollars for a million tokens read, and written; from the providers' own pages
    "gpt-5.1": (1.25, 10.00),
    "gpt-5": (1.25, 10.00),
    "gpt-5-mini": (0.25, 2.00),
    "gpt-5-nano": (0.05, 0.40),
    "gpt-5-pro": (15.00, 120.00),
    "gpt-4.1": (2.00, 8.00),
    "gpt-4.1-mini": (0.40, 1.60),
    "gpt-4.1-nano": (0.10, 0.40),
    "gpt-4o": (2.50, 10.00),
    "gpt-4o-mini": (0.15, 0.60),
    "o3": (2.00, 8.00),
    "o3-mini": (1.10, 4.40),
    "o3-pro": (20.00, 80.00),
    "o4-mini": (1.10, 4.40),
    "claude-opus-4-5": (5.00, 25.00),
    "claude-opus-4-1": (15.00, 75.00),
    "claude-opus-4": (15.00, 75.00),
    "claude-sonnet-4-5": (3.00, 15.00),
    "claude-sonnet-4": (3.00, 15.00),
    "claude-haiku-4-5": (1.00, 5.00),
    "claude-3-7-sonnet": (3.00, 15.00),
    "claude-3-5-sonnet": (3.00, 15.00),
    "claude-3-5-haiku": (0.80, 4.00),
    "claude-3-haiku": (0.25, 1.25),
}
