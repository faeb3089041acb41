"""How completions that were cut off look among the runs."""

from __future__ import annotations

from typing import Any

import pytest

from ksi.core.errors import CancelledError, InterruptedRunError, KSIConnectionError
from ksi.plugins.correlation import Correlation
from ksi.testing.harness import EventTestHarness
from tests.plugins.scripted import STORY, Gate, harness, rest, script, take

RUN = "01a00000-0000-7000-8000-000000000001"


async def asking(ksi: EventTestHarness) -> tuple[Any, Any]:
    """The last run's completion, and the effect by which it asked the model."""
    (completion,) = (await ksi.request("correlation:tree", {"run": "last"}))["tree"]
    (effect,) = [child for child in completion["children"] if child["kind"] == "effect"]
    return completion, effect


async def test_a_model_that_was_stopped_did_not_end_well() -> None:
    gate = Gate(passing=3)
    async with harness(script(lambda _: STORY, gate=gate), more=[Correlation]) as ksi:
        stream = ksi.stream("completion:create", {"prompt": "Go."})
        await take(stream, 3)
        stream.cancel()
        with pytest.raises(CancelledError):
            await rest(stream)
        completion, effect = await asking(ksi)
    assert (completion["status"], effect["status"]) == ("cancelled", "cancelled")


async def test_what_a_crash_cut_off_is_not_open_and_its_tokens_are_counted() -> None:
    gate = Gate(passing=4)
    async with harness(script(lambda _: STORY, gate=gate), more=[Correlation]) as ksi:
        stream = ksi.stream("completion:create", {"prompt": "Go."}, event_id=RUN)
        await gate.reached.wait()
        await ksi.crash()
        with pytest.raises(KSIConnectionError):
            await rest(stream)
        gate.open()
        with pytest.raises(InterruptedRunError):  # its end is on disk
            await ksi.request("completion:create", {"prompt": "Go."}, event_id=RUN)
        completion, effect = await asking(ksi)
        (run,) = (await ksi.request("correlation:runs"))["runs"]
    assert (completion["status"], effect["status"]) == ("interrupted", "interrupted")
    assert effect["duration_ms"] is not None
    assert (completion["tokens"], run["tokens"]) == (4, 4)
