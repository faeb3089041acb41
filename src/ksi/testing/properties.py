"""What holds for every event, whatever is sent to it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from hypothesis import given, settings
from hypothesis.strategies import SearchStrategy

from ksi.core.errors import HandlerError
from ksi.kernel.plugin import AsyncPlugin
from ksi.testing.harness import EventTestHarness
from ksi.testing.loop import run
from ksi.testing.scenario import TestResult, observe


class EventPropertyTest:
    """Inherit it: any payload has a result or a typed error that is not the handler's fault, and the log stays whole.

    ::

        class TestAdding(EventPropertyTest):
            plugins = (CounterPlugin,)
            event = "counter:add"
            payloads = st.fixed_dictionaries({"amount": st.integers()})

            def check(self, data, result):
                assert result.error is not None or result.answer["total"] == data["amount"]

    Each payload meets a kernel of its own, in virtual time.
    """

    plugins: ClassVar[tuple[type[AsyncPlugin], ...]]
    event: ClassVar[str]
    payloads: ClassVar[SearchStrategy[Mapping[str, Any]]]

    def check(self, data: Mapping[str, Any], result: TestResult) -> None:
        """What else holds."""

    def test_any_payload_is_answered_and_the_log_stays_whole(self) -> None:
        asked = given(self.payloads)(lambda data: run(self._ask(data)))
        settings(deadline=None)(asked)()  # a slow machine is no fault of the event

    async def _ask(self, data: Mapping[str, Any]) -> None:
        async with EventTestHarness(*self.plugins) as ksi:
            result = await observe(ksi, self.event, data)
            assert not isinstance(result.error, HandlerError), result.error
            assert result.error is None or not result.facts, "a failed request leaves no facts"
            assert await ksi.log.verify() == []
            self.check(data, result)
