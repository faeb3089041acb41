"""The picture shows every row with its bars, and where the targets are."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import pytest

from ksi.bench import chart, main
from ksi.bench.features import Feature
from ksi.bench.latency import Latency
from ksi.bench.measure import Contestant, Row, Sample, measure, rival

SVG = "{http://www.w3.org/2000/svg}"


def row(name: str) -> Row:
    return Row(name, [rival("bare", lambda: Sample(100.0, 1.0)), Contestant("KSI", lambda: Sample(50.0, 2.0), 0.6)])


def drawn(text: str) -> ElementTree.Element:
    return ElementTree.fromstring(text)


def test_a_bar_is_as_long_as_its_rate_and_the_target_stands_where_the_floor_says() -> None:
    picture = drawn(chart.svg(measure(row("row"), 1), caption="here"))
    bare, ours = picture.findall(f"{SVG}rect")
    assert (float(bare.attrib["width"]), float(ours.attrib["width"])) == (chart.BARS, chart.BARS / 2)
    assert [bar.attrib["class"] for bar in (bare, ours)] == ["bar", "bar ours"]
    (target,) = picture.findall(f"{SVG}line")
    assert float(target.attrib["x1"]) == chart.LABELS + 0.6 * chart.BARS


def test_each_row_and_each_kind_has_a_panel_of_its_own() -> None:
    latency = Latency(
        beside="nothing",
        queries=9,
        written=0,
        p50=0.001,
        p99=0.002,
        p999=0.003,
        longest=0.004,
        lag_median=0.0,
        lag_max=0.001,
        is_met=True,
    )
    shown: list[chart.Shown] = [
        *measure(row("one"), 1),
        *measure(row("two"), 1),
        Feature("permission", 3.0, 0.4, 0.1),
        latency,
    ]
    panels = list(chart.panels(shown))
    assert [panel.title.partition(":")[0] for panel in panels] == ["one", "two", "features", "latency"]
    assert [len(panel.bars) for panel in panels] == [2, 2, 1, 1]


def test_what_a_name_holds_is_text() -> None:
    picture = drawn(chart.svg(measure(row("a <row> & more"), 1), caption="<here>"))
    assert "a <row> & more" in [text.text for text in picture.iter(f"{SVG}text")]


def test_the_bench_draws_what_it_measured(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "bench.svg"
    assert main.main(["curve", "--commands", "1000", "--svg", str(file)]) == 0
    texts = [text.text or "" for text in drawn(file.read_text()).iter(f"{SVG}text")]
    assert "1,000" in texts
    assert texts[-1].startswith("ksi bench curve: Python 3.")
