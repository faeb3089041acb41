"""How a row is measured: floor, KSI and peers by turns, several times, medians and ratios.

Machines are noisy and drift: figures of one run are compared with each other only, and the ratio is what counts.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence

import msgspec


class Sample(msgspec.Struct, frozen=True):
    """One repetition: operations a second, and CPU of the measured process in µs an operation."""

    rate: float
    cpu_us: float


class Contestant(msgspec.Struct, frozen=True):
    """Somebody who does the row's work. ``run()`` is one repetition; ``target`` is the ratio to the floor to reach."""

    name: str
    run: Callable[[], Sample]
    target: float | None = None


class Row(msgspec.Struct, frozen=True):
    """One kind of work; the first contestant is the floor. ``absent`` says which peers are not installed."""

    name: str
    contestants: Sequence[Contestant]
    absent: Sequence[str] = ()


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """Medians of one contestant; ``spread`` is (max - min) / median of its rates."""

    row: str
    name: str
    rate: float
    cpu_us: float
    ratio: float
    spread: float
    target: float | None
    repetitions: int

    @property
    def is_met(self) -> bool | None:
        return None if self.target is None else self.ratio >= self.target


def measure(row: Row, repetitions: int) -> list[Result]:
    """Run all contestants by turns.

    The ratio is the median of the ratios of neighbouring runs, so that a machine that grows slower meanwhile does not
    count against who comes last.
    """
    samples: dict[str, list[Sample]] = {contestant.name: [] for contestant in row.contestants}
    for contestant in row.contestants:
        contestant.run()
    for _ in range(repetitions):
        for contestant in row.contestants:
            samples[contestant.name].append(contestant.run())
    floor = samples[row.contestants[0].name]
    return [_result(row.name, contestant, samples[contestant.name], floor) for contestant in row.contestants]


def _result(row: str, contestant: Contestant, samples: Sequence[Sample], floor: Sequence[Sample]) -> Result:
    rates = [sample.rate for sample in samples]
    median = statistics.median(rates)
    return Result(
        row=row,
        name=contestant.name,
        rate=median,
        cpu_us=statistics.median(sample.cpu_us for sample in samples),
        ratio=statistics.median(mine.rate / its.rate for mine, its in zip(samples, floor, strict=True)),
        spread=(max(rates) - min(rates)) / median,
        target=contestant.target,
        repetitions=len(samples),
    )
