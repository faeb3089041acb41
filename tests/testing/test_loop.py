"""The virtual loop: time moves only when nothing else can happen, and a deadlock is an error."""

import asyncio
import socket
import threading
import time
from collections.abc import Iterator
from contextvars import ContextVar
from functools import partial

import pytest

from ksi.core.clock import utc
from ksi.core.threads import InlineThreads, SystemThreads, Threads, settle
from ksi.testing.loop import START, CountedThreads, DeadlockError, ManualClock, VirtualClockLoop, run

colour: ContextVar[str] = ContextVar("colour", default="none")


@pytest.fixture
def loop() -> Iterator[VirtualClockLoop]:
    loop = VirtualClockLoop()
    yield loop
    loop.close()


def test_an_hour_of_sleep_takes_no_time_and_is_an_hour_to_the_clock(loop: VirtualClockLoop) -> None:
    began = time.monotonic()
    loop.run_until_complete(asyncio.sleep(3600))
    assert loop.time() == loop.clock.monotonic() == 3600
    assert loop.clock.time_us() - ManualClock().time_us() == 3_600_000_000
    assert time.monotonic() - began < 5


def test_timers_fire_in_the_order_of_their_times_at_exactly_those(loop: VirtualClockLoop) -> None:
    fired: list[tuple[str, float]] = []
    for name, delay in (("c", 0.3), ("a", 0.1), ("b", 0.2)):
        loop.call_later(delay, lambda name: fired.append((name, loop.time())), name)
    loop.run_until_complete(asyncio.sleep(1))
    assert [name for name, _ in fired] == ["a", "b", "c"]
    assert [at for _, at in fired] == pytest.approx([0.1, 0.2, 0.3])


def test_a_deadlock_is_an_error_that_names_who_waits_and_where() -> None:
    async def wait_for_nobody() -> None:
        await asyncio.Event().wait()

    async def main() -> None:
        waiter = asyncio.create_task(wait_for_nobody(), name="the waiter")
        await waiter

    with pytest.raises(DeadlockError, match=r"the waiter: .*locks\.py") as caught:
        run(main())
    assert "nothing is ready" in str(caught.value)


def test_a_ticker_does_not_hide_a_deadlock_for_ever() -> None:
    async def tick() -> None:
        while True:  # noqa: ASYNC110  # the ticker is what this test is about
            await asyncio.sleep(60)

    async def main() -> None:
        ticker = asyncio.create_task(tick())
        await asyncio.Event().wait()
        ticker.cancel()

    with pytest.raises(DeadlockError, match="86400 virtual seconds"):
        run(main())


def test_a_task_that_only_spins_is_a_deadlock_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ksi.testing.loop.TURNS_MAX", 1000)

    async def main() -> None:
        while True:  # noqa: ASYNC110  # the spinning is what this test is about
            await asyncio.sleep(0)

    with pytest.raises(DeadlockError, match="1000 turns passed and no time"):
        run(main())


def test_time_stands_still_while_a_thread_works(loop: VirtualClockLoop) -> None:
    release = threading.Event()

    async def main() -> str:
        work = asyncio.create_task(asyncio.to_thread(release.wait, 10))
        threading.Timer(0.05, release.set).start()
        async with asyncio.timeout(0.001):
            assert await work
        return "in time"

    assert loop.run_until_complete(main()) == "in time"


def test_time_stands_still_while_a_counted_job_works(loop: VirtualClockLoop) -> None:
    async def main() -> float:
        threads = CountedThreads(loop)
        async with asyncio.timeout(0.001):
            await threads.run("writer", lambda: threading.Event().wait(0.05))
        threads.close()
        return loop.time()

    assert loop.run_until_complete(main()) == 0


def test_time_stands_still_while_something_declared_is_outside(loop: VirtualClockLoop) -> None:
    ours, theirs = socket.socketpair()
    ours.setblocking(False)

    async def main() -> bytes:
        threading.Timer(0.05, theirs.send, [b"hello"]).start()
        with loop.outside("the peer"):
            async with asyncio.timeout(0.001):
                return await loop.sock_recv(ours, 5)

    with ours, theirs:
        assert loop.run_until_complete(main()) == b"hello"


def test_time_passes_beside_an_open_connection_on_which_nobody_writes(loop: VirtualClockLoop) -> None:
    ours, theirs = socket.socketpair()

    async def main() -> None:
        reader, writer = await asyncio.open_connection(sock=ours)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(30):
                await reader.read(1)
        theirs.send(b"late")
        assert await reader.read(4) == b"late"
        writer.close()
        await writer.wait_closed()

    with theirs:
        loop.run_until_complete(main())
    assert loop.time() == 30


