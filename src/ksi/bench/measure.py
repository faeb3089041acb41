"""How a row is measured: floor, KSI and peers by turns, several times, medians and ratios.

Machines are noisy and drift: figures of one run are compared with each other only, and the ratio is what counts.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence

import msgspec


class Sample(msgspec.Struct, frozen=True):
    """One repetition: operations a second, and CPU of the measured process in µs an operation."""

    rate: float
    cpu_us: float


class Stopwatch:
    """Measures this process, from now on."""

    def __init__(self) -> None:
        self._begin, self._cpu = time.perf_counter(), time.process_time()

    def sample(self, operations: int) -> Sample:
        """What ``operations`` took since the beginning."""
        seconds, cpu = time.perf_counter() - self._begin, time.process_time() - self._cpu
        return Sample(operations / seconds, cpu / operations * 1e6)


class Contestant(msgspec.Struct, frozen=True):
    """Somebody who does the row's work; ``run()`` is one repetition.

    Targets: ``target`` is the ratio to the floor to reach, ``against`` those to other contestants by name, and
    ``cpu_us_max`` the CPU that an operation may take. ``is_ours``: it is KSI.
    """

    name: str
    run: Callable[[], Sample]
    target: float | None = None
    against: Mapping[str, float] = {}
    cpu_us_max: float | None = None
    is_ours: bool = True


def rival(name: str, run: Callable[[], Sample]) -> Contestant:
    """A floor or a peer."""
    return Contestant(name, run, is_ours=False)


class Row(msgspec.Struct, frozen=True):
    """One kind of work; ratios are to the first contestant, the ``floor``. ``absent``: peers that are not installed."""

    name: str
    contestants: Sequence[Contestant]
    absent: Sequence[str] = ()
    floor: str = "the floor"


class Verdict(msgspec.Struct, frozen=True):
    """A target, and what was reached. ``than`` is whom it is about: the floor, a peer, or "µs CPU"."""

    than: str
    target: float
    reached: float
    is_met: bool


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """Medians of one contestant; ``spread`` is (max - min) / median of its rates, ``ratio`` is to ``floor``."""

    row: str
    name: str
    rate: float
    cpu_us: float
    floor: str
    ratio: float
    spread: float
    verdicts: Sequence[Verdict]
    repetitions: int
    is_ours: bool


CPU = "µs CPU"
Samples = Mapping[str, Sequence[Sample]]


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
    return [_result(row, contestant, samples) for contestant in row.contestants]


def _result(row: Row, contestant: Contestant, samples: Samples) -> Result:
    mine = samples[contestant.name]
    rates = [sample.rate for sample in mine]
    median = statistics.median(rates)
    return Result(
        row=row.name,
        name=contestant.name,
        rate=median,
        cpu_us=statistics.median(sample.cpu_us for sample in mine),
        floor=row.floor,
        ratio=_ratio(mine, samples[row.contestants[0].name]),
        spread=(max(rates) - min(rates)) / median,
        verdicts=list(_verdicts(row, contestant, samples)),
        repetitions=len(mine),
        is_ours=contestant.is_ours,
    )


def _verdicts(row: Row, contestant: Contestant, samples: Samples) -> Iterator[Verdict]:
    mine = samples[contestant.name]
    if contestant.target is not None:
        reached = _ratio(mine, samples[row.contestants[0].name])
        yield Verdict(row.floor, contestant.target, reached, reached >= contestant.target)
    for than, target in contestant.against.items():
        if than in samples:  # a peer may not be installed
            reached = _ratio(mine, samples[than])
            yield Verdict(than, target, reached, reached >= target)
    if contestant.cpu_us_max is not None:
        spent = statistics.median(sample.cpu_us for sample in mine)
        yield Verdict(CPU, contestant.cpu_us_max, spent, spent <= contestant.cpu_us_max)


def _ratio(samples: Sequence[Sample], others: Sequence[Sample]) -> float:
    return statistics.median(mine.rate / its.rate for mine, its in zip(samples, others, strict=True))
