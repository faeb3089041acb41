"""Given, when, then: what a request did, as one value."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Self

import msgspec

from ksi.core.errors import KSIError
from ksi.core.events import RecordedEvent
from ksi.testing.harness import Data, EventTestHarness


class TestResult(msgspec.Struct, frozen=True, kw_only=True):
    """What a request did: its answer or its error, and the facts that it recorded."""

    __test__: ClassVar[bool] = False  # its name is a test's to pytest

    answer: Any = None
    error: KSIError | None = None
    facts: list[RecordedEvent] = []
    failures: list[str] = []
    """What expectations said that did not hold."""

    @property
    def passed(self) -> bool:
        return not self.failures


Expectation = Callable[[TestResult], object]
"""Asserts, or answers False where it does not hold."""


class Scenario:
    """One story about a harness.

    ::

        result = await (
            Scenario(ksi)
            .given("counter:add", amount=2)
            .when("counter:add", amount=3)
            .then(lambda result: result.answer == {"total": 5})
            .run()
        )
        assert result.passed, result.failures
    """

    def __init__(self, harness: EventTestHarness) -> None:
        self._harness = harness
        self._before: list[tuple[str, Mapping[str, Any]]] = []
        self._event: tuple[str, Mapping[str, Any]] | None = None
        self._expectations: list[Expectation] = []

    def given(self, event: str, /, **data: Any) -> Self:
        """``event`` was requested before, and succeeded."""
        self._before.append((event, data))
        return self

    def when(self, event: str, /, **data: Any) -> Self:
        """``event`` is requested."""
        self._event = (event, data)
        return self

    def then(self, expectation: Expectation) -> Self:
        """``expectation`` holds."""
        self._expectations.append(expectation)
        return self

    async def run(self) -> TestResult:
        """Do it. What an expectation asserts in vain is a failure of the result; what ``given`` raises is raised."""
        if self._event is None:
            raise ValueError("a scenario needs a when")
        for event, data in self._before:
            await self._harness.request(event, data)
        result = await observe(self._harness, *self._event)
        failures = [said for each in self._expectations if (said := failure(each, result)) is not None]
        return msgspec.structs.replace(result, failures=failures)


async def observe(harness: EventTestHarness, event: str, data: Data) -> TestResult:
    """Request ``event`` and see what becomes of it."""
    before = len(await harness.facts())
    answer, error = None, None
    try:
        answer = await harness.request(event, data)
    except KSIError as raised:
        error = raised
    return TestResult(answer=answer, error=error, facts=(await harness.facts())[before:])


def failure(expectation: Expectation, result: TestResult) -> str | None:
    """What is wrong with ``result``; None where it is as expected."""
    try:
        holds = expectation(result)
    except AssertionError as error:
        return str(error) or "an assertion failed"
    return f"not so: answer {result.answer!r}, error {result.error!r}" if holds is False else None
