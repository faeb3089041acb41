"""Whether a fold is pure: folded twice, and in processes with other hash seeds, it must say the same."""

from __future__ import annotations

import base64
import subprocess
import sys
from collections.abc import Iterable
from importlib import import_module
from typing import Any

import msgspec
from msgspec.structs import asdict

from ksi.core.events import RecordedEvent
from ksi.core.views import EntityFold, Fold

SEEDS = ("0", "1", "4242")
"""Of ``PYTHONHASHSEED``: what walks through a set of texts differs in one of them from the others."""


class ImpureFoldError(AssertionError):
    """The fold looks at more than the state and the event: a clock, randomness, the order of a set, its own past."""


def assert_pure(fold: Fold[Any] | EntityFold[Any], events: Iterable[RecordedEvent]) -> bytes:
    """Fold ``events`` twice here, where a state that is changed in place shows too, and once for each of :data:`SEEDS`.

    The fold must be importable by its module and name, without arguments, and have ``dump``. Answers the state's dump.

    Raises:
        ImpureFoldError: Two of the states are not the same.
    """
    listed = list(events)
    first = folded(fold, listed)
    if folded(fold, listed) != first:
        raise ImpureFoldError(f"{_named(fold)} says something else when it folds the same events again")
    for seed in SEEDS:
        if _elsewhere(fold, listed, seed) != first:
            raise ImpureFoldError(f"{_named(fold)} says something else under PYTHONHASHSEED={seed}")
    return first


def folded(fold: Any, events: Iterable[RecordedEvent]) -> bytes:
    """The dump of what ``fold`` makes of ``events``. Every state before the last must be left as it was."""
    state = fold.initial()
    for event in events:
        before = fold.dump(state)
        after = fold.apply(state, event)
        if fold.dump(state) != before:
            raise ImpureFoldError(f"{_named(fold)} changes the state that it was given, at @{event.position}")
        state = after
    dumped: bytes = fold.dump(state)
    return dumped


def _elsewhere(fold: Any, events: list[RecordedEvent], seed: str) -> bytes:
    kind = type(fold)
    command = [sys.executable, "-m", __name__, kind.__module__, kind.__qualname__]
    done = subprocess.run(
        command,
        input=msgspec.json.encode(
            [RecordedEvent(**asdict(event)) for event in events]
        ),  # also where they are subclasses
        stdout=subprocess.PIPE,
        check=True,
        env={"PYTHONHASHSEED": seed, "PYTHONPATH": ":".join(sys.path)},
    )
    return base64.b64decode(done.stdout)


def _named(fold: Any) -> str:
    return f"the fold {type(fold).__qualname__}"


def main(module: str, name: str) -> None:
    """Fold what stands on stdin, in this process."""
    kind: Any = import_module(module)
    for part in name.split("."):
        kind = getattr(kind, part)
    events = msgspec.json.decode(sys.stdin.buffer.read(), type=list[RecordedEvent])
    sys.stdout.buffer.write(base64.b64encode(folded(kind(), events)))


if __name__ == "__main__":
    main(*sys.argv[1:])
