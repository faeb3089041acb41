"""What models cost. Money is in micro-dollars, whole numbers: a sum of floats would not be what was paid.

Prices change: this table is as of :data:`AS_OF`, and ``[prices]`` of the configuration counts more.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

AS_OF = "2025-06-01"
FREE = ("local", "script", "replay")
"""Providers whose answers cost nothing."""


class Price(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Micro-dollars for a million tokens, read and written: 1,000,000 is one dollar."""

    input: int
    output: int

    def cost(self, *, input_tokens: int, output_tokens: int) -> int:
        """Micro-dollars, rounded up."""
        return -(-(input_tokens * self.input + output_tokens * self.output) // 1_000_000)


def dollars(amount: float) -> int:
    """Micro-dollars."""
    return round(amount * 1_000_000)


def price_of(provider: str, model: str, configured: Mapping[str, Price]) -> Price | None:
    """The price of a model, by its name or the longest known beginning of it; None where nobody knows it."""
    if provider in FREE:
        return Price(0, 0)
    if model in configured:
        return configured[model]
    known = [name for name in _DOLLARS if model.startswith(name)]
    return Price(*map(dollars, _DOLLARS[max(known, key=len)])) if known else None


_DOLLARS: Mapping[str, tuple[float, float]] = {
    # dollars for a million tokens read, and written; from the providers' own pages
    "gpt-4.1": (2.00, 8.00),
    "gpt-4.1-mini": (0.40, 1.60),
    "gpt-4.1-nano": (0.10, 0.40),
    "gpt-4o": (2.50, 10.00),
    "gpt-4o-mini": (0.15, 0.60),
    "o3": (2.00, 8.00),
    "o4-mini": (1.10, 4.40),
    "claude-opus-4": (15.00, 75.00),
    "claude-sonnet-4": (3.00, 15.00),
    "claude-3-7-sonnet": (3.00, 15.00),
    "claude-3-5-sonnet": (3.00, 15.00),
    "claude-3-5-haiku": (0.80, 4.00),
    "claude-3-haiku": (0.25, 1.25),
}