def test_something_outside_that_never_comes_is_named(loop: VirtualClockLoop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ksi.testing.loop.PATIENCE", 0.01)

    async def main() -> None:
        with loop.outside("the child process"):
            await asyncio.Event().wait()

    with pytest.raises(DeadlockError, match="the child process"):
        loop.run_until_complete(main())


def order_of_two_tasks(seed: int | None) -> str:
    async def main() -> str:
        order: list[str] = []

        async def note(name: str) -> None:
            order.append(name)

        await asyncio.gather(note("a"), note("b"))
        return "".join(order)

    return run(main(), seed=seed)


def test_without_a_seed_tasks_run_in_the_order_of_their_birth() -> None:
    assert order_of_two_tasks(None) == "ab"


def test_seeds_find_the_other_order_and_each_repeats_its_own() -> None:
    orders = [order_of_two_tasks(seed) for seed in range(20)]
    assert set(orders) == {"ab", "ba"}
    assert orders == [order_of_two_tasks(seed) for seed in range(20)]


def test_a_seeded_loop_keeps_the_bytes_of_a_connection_in_order() -> None:
    async def main() -> bytes:
        ours, theirs = socket.socketpair()
        reader, writer = await asyncio.open_connection(sock=ours)
        _, other = await asyncio.open_connection(sock=theirs)
        for number in range(100):
            other.write(b"%d " % number)
            await asyncio.sleep(0)
        other.close()
        text = await reader.read()
        writer.close()
        await asyncio.gather(writer.wait_closed(), other.wait_closed())
        return text

    for seed in range(5):
        assert run(main(), seed=seed) == b"".join(b"%d " % number for number in range(100))


def test_the_wall_clock_may_go_back_and_monotonic_time_does_not() -> None:
    clock = ManualClock()
    clock.advance(10)
    clock.shift_wall(-60)
    assert clock.monotonic() == 10
    assert (utc(clock.time_us()) - START).total_seconds() == -50
    with pytest.raises(ValueError, match="does not go back"):
        clock.advance(-1)


def test_time_that_a_test_lets_pass_fires_what_is_due(loop: VirtualClockLoop) -> None:
    async def main() -> None:
        sleeper = asyncio.create_task(asyncio.sleep(60))
        await asyncio.sleep(0)
        loop.clock.advance(60)
        await sleeper
        assert loop.time() == 60

    loop.run_until_complete(main())


# ── threads: the same promises, real and inline ──────────────────────────────────────────────────────────────────────
@pytest.fixture(params=["inline", "system", "counted"])
def threads(request: pytest.FixtureRequest, loop: VirtualClockLoop) -> Iterator[Threads]:
    made: dict[str, Threads] = {
        "inline": InlineThreads(loop),
        "system": SystemThreads(loop),
        "counted": CountedThreads(loop),
    }
    yield made[request.param]
    for threads in made.values():
        threads.close()


def test_writer_jobs_run_in_order_and_their_ends_come_in_order(loop: VirtualClockLoop, threads: Threads) -> None:
    log: list[str] = []

    async def main() -> None:
        last: asyncio.Future[None] = loop.create_future()
        with loop.outside("jobs"):
            for number in range(5):
                threads.submit("writer", partial(log.append, f"job {number}"), lambda *_: log.append("end"))
            assert log.count("end") == 0
            threads.submit("writer", lambda: None, lambda *_: last.set_result(None))
            await last

    loop.run_until_complete(main())
    assert [line for line in log if line != "end"] == [f"job {number}" for number in range(5)]
    assert log.count("end") == 5


def test_what_a_job_raises_is_raised_to_who_waits(loop: VirtualClockLoop, threads: Threads) -> None:
    async def main() -> None:
        with loop.outside("a job"), pytest.raises(ZeroDivisionError):
            await threads.run("reader", lambda: 1 / 0)

    loop.run_until_complete(main())


def test_a_job_and_its_end_run_in_the_context_of_the_caller(loop: VirtualClockLoop, threads: Threads) -> None:
    async def main() -> list[str]:
        seen: list[str] = []
        came: asyncio.Future[None] = loop.create_future()
        colour.set("green")

        def done(_: None, error: BaseException | None) -> None:
            seen.append(colour.get())
            settle(came, None, error)

        threads.submit("blocking", lambda: seen.append(colour.get()), done)
        colour.set("red")
        with loop.outside("a job"):
            await came
        return seen

    assert loop.run_until_complete(main()) == ["green", "green"]


def test_close_waits_for_jobs_and_refuses_new_ones(loop: VirtualClockLoop, threads: Threads) -> None:
    ran: list[int] = []

    async def main() -> None:
        threads.submit("writer", lambda: ran.append(1), lambda *_: None)
        threads.close()
        assert ran == [1]
        with pytest.raises(RuntimeError):
            threads.submit("writer", lambda: ran.append(2), lambda *_: None)
        await asyncio.sleep(0)

    loop.run_until_complete(main())


def test_a_cancelled_wait_does_not_stop_the_job(loop: VirtualClockLoop, threads: Threads) -> None:
    ran: list[int] = []

    async def main() -> None:
        task = asyncio.create_task(threads.run("writer", lambda: ran.append(1)))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        threads.close()

    loop.run_until_complete(main())
    assert ran == [1]
