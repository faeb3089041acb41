"""What was measured as a picture: a panel of bars for each row, in SVG that is written by hand."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape
from itertools import groupby

import msgspec

from ksi.bench.curve import Mark
from ksi.bench.features import Feature
from ksi.bench.latency import Latency
from ksi.bench.measure import Result

Shown = Result | Mark | Feature | Latency
WIDTH, LABELS, BARS, LINE, GAP = 1_000, 330, 400, 22, 18
"""Pixels: the picture, its column of labels, its longest bar, a line, and what is between panels."""
STYLE = """
  text { font: 13px system-ui, sans-serif; fill: #1f2328; }
  .title { font-weight: 600; }
  .value { font-size: 12px; fill: #59636e; }
  .bar { fill: #afb8c1; }
  .ours { fill: #0969da; }
  .target { stroke: #d1242f; stroke-width: 2; }
  @media (prefers-color-scheme: dark) {
    text { fill: #f0f6fc; }
    .value { fill: #9198a1; }
    .bar { fill: #656c76; }
    .ours { fill: #4493f8; }
  }
"""


class Bar(msgspec.Struct, frozen=True):
    """``target`` is the value to reach, if there is one."""

    label: str
    value: float
    text: str
    is_ours: bool = True
    target: float | None = None


class Panel(msgspec.Struct, frozen=True):
    """Bars of one measure; the longest takes the whole width."""

    title: str
    bars: Sequence[Bar]

    @property
    def height(self) -> int:
        return LINE * (1 + len(self.bars)) + GAP


def panels(shown: Sequence[Shown]) -> Iterator[Panel]:
    """One for each row, and one for each suite of another kind."""
    for title, group in groupby(shown, _title):
        together = list(group)
        yield Panel(title, [bar for each in together for bar in _bars(each, together[0])])


def svg(shown: Sequence[Shown], *, caption: str) -> str:
    """The picture. ``caption`` says where and how it was measured."""
    drawn: list[str] = []
    y = GAP
    for panel in panels(shown):
        drawn += _panel(panel, y)
        y += panel.height
    drawn.append(_text(0, y + LINE - 7, caption, "value"))
    height = y + LINE + GAP
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="-{GAP} 0 {WIDTH + 2 * GAP} {height}" role="img">'
    return "\n".join([head, f"<title>{escape(caption)}</title>", f"<style>{STYLE}</style>", *drawn, "</svg>", ""])


# ── what is shown ────────────────────────────────────────────────────────────────────────────────────────────────────
def _title(shown: Shown) -> str:
    match shown:
        case Result():
            return shown.row
        case Mark():
            return "curve: commands a second, as the log grows"
        case Feature():
            return "features: CPU that each adds to a request"
        case Latency():
            return "latency: a query while the daemon has other work, p99"


def _bars(shown: Shown, first: Shown) -> Iterator[Bar]:
    match shown:
        case Result():
            text = f"{shown.rate:,.0f}/s, {shown.ratio:.2f} of {shown.floor}"
            yield Bar(shown.name, shown.rate, text, shown.is_ours, _target(shown, first))
        case Mark():
            yield Bar(f"{shown.commands:,}", shown.rate, f"{shown.rate:,.0f}/s")
        case Feature():
            yield Bar(shown.name, max(0.0, shown.adds_us), f"{shown.adds_us:+.2f} µs, {shown.cpu_us:.2f} with it")
        case Latency():
            text = f"{shown.p99 * 1e3:.2f} ms, p50 {shown.p50 * 1e3:.2f}, p99.9 {shown.p999 * 1e3:.2f}"
            yield Bar(shown.beside, shown.p99, text)


def _target(result: Result, first: Shown) -> float | None:
    """The rate to reach beside the floor."""
    assert isinstance(first, Result)
    targets = [verdict.target for verdict in result.verdicts if verdict.than == result.floor]
    return targets[0] * first.rate if targets else None


# ── drawing ──────────────────────────────────────────────────────────────────────────────────────────────────────────
def _panel(panel: Panel, y: int) -> Iterator[str]:
    yield _text(0, y + LINE - 8, panel.title, "title")
    most = max([bar.value for bar in panel.bars] + [bar.target or 0.0 for bar in panel.bars]) or 1.0
    for number, bar in enumerate(panel.bars, 1):
        yield from _bar(bar, y + number * LINE, BARS / most)


def _bar(bar: Bar, y: int, scale: float) -> Iterator[str]:
    width = max(1.0, bar.value * scale)
    kind = "bar ours" if bar.is_ours else "bar"
    yield _text(0, y + LINE - 8, bar.label)
    yield f'<rect class="{kind}" x="{LABELS}" y="{y + 3}" width="{width:.1f}" height="{LINE - 6}"/>'
    end = width
    if bar.target is not None:
        at = bar.target * scale
        end = max(end, at)
        x = f"{LABELS + at:.1f}"
        yield f'<line class="target" x1="{x}" x2="{x}" y1="{y + 1}" y2="{y + LINE - 1}"/>'
    yield _text(LABELS + end + 8, y + LINE - 8, bar.text, "value")


def _text(x: float, y: float, text: str, kind: str = "") -> str:
    named = f' class="{kind}"' if kind else ""
    return f'<text{named} x="{x:.1f}" y="{y:.1f}">{escape(text)}</text>'
