"""Compositions: put together out of files, wrong ones named by their line, changed ones counted at once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ksi.core.errors import CompositionError, NotFoundError, ValidationError
from ksi.plugins.composition import Composition
from ksi.plugins.composition.composing import problems_of
from ksi.plugins.composition.library import SHIPPED, Library, entry_of
from ksi.plugins.composition.plugin import LOOK_S
from ksi.testing.harness import EventTestHarness
from tests.docs.pages import ROOT, blocks


def write(home: Path, name: str, text: str) -> None:
    folder = home / "profiles"
    folder.mkdir(exist_ok=True)
    (folder / f"{name}.yaml").write_text(dedent(text).lstrip())


@pytest.fixture
async def ksi(tmp_path: Path) -> AsyncIterator[EventTestHarness]:
    async with EventTestHarness(Composition, home=tmp_path) as ksi:
        yield ksi


async def compose(ksi: EventTestHarness, name: str, **variables: Any) -> Any:
    return await ksi.request("composition:compose", {"name": name, "variables": variables})


async def test_what_comes_with_ksi_is_whole(ksi: EventTestHarness) -> None:
    listed = (await ksi.request("composition:list", {"kind": "agent"}))["compositions"]
    checked = await ksi.request("composition:validate")
    assert {"assistant", "researcher", "reviewer", "summarizer", "writer"} == {each["name"] for each in listed}
    assert checked == {"files": len(list(SHIPPED.iterdir())), "problems": []}


async def test_prompts_and_tools_add_up_and_of_all_else_the_own_word_counts(
    ksi: EventTestHarness, tmp_path: Path
) -> None:
    write(tmp_path, "polite", "kind: prompt\nprompt: Be polite.\n")
    write(tmp_path, "brief", "prompt: Be brief.\ntools: [state:get]\nmax_tokens: 10\n")
    write(tmp_path, "clerk", "prompt: You are a clerk.\ntools: [state:set, state:get]\nmax_tokens: 99\nmodel: m\n")
    write(tmp_path, "ada", "extends: clerk\nmixins: [polite, brief]\nprompt: You are Ada.\ntemperature: 0.5\n")
    made = await compose(ksi, "ada")
    assert made["parts"] == ["clerk", "polite", "brief", "ada"]
    assert made["prompt"] == "You are a clerk.\n\nBe polite.\n\nBe brief.\n\nYou are Ada."
    assert made["tools"] == ["state:set", "state:get"]
    assert (made["max_tokens"], made["model"], made["temperature"]) == (10, "m", 0.5)


async def test_a_part_that_is_reached_twice_counts_once(ksi: EventTestHarness, tmp_path: Path) -> None:
    write(tmp_path, "root", "prompt: Root.\n")
    write(tmp_path, "left", "extends: root\nprompt: Left.\n")
    write(tmp_path, "right", "extends: root\nprompt: Right.\n")
    write(tmp_path, "both", "extends: left\nmixins: [right]\n")
    assert (await compose(ksi, "both"))["prompt"] == "Root.\n\nLeft.\n\nRight."


async def test_variables_have_defaults_are_given_and_are_asked_for(ksi: EventTestHarness, tmp_path: Path) -> None:
    write(tmp_path, "base", "variables: {tone: warm, who: {description: whose}}\nprompt: '{{who}} is {{ tone }}.'\n")
    write(tmp_path, "cold", "extends: base\nvariables: {tone: {default: cold}}\n")
    assert (await compose(ksi, "cold", who="Ada"))["prompt"] == "Ada is cold."
    assert (await compose(ksi, "cold", who="{{tone}}", tone=1))["prompt"] == "{{tone}} is 1."
    with pytest.raises(ValidationError, match="needs a value for who"):
        await compose(ksi, "cold")
    with pytest.raises(ValidationError, match="no variable colour"):
        await compose(ksi, "cold", who="Ada", colour="red")
    shown = await ksi.request("composition:get", {"name": "cold"})
    assert shown["variables"] == [
        {"name": "tone", "default": "cold", "description": ""},
        {"name": "who", "default": None, "description": "whose"},
    ]


@pytest.mark.parametrize(
    ("text", "line", "said"),
    [
        ("prompt: a\nmax_tokens: many\n", 2, "Expected `int"),
        ("prompt: a\ntemprature: 1\n", 2, "unknown field"),
        ("prompt: a\nbudget:\n  tokens: 5\n  cots: 1\n", 4, "unknown field"),
        ("tools:\n- state:get\n- 7\n", 3, "Expected `str`"),
        ("variables:\n  a: 1\n  b: {defualt: 1}\n", 3, "unknown field"),
        ("prompt: a\nprompt: b\n", 2, "twice"),
        ("prompt: a\nextends: nobody\n", 2, "no composition 'nobody'"),
        ("mixins:\n- careful\n- writre\n", 3, "did you mean writer"),
        ("extends: draft\n", 1, "a circle"),
        ("prompt: |\n  Hello.\n  You are {{who}}.\n", 3, "no variable 'who'"),
        ("kind: prompt\nprompt: a\nmax_steps: 4\n", 3, "unknown field"),
        ("kind: prompt\nextends: writer\n", 2, "made of prompts"),
        ("prompt: {{name}}\n", 1, "needs quotes"),
        ("prompt: &a x\nmodel: *a\n", 2, "aliases"),
        ("prompt: 'a\n", 2, "end of stream"),
        ("- a\n", 1, "made of fields"),
        ("prompt: !!python/name:os.system a\n", 1, "could not determine a constructor"),
        ("prompt: " + "[" * 500, 1, "nested too deep"),
        ("prompt: a\n---\nprompt: b\n", 2, "one document"),
        ("prompt: a\nmax_tokens: 0x\n", 2, "Expected `int"),
        ("prompt: \x07\n", 1, "a character that is not allowed"),
    ],
)
async def test_what_is_wrong_in_a_file_is_named_with_its_line(
    ksi: EventTestHarness, text: str, line: int, said: str
) -> None:
    checked = await ksi.request("composition:validate", {"text": text})
    (found,) = checked["problems"]
    assert (found["line"], said in found["message"]) == (line, True), found


async def test_a_file_that_is_wrong_is_refused_with_its_line_and_the_others_are_used(
    ksi: EventTestHarness, tmp_path: Path
) -> None:
    write(tmp_path, "broken", "prompt: a\nmodel: 5\n")
    write(tmp_path, "child", "extends: broken\n")
    for name in ("broken", "child"):
        with pytest.raises(CompositionError) as caught:
            await compose(ksi, name)
        assert (caught.value.file, caught.value.line) == (str(tmp_path / "profiles/broken.yaml"), 2)
    assert (await compose(ksi, "writer", agent="ada"))["kind"] == "agent"
    with pytest.raises(NotFoundError) as missing:
        await compose(ksi, "brokne")
    assert missing.value.suggestions == ["broken"]


async def test_the_files_of_the_page_are_put_together(ksi: EventTestHarness, tmp_path: Path) -> None:
    for block in blocks(ROOT / "docs/how-to/describe-agents.md", "yaml"):
        write(tmp_path, block.splitlines()[0].removeprefix("# profiles/").removesuffix(".yaml"), block)
    made = await compose(ksi, "clerk", shop="Fishery", agent="ada")
    assert made["parts"] == ["base", "careful", "polite", "clerk"]
    assert "You are ada" in made["prompt"]
    assert "the orders of Fishery. You speak English." in made["prompt"]


async def test_a_file_of_the_home_takes_the_place_of_one_that_came_with_ksi(
    ksi: EventTestHarness, tmp_path: Path
) -> None:
    write(tmp_path, "writer", "prompt: Mine.\n")
    assert (await compose(ksi, "writer"))["prompt"] == "Mine."


@pytest.mark.virtual
async def test_a_file_that_changes_counts_and_the_change_is_in_the_log(ksi: EventTestHarness, tmp_path: Path) -> None:
    write(tmp_path, "ada", "prompt: One.\n")
    await asyncio.sleep(2 * LOOK_S)
    write(tmp_path, "ada", "prompt: One, two.\n")
    write(tmp_path, "bob", "prompt: [\n")
    await asyncio.sleep(2 * LOOK_S)
    (tmp_path / "profiles/ada.yaml").unlink()
    await asyncio.sleep(3 * LOOK_S)
    changes = [fact.data for fact in await ksi.facts("composition:were_changed")]
    assert [change["changed"] for change in changes] == [["ada"], ["ada", "bob"], ["ada"]]
    assert [len(change["problems"]) for change in changes] == [0, 1, 1]


@given(st.text(max_size=200))
def test_whatever_stands_in_a_file_is_a_composition_or_an_error_with_a_line(text: str) -> None:
    assert all(1 <= line <= len(text) + 1 for line in lines_of_faults(text))


def lines_of_faults(text: str) -> list[int]:
    try:
        entry = entry_of("draft", text, source="home", file="draft.yaml")
    except CompositionError as error:
        return [error.line]
    return [error.line for error in problems_of(Library({}, {}), entry)]
