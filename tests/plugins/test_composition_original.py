"""Profiles and prompts of the original: what of each field is ported, adapted or refused, and at which line."""

from __future__ import annotations

from pathlib import Path

import pytest

from ksi.core.errors import CompositionError
from ksi.plugins.composition.composing import composed, problems_of
from ksi.plugins.composition.library import library_of
from ksi.plugins.composition.original import Converted, Surroundings, converted

TEACHER = """\
name: teacher
type: profile
version: 1.0.0
description: Explains things.
author: somebody
extends: base/base_agent
components:
- name: agent_config
  inline:
    role: teacher
    model: sonnet
    capabilities: [explanation]
    tools: [WebSearch]
    priority: normal
- name: ksi_tools
  inline:
    allowed_tools:
      - "state:get"
      - "agent:status"
    disallowed_tools: ["state:delete"]
- name: permissions
  inline:
    profile: trusted
    overrides: {spawn_agents: true}
- name: prompt
  template: |
    You are {{ agent_id }}, a {{ role }}, and speak of {{ topic }}.
    Never of {{ user.name }}.
- name: greeting
  composition: polite
  vars:
    tone: warm
- name: always
  source: components/rules.md
  condition: '{{enable_rules}}'
  vars: {limit: three sentences}
- name: history
  source: components/history.md
  condition: '{{conversation_history}}'
variables:
  enable_rules:
    type: boolean
    default: true
    description: whether there are rules
  shelves:
    default: [a, b]
required_context:
  topic: string - what it is about
  daemon_commands: object - what the daemon can do
metadata:
  tags: [migrated]
"""
POLITE = """\
name: polite
type: prompt
components:
- name: words
  template: Be polite, in a {{tone}} voice.
"""
BASE = "name: base_agent\ntype: profile\ncomponents:\n- name: prompt\n  template: You are an agent.\n"
AROUND = Surroundings(
    events={"state:get"},
    profiles={"trusted"},
    fragment={"components/rules.md": "Say it in {{limit}}.\n"}.get,
)


def converted_files(tmp_path: Path) -> dict[str, Converted]:
    made = {text: converted(text, f"{number}.yaml", AROUND) for number, text in enumerate((BASE, POLITE, TEACHER))}
    for each in made.values():
        (tmp_path / f"{each.name}.yaml").write_text(each.text)
    return {each.name: each for each in made.values()}


def test_what_can_be_ported_is_a_composition_that_composes(tmp_path: Path) -> None:
    assert set(converted_files(tmp_path)) == {"base_agent", "polite", "teacher"}
    library = library_of(tmp_path)
    assert [list(problems_of(library, library.get(name))) for name in ("base_agent", "polite", "teacher")] == [[]] * 3
    made = composed(library, "teacher", {"topic": "tides", "shelves": "a", "agent": "eve"})
    assert (made.provider, made.model, made.permission, made.tools) == ("claude", "sonnet", "trusted", ("state:get",))
    assert made.parts == ("base_agent", "polite", "teacher")
    assert made.prompt is not None
    for words in ("You are an agent.", "in a warm voice", "You are eve, a teacher, and speak of tides.", "three sent"):
        assert words in made.prompt


def test_each_field_has_its_verdict_at_its_line(tmp_path: Path) -> None:
    notes = converted_files(tmp_path)["teacher"].notes
    found = {note.field: (TEACHER.splitlines()[note.line - 1].strip(), note.verdict) for note in notes}
    inline = "components[0].inline"
    assert found["description"] == ("description: Explains things.", "ported")
    assert found["extends"] == ("extends: base/base_agent", "adapted")
    assert found["version"] == ("version: 1.0.0", "refused")
    assert found[f"{inline}.model"] == ("model: sonnet", "adapted")
    assert found[f"{inline}.tools[0]"] == ("tools: [WebSearch]", "refused")
    assert found["components[1].inline.allowed_tools[0]"] == ('- "state:get"', "ported")
    assert found["components[1].inline.allowed_tools[1]"] == ('- "agent:status"', "refused")
    assert found["components[4].composition"] == ("composition: polite", "ported")
    assert found["components[5].condition"][1] == "adapted"
    assert found["components[6].condition"] == ("condition: '{{conversation_history}}'", "refused")
    assert found["variables.enable_rules"][1] == "ported"
    assert found["variables.shelves"] == ("shelves:", "refused")
    assert found["required_context.topic"][1] == "adapted"
    assert found["required_context.daemon_commands"][1] == "refused"
    refused = {note.field: note.message for note in notes if note.verdict == "refused"}
    assert all(refused.values())
    assert {"author", "metadata", f"{inline}.capabilities", f"{inline}.priority"} <= refused.keys()


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("name: team\ntype: orchestration\n", 2),
        ("- a list\n", 1),
        ("name: 'what a name'\n", 1),
        ("name: a\ncomponents: [*b]\n", 2),
    ],
)
def test_what_is_no_profile_is_refused_with_its_line(text: str, line: int) -> None:
    with pytest.raises(CompositionError) as caught:
        converted(text, "a.yaml", AROUND)
    assert caught.value.line == line
