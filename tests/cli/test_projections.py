"""``ksi projections`` and ``ksi projection``, on a real daemon with a plugin whose read model is folded behind."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.cli.processes import Cli

WORDS = """
import msgspec

from ksi import AsyncPlugin, View
from ksi.core.events import Filter


class Word(msgspec.Struct, frozen=True):
    word: str


class WordsView(View[Word]):
    name = "words"
    query = (Filter(names=("state:value_was_set",)),)
    record = Word
    key = ("word",)
    inline = False

    def apply(self, writer, event):
        writer.put(Word(event.data["value"].lower()))


class Words(AsyncPlugin):
    name = "words"
    views = (WordsView,)
"""


@pytest.fixture(scope="module")
def ksi(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cli]:
    directory = tmp_path_factory.mktemp("projections")
    (directory / "words.py").write_text(WORDS)
    cli = Cli(directory / "home")
    started = cli("start", "--plugin", str(directory / "words.py"), "--set", "store.durability=normal")
    assert started.returncode == 0, started.stderr
    cli.records("send", "state:set", "key=a", "value=Sea")
    cli.records("send", "state:set", "key=a", "value:=7")
    (event,) = cli.records("log", "state:", "-n", "1")
    cli.records("send", "projection:status", "name=words", f"position:={event['position']}")
    yield cli
    assert cli("stop").returncode == 0


def test_read_models_are_a_table(ksi: Cli) -> None:
    header, *lines = ksi.text("projections").splitlines()
    assert header.split() == ["NAME", "VERSION", "STATE", "POSITION", "LAG", "SECONDS", "PARKED", "PROBLEM"]
    words = next(line.split() for line in lines if line.startswith("words"))
    assert (words[2], words[6]) == ("live", "1")
    assert "'int' object has no attribute 'lower'" in " ".join(words)


def test_a_rebuild_says_what_it_did(ksi: Cli) -> None:
    (told,) = ksi.records("projection", "rebuild", "words", "--diff")
    assert (told["records"], told["changed"], told["swapped"]) == (1, 0, False)
    assert ksi.text("projection", "rebuild", "words", "--diff").rstrip().endswith("; the old one stays")
    shown = ksi.text("projection", "rebuild", "state")
    assert shown.startswith("state @")
    assert shown.rstrip().endswith(": 1 records, 0 added, 0 removed, 0 changed; in its place")


def test_what_it_could_not_take_is_listed_retried_and_dropped(ksi: Cli) -> None:
    (parked,) = ksi.records("projection", "parked", "words")
    assert f"@{parked['position']}" in ksi.text("projection", "parked", "words")
    assert ksi.records("projection", "retry", "words", f"@{parked['position']}") == [{"events": 1}]
    assert ksi.records("projection", "drop", "words", "--reason", "a number") == [{"events": 1}]
    assert ksi.records("projection", "parked", "words") == []


def test_a_name_that_nothing_has_is_an_error_of_the_event(ksi: Cli) -> None:
    done = ksi("projection", "rebuild", "wrods")
    assert done.returncode == 1
    assert "[not_found]" in done.stderr
