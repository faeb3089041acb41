"""How long a query takes while the daemon has other work: commands, a rebuild, a slow subscriber, checkpoints."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import Any

import msgspec

from ksi.bench import wire
from ksi.bench.load import Load
from ksi.bench.plugin import KeptItems, item

WRITERS, LARGE_WRITERS = 64, 4
LARGE = 128 << 10
"""Bytes of a payload of which a checkpoint is due every hundred commands or so."""
LINES = 1_024
EVENT, COMMAND = "bench:echo_inline", "bench:put"
EVERY = 0.004
"""Seconds from one query to the next: rare enough that they do not wait for each other."""
LAG_MAX = 0.020
"""Seconds that no callback of the loop may last."""
CREDIT = 65_536
_encode, _decode = msgspec.json.encode, msgspec.json.decode


class Latency(msgspec.Struct, frozen=True, kw_only=True):
    """Queries at a steady pace while something else goes on; times in seconds, ``written`` in positions a second.

    ``lag_max`` is how late the daemon's loop was at most, ``is_met`` whether that is under :data:`LAG_MAX`.
    """

    beside: str
    queries: int
    written: float
    p50: float
    p99: float
    p999: float
    longest: float
    lag_median: float
    lag_max: float
    is_met: bool


class Caller:
    """A connection of its own, on which one request follows another."""

    def __init__(self, path: Path) -> None:
        self._peer = socket.socket(socket.AF_UNIX)
        self._peer.connect(str(path))
        self._answers = self._peer.makefile("rb")

    def __enter__(self) -> Caller:
        return self

    def __exit__(self, *_: object) -> None:
        self._answers.close()
        self._peer.close()

    def ask(self, event: str, data: Mapping[str, Any]) -> Any:
        self.send({"id": 1, "event": event, "data": data})
        answer = _decode(self._answers.readline())
        if not answer.get("ok"):
            raise RuntimeError(f"{event} is answered with {answer}")
        return answer["data"]

    def send(self, frame: Mapping[str, Any]) -> None:
        self._peer.sendall(_encode(frame) + b"\n")


def latencies(directory: Path, *, seconds: float, filled: int) -> Iterator[Latency]:
    """Each kind of other work for ``seconds``, on a log that begins with ``filled`` commands."""
    load, home = Load.build(directory), directory / "home"
    plugins = ["--plugin", "ksi.bench.plugin:Bench", "--plugin", "ksi.bench.lag:LoopLag"]
    with wire.server(["ksi.daemon", "--home", str(home), *plugins], home / "daemon.sock") as daemon:
        work = Work(load, daemon.path, directory)
        load.run(daemon.path, work.small, connections=WRITERS, window=1, count=filled)
        for beside, going_on in work.kinds().items():
            with going_on(), Caller(daemon.path) as caller:
                yield _measured(beside, caller, seconds)


def _measured(beside: str, caller: Caller, seconds: float) -> Latency:
    caller.ask("bench:lag", {})
    head, began = _head(caller), time.perf_counter()
    took = sorted(_asked(caller, began + seconds))
    written = (_head(caller) - head) / (time.perf_counter() - began)
    lag = caller.ask("bench:lag", {})
    return Latency(
        beside=beside,
        queries=len(took),
        written=written,
        p50=percentile(took, 0.5),
        p99=percentile(took, 0.99),
        p999=percentile(took, 0.999),
        longest=took[-1],
        lag_median=lag["median"],
        lag_max=lag["max"],
        is_met=lag["max"] <= LAG_MAX,
    )


def _asked(caller: Caller, until: float) -> Iterator[float]:
    """Each query counts from when it was due: otherwise a long one would hide those that it kept from being asked."""
    data, due = item(1), time.perf_counter()
    while due < until:
        early = due - time.perf_counter()
        if early > 0:
            time.sleep(early)
        began = time.perf_counter() if early > 0 else due
        caller.ask(EVENT, data)
        yield time.perf_counter() - began
        due += EVERY


def _head(caller: Caller) -> int:
    head: int | None = caller.ask("system:health", {})["head"]
    return head or 0


def percentile(ordered: list[float], share: float) -> float:
    """The value that ``share`` of all do not exceed."""
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


class Work:
    """What a daemon does beside the queries, each from the beginning to the end of a block."""

    def __init__(self, load: Load, path: Path, directory: Path) -> None:
        self._load, self._path = load, path
        self.small = directory / "small"
        self._large = directory / "large"
        self.small.write_bytes(b"".join(_command(number, item(number)) for number in range(LINES)))
        large = ({**item(number), "text": "x" * LARGE} for number in range(LARGE_WRITERS))
        self._large.write_bytes(b"".join(_command(number, data) for number, data in enumerate(large)))

    def kinds(self) -> dict[str, Callable[[], AbstractContextManager[object]]]:
        return {
            "nothing": ExitStack,
            f"{WRITERS} writers": lambda: repeated(self._write),
            "a projection rebuilds": lambda: repeated(self._rebuild),
            "a subscriber does not read": self._slow_subscriber,
            "checkpoints run": lambda: repeated(self._write_large),
        }

    def _write(self) -> None:
        self._load.run(self._path, self.small, connections=WRITERS, window=1, count=2_000)

    def _write_large(self) -> None:
        self._load.run(self._path, self._large, connections=LARGE_WRITERS, window=1, count=40)

    def _rebuild(self) -> None:
        with Caller(self._path) as caller:
            caller.ask("projection:rebuild", {"name": KeptItems.name})

    @contextmanager
    def _slow_subscriber(self) -> Iterator[None]:
        """It asks for everything from the start, and reads none of it while others write."""
        with Caller(self._path) as subscriber, repeated(self._write):
            data = {"pattern": "*", "after": "start"}
            subscriber.send({"id": 1, "event": "event:subscribe", "data": data, "stream": True, "credit": CREDIT})
            yield


def _command(number: int, data: Mapping[str, Any]) -> bytes:
    return _encode({"id": number, "event": COMMAND, "data": data}) + b"\n"


@contextmanager
def repeated(work: Callable[[], None]) -> Iterator[None]:
    """``work`` again and again in a thread, until the block ends; what it raised is raised then."""
    ended, failed = threading.Event(), list[Exception]()

    def run() -> None:
        try:
            while not ended.is_set():
                work()
        except Exception as error:  # noqa: BLE001  # raised where the block ends
            failed.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
    if failed:
        raise failed[0]


def line(latency: Latency) -> str:
    """A row of the table."""
    times = " ".join(
        f"{name} {seconds * 1e3:>7.2f}"
        for name, seconds in (
            ("p50", latency.p50),
            ("p99", latency.p99),
            ("p99.9", latency.p999),
            ("longest", latency.longest),
        )
    )
    return (
        f"{f'latency: a query while {latency.beside}':<52} {times} ms {latency.written:>8,.0f} written/s  loop lag "
        f"at most {latency.lag_max * 1e3:.1f} ms  target {LAG_MAX * 1e3:.0f} {'met' if latency.is_met else 'NOT MET'}"
    )
