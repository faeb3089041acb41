"""The event that is handled flows into tasks and threads, and nowhere else."""

import asyncio
import threading

from ksi.core.context import bind_context, event_context
from ksi.core.envelope import EventEnvelope


def name() -> str | None:
    envelope = event_context()
    return None if envelope is None else envelope.name


def test_outside_of_handlers_there_is_no_event() -> None:
    assert name() is None


def test_binding_ends_with_its_block_also_where_blocks_nest_or_raise() -> None:
    with bind_context(EventEnvelope(name="outer:one")) as outer:
        assert event_context() is outer
        try:
            with bind_context(EventEnvelope(name="inner:one")):
                assert name() == "inner:one"
                raise KeyError
        except KeyError:
            assert name() == "outer:one"
    assert name() is None


async def test_it_flows_into_tasks_and_threads() -> None:
    async def look() -> str | None:
        await asyncio.sleep(0)
        return name()

    with bind_context(EventEnvelope(name="a:b")):
        task = asyncio.create_task(look())
        in_thread = asyncio.create_task(asyncio.to_thread(name))
    assert name() is None
    assert await task == await in_thread == "a:b"


async def test_what_a_task_binds_stays_in_it() -> None:
    async def bind(event_name: str) -> str | None:
        with bind_context(EventEnvelope(name=event_name)):
            await asyncio.sleep(0)
            return name()

    assert tuple(await asyncio.gather(bind("a:b"), bind("c:d"))) == ("a:b", "c:d")
    assert name() is None


def test_a_bare_thread_has_no_event_until_it_is_bound() -> None:
    seen: list[str | None] = []
    envelope = EventEnvelope(name="a:b")

    def work() -> None:
        seen.append(name())
        with bind_context(envelope):
            seen.append(name())

    with bind_context(envelope):
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
    assert seen == [None, "a:b"]
