"""``ksi bench``: which rows, how often, and the table."""

from __future__ import annotations

import argparse
import os
import platform
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from importlib.util import find_spec
from pathlib import Path

import msgspec

from ksi.bench import chart, curve, dispatch, fanout, features, http, latency, peers, store, sweeps, wire
from ksi.bench.measure import CPU, Result, Row, Verdict, measure

Rows = Callable[..., AbstractContextManager[list[Row]]]
SUITES: dict[str, tuple[Rows, int]] = {
    "dispatch": (dispatch.rows, 100_000),
    "wire": (wire.rows, 200_000),
    "http": (http.rows, 40_000),
    "fanout": (fanout.rows, 100_000),
    "store": (store.rows, 60_000),
    "peers": (peers.rows, 100_000),
    "sweeps": (sweeps.rows, 60_000),
}
"""Rows by name, with the operations of one repetition."""
CURVE, FEATURES, LATENCY, SWEEPS = "curve", "features", "latency", "sweeps"
COMMANDS = 300_000
"""How far the curve goes; it is measured only where it is named: minutes for each million, and the disk for them."""
REQUESTS = 30_000
"""Of each feature."""
SECONDS, FILLED = 10.0, 50_000
"""Of each kind of other work, and the commands that are there before."""
REPETITIONS, QUICK_REPETITIONS, QUICK_SHARE = 5, 3, 5


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="ksi bench", description="Measure the speed, beside floors and peers.")
    names = ", ".join([*(name for name in SUITES if name != SWEEPS), FEATURES, LATENCY, SWEEPS, CURVE])
    parser.add_argument("suites", nargs="*", default=[], metavar="SUITE", help=f"of {names}; all but the last two")
    parser.add_argument("--quick", action="store_true", help="fewer and shorter repetitions: a look, not a figure")
    parser.add_argument("--commands", type=int, default=COMMANDS, help=f"how far {CURVE} goes; {COMMANDS:,}")
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    parser.add_argument("--svg", type=Path, metavar="FILE", help="draw it into FILE too")
    given = parser.parse_args(arguments)
    wanted = given.suites or [*(name for name in SUITES if name != SWEEPS), FEATURES, LATENCY]
    unknown = [name for name in wanted if name not in (*SUITES, FEATURES, LATENCY, CURVE)]
    if unknown:
        parser.error(f"no suite {unknown[0]!r}: choose of {names}")
    if {"wire", "http", "fanout"} & set(wanted) and not find_spec("orjson"):
        sys.stderr.write("ksi bench: its floors need orjson: make bench, or pip install 'ksi[bench]'\n")
        return 1
    drawn: list[chart.Shown] = []
    for name in wanted:
        for shown, text in _shown(name, quick=given.quick, commands=given.commands):
            print(msgspec.json.encode(shown).decode() if given.json else text, flush=True)
            drawn.append(shown)
    if given.svg is not None:
        given.svg.write_text(chart.svg(drawn, caption=_caption(wanted, quick=given.quick)), encoding="utf-8")
    return 0


def _caption(suites: Sequence[str], *, quick: bool) -> str:
    words = " ".join([*suites, *(["--quick"] if quick else [])])
    cores, python = os.cpu_count(), platform.python_version()
    return f"ksi bench {words}: Python {python}, {cores} cores. Blue is KSI, a red line is a target."


def _shown(name: str, *, quick: bool, commands: int) -> Iterator[tuple[chart.Shown, str]]:
    """What is measured, each with its line of the table."""
    if name in SUITES:
        yield from ((result, line(result)) for result in run(name, quick=quick))
        return
    with tempfile.TemporaryDirectory(prefix="ksi-bench-") as folder:
        directory, share = Path(folder), QUICK_SHARE if quick else 1
        repetitions = QUICK_REPETITIONS if quick else REPETITIONS
        if name == CURVE:
            yield from ((mark, curve.line(mark)) for mark in curve.curve(directory, commands))
        elif name == FEATURES:
            found = features.features(directory, count=REQUESTS // share, repetitions=repetitions)
            yield from ((feature, features.line(feature)) for feature in found)
        else:
            measured = latency.latencies(directory, seconds=SECONDS / share, filled=FILLED // share)
            yield from ((each, latency.line(each)) for each in measured)


def run(name: str, *, quick: bool) -> Iterator[Result]:
    """Measure the rows of one suite."""
    suite, count = SUITES[name]
    repetitions = QUICK_REPETITIONS if quick else REPETITIONS
    with (
        tempfile.TemporaryDirectory(prefix="ksi-bench-") as directory,
        suite(Path(directory), count=count // QUICK_SHARE if quick else count) as rows,
    ):
        for row in rows:
            for absent in row.absent:
                print(f"{row.name}: {absent} is not installed (make bench installs it)", file=sys.stderr)
            yield from measure(row, repetitions)


def line(result: Result) -> str:
    """A row of the table, with a line of its own for each target that is not about the floor."""
    floor = [_verdict(verdict) for verdict in result.verdicts if verdict.than == result.floor]
    others = [
        f"{'':<52} {_beside(verdict):<51} {verdict.reached:>8.2f}{_verdict(verdict)}"
        for verdict in result.verdicts
        if verdict.than != result.floor
    ]
    first = (
        f"{result.row:<52} {result.name:<38} {result.rate:>11,.0f}/s {result.cpu_us:>8.2f} µs CPU "
        f"{result.ratio:>6.2f} of {result.floor}  ±{result.spread / 2:.0%}{''.join(floor)}"
    )
    return "\n".join([first, *others])


def _beside(verdict: Verdict) -> str:
    return "… µs CPU at most" if verdict.than == CPU else f"… times {verdict.than}"


def _verdict(verdict: Verdict) -> str:
    return f"  target {verdict.target:.2f} {'met' if verdict.is_met else 'NOT MET'}"
