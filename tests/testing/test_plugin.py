"""The pytest plugin, seen from a test suite that uses it."""

import pytest

pytest_plugins = ["pytester"]


@pytest.fixture
def suite(pytester: pytest.Pytester) -> pytest.Pytester:
    pytester.makeini("[pytest]\nasyncio_mode = auto\nasyncio_default_fixture_loop_scope = function\n")
    return pytester


def outcomes(suite: pytest.Pytester, source: str) -> tuple[dict[str, int], str]:
    suite.makepyfile(source)
    # A process of its own: what this one has open or running is none of the suite's business.
    result = suite.runpytest_subprocess("-p", "no:cacheprovider", "--strict-markers", "-q")
    return result.parseoutcomes(), "\n".join(result.outlines)


def test_a_marked_test_and_its_fixtures_run_in_virtual_time(suite: pytest.Pytester) -> None:
    counts, text = outcomes(
        suite,
        """
        import asyncio, pytest
        from ksi.testing.loop import VirtualClockLoop

        @pytest.fixture
        async def an_hour_later():
            await asyncio.sleep(3600)
            return asyncio.get_running_loop()

        @pytest.mark.virtual
        @pytest.mark.parametrize("n", [1, 2])
        async def test_marked(an_hour_later, virtual_clock, n):
            assert asyncio.get_running_loop() is an_hour_later
            assert virtual_clock.monotonic() == 3600

        @pytest.mark.virtual(seed=3, horizon=10)
        async def test_options():
            assert asyncio.get_running_loop()._horizon == 10

        async def test_unmarked():
            assert not isinstance(asyncio.get_running_loop(), VirtualClockLoop)
        """,
    )
    assert counts == {"passed": 4}, text


def test_loops_that_live_longer_than_a_test_go_on_working(suite: pytest.Pytester) -> None:
    counts, text = outcomes(
        suite,
        """
        import asyncio, pytest, pytest_asyncio

        @pytest_asyncio.fixture(scope="module", loop_scope="module")
        async def server():
            yield asyncio.get_running_loop()

        @pytest.mark.asyncio(loop_scope="module")
        async def test_one(server):
            assert asyncio.get_running_loop() is server

        @pytest.mark.asyncio(loop_scope="module")
        async def test_two(server):
            assert asyncio.get_running_loop() is server

        async def test_another_loop(server):
            assert asyncio.get_running_loop() is not server
        """,
    )
    assert counts == {"passed": 3}, text


def test_a_test_that_waits_for_ever_fails_and_names_the_line(suite: pytest.Pytester) -> None:
    counts, text = outcomes(
        suite,
        """
        import asyncio, pytest

        @pytest.mark.virtual
        async def test_stuck():
            await asyncio.Event().wait()
        """,
    )
    assert counts == {"failed": 1}
    assert "DeadlockError: nothing is ready" in text


LEAKS = {
    "task": "asyncio.create_task(asyncio.sleep(99), name='lost task')",
    "thread": "threading.Thread(target=time.sleep, args=(0.5,), name='lost thread').start()",
    "file descriptor": "os.open('/etc/hostname', os.O_RDONLY)",
    "child process": "global child; child = subprocess.Popen(['sleep', '0.5'])",
}
IMPORTS = "import asyncio, os, pytest, subprocess, threading, time\n"


def test_each_leak_fails_its_marked_test_and_is_named(suite: pytest.Pytester) -> None:
    marked = "@pytest.mark.leakcheck\nasync def test_{}():\n    {}\n"
    tests = [marked.format(kind.replace(" ", "_"), leak) for kind, leak in LEAKS.items()]
    counts, text = outcomes(suite, IMPORTS + "\n".join(tests))
    assert counts == {"passed": 4, "errors": 4}, text
    for kind in LEAKS:
        assert f"left behind:\n  {kind} " in text
    assert "in test_task" in text, "where the task was made"


def test_a_leak_without_the_marker_passes(suite: pytest.Pytester) -> None:
    counts, text = outcomes(suite, f"{IMPORTS}def test_leaks():\n    {LEAKS['file descriptor']}\n")
    assert counts == {"passed": 1}, text


def test_what_is_put_away_is_no_leak(suite: pytest.Pytester) -> None:
    counts, text = outcomes(
        suite,
        IMPORTS
        + """
@pytest.fixture
async def ticker():
    task = asyncio.create_task(asyncio.sleep(99))
    yield task
    task.cancel()
    await asyncio.wait([task])

@pytest.fixture
def file(tmp_path):
    with open(tmp_path / "x", "w") as file:
        yield file

@pytest.mark.leakcheck
async def test_async(ticker, file):
    await asyncio.to_thread(time.sleep, 0)
    process = await asyncio.create_subprocess_exec("true")
    await process.wait()

@pytest.mark.leakcheck
def test_sync(file):
    subprocess.run(["true"])
""",
    )
    assert counts == {"passed": 2}, text
