"""Latency is measured at a steady pace while real work goes on."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from ksi.bench.latency import latencies, percentile, repeated


def test_a_percentile_is_the_value_that_so_many_do_not_exceed() -> None:
    ordered = [float(number) for number in range(1000)]
    assert [percentile(ordered, share) for share in (0.5, 0.99, 0.999)] == [500.0, 990.0, 999.0]
    assert percentile([3.0], 0.999) == 3.0


def test_work_goes_on_until_the_block_ends() -> None:
    done = threading.Semaphore(0)
    with repeated(done.release):
        assert all(done.acquire(timeout=10) for _ in range(3))
    while done.acquire(blocking=False):
        pass
    assert not done.acquire(blocking=False)


def test_what_fails_beside_the_queries_fails_the_measurement() -> None:
    failed = threading.Event()

    def work() -> None:
        failed.set()
        raise RuntimeError("the generator is gone")

    with pytest.raises(RuntimeError, match="gone"), repeated(work):
        assert failed.wait(10)


@pytest.mark.soak
def test_each_kind_of_work_has_its_latencies(tmp_path: Path) -> None:
    found = list(latencies(tmp_path, seconds=0.4, filled=640))
    assert len({latency.beside for latency in found}) == 5
    assert all(0 < latency.p50 <= latency.p99 <= latency.p999 <= latency.longest for latency in found)
    idle, *busy = found
    assert idle.written == 0
    assert all(latency.written > 0 for latency in busy)
