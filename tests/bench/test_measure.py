"""What ran side by side is compared: by the ratios of neighbouring runs, against the floor and against peers."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import cycle

import pytest

from ksi.bench import main
from ksi.bench.measure import CPU, Contestant, Row, Sample, measure


def contestant(
    name: str,
    *rates: float,
    target: float | None = None,
    against: Mapping[str, float] | None = None,
    cpu_us_max: float | None = None,
) -> Contestant:
    """One that reaches these rates by turns, with 1 µs of CPU each; the first run of all is the warm-up."""
    samples = cycle([Sample(rate, 1.0) for rate in rates])
    next_sample = iter([Sample(1.0, 1.0)])
    return Contestant(name, lambda: next(next_sample, None) or next(samples), target, against or {}, cpu_us_max)


def test_a_machine_that_grows_slower_does_not_change_the_ratio() -> None:
    row = Row("row", [contestant("floor", 100, 50, 25), contestant("mine", 50, 25, 12.5)])
    _, mine = measure(row, 3)
    assert mine.ratio == 0.5


def test_the_median_stands_against_one_bad_run() -> None:
    row = Row("row", [contestant("floor", 100, 100, 100), contestant("mine", 90, 1, 90)])
    _, mine = measure(row, 3)
    assert (mine.rate, mine.ratio) == (90, 0.9)
    assert mine.spread == pytest.approx(89 / 90)


def test_a_target_is_met_or_not_and_the_floor_has_none() -> None:
    contestants = [contestant("floor", 10), contestant("fast", 5, target=0.5), contestant("slow", 4.9, target=0.5)]
    floor, fast, slow = measure(Row("row", contestants), 1)
    assert [[verdict.is_met for verdict in each.verdicts] for each in (floor, fast, slow)] == [[], [True], [False]]
    assert "NOT MET" in main.line(slow)


def test_a_target_against_a_peer_is_judged_by_the_ratio_to_it_and_passed_over_where_it_is_not_installed() -> None:
    against = {"peer": 4.0, "fast peer": 2.0, "absent": 1.0}
    row = Row("row", [contestant("KSI", 10, against=against), contestant("peer", 2), contestant("fast peer", 8)])
    (met, missed) = measure(row, 1)[0].verdicts
    assert (met.than, met.reached, met.is_met) == ("peer", 5.0, True)
    assert (missed.than, missed.reached, missed.is_met) == ("fast peer", 1.25, False)


def test_the_cpu_of_an_operation_may_have_a_limit() -> None:
    row = Row("row", [contestant("frugal", 10, cpu_us_max=1.0), contestant("greedy", 10, cpu_us_max=0.9)])
    frugal, greedy = measure(row, 1)
    assert [(verdict.than, verdict.is_met) for each in (frugal, greedy) for verdict in each.verdicts] == [
        (CPU, True),
        (CPU, False),
    ]
