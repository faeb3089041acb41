"""Profiles and prompts of the original KSI as compositions of this one, and what became of each field. Pure.

There a composition was a list of ``components``: settings (``inline``), words (``template``, or ``source``, a file of
words) and other compositions (``composition``), each with ``vars`` and perhaps a ``condition``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Container, Mapping
from typing import Any, Literal

import msgspec
import yaml

from ksi.plugins.composition import marked
from ksi.plugins.composition.marked import Path
from ksi.plugins.composition.shapes import Name, Profile, Word

Verdict = Literal["ported", "adapted", "refused"]
KINDS = {"profile": "agent", "prompt": "prompt"}
AGENT = "agent_id"
"""What ``{{agent}}`` was called."""
CLAUDE = ("sonnet", "opus", "haiku")
"""Models that it asked the Claude CLI for, as the provider ``claude`` does."""
PLACEHOLDER = re.compile(r"\{\{\s*([^{}]*?)\s*\}\}")
ORDER = ("kind", "description", "extends", "mixins", "variables", "prompt")
WORDS = ("instructions", "prompt", "content", "text")
"""Settings that were words for the model."""
MODEL = ("max_tokens", "temperature")
NOT_HERE: Mapping[str, str] = {
    "version": "files have no versions here: keep them in git",
    "author": "nothing reads it",
    "metadata": "nothing reads it; what it permits is said by `tools` and `permission`",
    "deprecated": "nothing reads it",
    "deprecated_message": "nothing reads it",
    "capabilities": "they were words only: what an agent may do is said by `tools` and `permission`",
    "disallowed_tools": "deny them to the agent: ksi permission grant agent:NAME --deny EVENT",
    "overrides": "grant them to the agent: ksi permission grant agent:NAME --allow EVENT",
    "priority": "a request has its own",
    "message_queue_size": "queues have bounds of their own",
    "enable_tools": "an agent has the tools that `tools` names",
}
_UNKNOWN = "there is nothing like it here"


class Note(msgspec.Struct, frozen=True):
    """What became of a field: where it stands in the original's file, and why it is not as it was."""

    line: int
    field: str
    verdict: Verdict
    message: str = ""


class Converted(msgspec.Struct, frozen=True):
    """``text`` is what stands in ``NAME.yaml``."""

    name: str
    text: str
    notes: list[Note]


class Surroundings(msgspec.Struct, frozen=True):
    """What a file is converted among.

    ``fragment`` gives the words of a ``source``, None where there is none; ``renamed`` are prompts whose name a profile
    has too.
    """

    events: Container[str]
    profiles: Container[str]
    fragment: Callable[[str], str | None] = lambda _: None
    renamed: Mapping[str, str] = {}


def name_of(text: str, file: str) -> tuple[str, str]:
    """Name and type of a composition of the original. Raises CompositionError where it is none."""
    read = marked.read(text, file)
    if not isinstance(read.value, dict) or not isinstance(read.value.get("name"), str):
        raise read.error("no composition of the original: it has no name")
    kind = read.value.get("type", "profile")
    if kind not in KINDS:
        raise read.error(f"a composition of type {kind!r}: only profiles and prompts are ported", ("type",))
    name: str = read.convert(Name, read.value["name"], ("name",))
    return name, str(kind)


def converted(text: str, file: str, around: Surroundings) -> Converted:
    """A composition of the original as one of these. Raises CompositionError where nothing of it can be ported."""
    name, kind = name_of(text, file)
    conversion = _Conversion(marked.read(text, file), around)
    conversion.convert()
    if kind == "prompt":
        name = around.renamed.get(name, name)
    return Converted(name, _yaml(conversion.made, file), sorted(conversion.notes, key=lambda note: note.line))


class _Conversion:
    def __init__(self, read: marked.Marked, around: Surroundings) -> None:
        self.made: dict[str, Any] = {}
        self.notes: list[Note] = []
        self._read = read
        self._around = around
        self._prompts: list[str] = []
        self._variables: dict[str, Any] = {}
        self._wanted: dict[str, tuple[Path, str]] = {}
        """Words that texts may have in double braces without declaring them, and what is said of them."""

    def convert(self) -> None:
        said = self._read.value
        for field in said:
            self._field(field, said[field])
        if self._prompts:
            self.made["prompt"] = "\n\n".join(self._prompts) + "\n"
        self._declare()
        if self.made.get("kind") == "prompt":
            self._leave_words_only()

    def _field(self, field: str, value: Any) -> None:
        path: Path = (field,)
        match field, value:
            case ("name", _) | ("type", "profile"):
                self._note(path, "ported")
            case "type", "prompt":
                self._set(path, "kind", "prompt")
            case ("description", str()):
                self._set(path, field, value)
            case ("extends", str()):
                self._refer(path, "extends", value)
            case "mixins", list():
                for number, name in enumerate(value):
                    self._refer((field, number), "mixins", name)
            case "variables", dict():
                for word, variable in value.items():
                    self._variable((field, word), word, variable)
            case "required_context", dict():
                for word, about in value.items():
                    self._wants((field, word), word, about)
            case "components", list():
                for number, component in enumerate(value):
                    self._component((field, number), component)
            case _:
                self._refuse(path)

    # ── parts ────────────────────────────────────────────────────────────────────────────────────────────────────────
    def _refer(self, path: Path, field: str, name: Any) -> None:
        """Compositions go by name, wherever they lie."""
        plain = str(name).rpartition("/")[2].removesuffix(".yaml")
        plain = self._around.renamed.get(plain, plain) if field == "mixins" else plain
        if field == "extends":
            self.made["extends"] = plain
        elif plain not in self.made.setdefault("mixins", []):
            self.made["mixins"].append(plain)
        self._note(path, "ported" if plain == name else "adapted", "" if plain == name else f"{field}: {plain}")

    def _component(self, path: Path, component: Any) -> None:
        if not isinstance(component, dict):
            self._refuse(path)
        elif self._is_left_out(path, component):
            return
        elif isinstance(component.get("inline"), dict):
            for field, value in component["inline"].items():
                self._setting((*path, "inline", field), field, value)
        elif isinstance(component.get("template"), str):
            self._say((*path, "template"), component["template"], component.get("vars"))
        elif isinstance(component.get("source"), str):
            self._quote((*path, "source"), component["source"], component.get("vars"))
        elif isinstance(component.get("composition"), str):
            self._mix_in(path, component)
        else:
            self._refuse(path)

    def _is_left_out(self, path: Path, component: Mapping[str, Any]) -> bool:
        """One whose condition is a word with a default is there, or not, by that; others never."""
        if "condition" not in component:
            return False
        found = PLACEHOLDER.fullmatch(str(component["condition"]))
        word = found[1] if found else ""
        variable = (self._read.value.get("variables") or {}).get(word)
        default = variable.get("default") if isinstance(variable, dict) else variable
        if default is None:
            self._note((*path, "condition"), "refused", "there are no conditions: the component is left out")
            return True
        self._note((*path, "condition"), "adapted", f"it is {'there' if default else 'left out'}, as {word} is")
        return not default

    def _mix_in(self, path: Path, component: Mapping[str, Any]) -> None:
        self._refer((*path, "composition"), "mixins", component["composition"])
        for word, value in (component.get("vars") or {}).items():
            self._variable((*path, "vars", word), word, value)

    # ── words ────────────────────────────────────────────────────────────────────────────────────────────────────────
    def _quote(self, path: Path, source: str, values: Any) -> None:
        text = self._around.fragment(source)
        if text is None:
            self._note(path, "refused", f"there is no file {source}")
            return
        self._say(path, text, values)

    def _say(self, path: Path, text: str, values: Any) -> None:
        """Words for the prompt; ``vars`` are put in now, for here a word has one value in all parts."""
        given = values if isinstance(values, dict) else {}
        text = PLACEHOLDER.sub(lambda found: str(given.get(found[1], found[0])), text)
        text = PLACEHOLDER.sub(lambda found: self._word(path, found), text)
        self._prompts.append("\n".join(line.rstrip() for line in text.strip().splitlines()))
        self._note(path, "adapted", "it is part of `prompt`")

    def _word(self, path: Path, found: re.Match[str]) -> str:
        if found[1] == AGENT:
            return "{{agent}}"
        if not _is_word(found[1]):
            self._note(path, "refused", f"{found[0]} is no variable's name here: it stays as it is written")
            return found[0]
        self._wanted.setdefault(found[1], (path, ""))
        return f"{{{{{found[1]}}}}}"

    # ── variables ────────────────────────────────────────────────────────────────────────────────────────────────────
    def _variable(self, path: Path, word: str, said: Any) -> None:
        if said == f"{{{{{word}}}}}":
            self._note(path, "adapted", "a variable has one value in all parts")
            return
        about = said if isinstance(said, dict) else {"default": said}
        default, description = about.get("default"), about.get("description", "")
        if word == AGENT or not _is_word(word):
            self._note(path, "refused", "{{agent}} is always there" if word == AGENT else "no variable's name here")
            return
        variable: dict[str, Any] = {"default": default}
        if isinstance(default, str) and PLACEHOLDER.search(default):
            variable = {}
            self._note(path, "refused", "a variable says nothing of another: it must be given")
        elif not isinstance(default, str | int | float | bool):
            variable = {}
            self._note(path, "adapted" if default is None else "refused", "it must be given")
        else:
            self._note(path, "ported")
        if description:
            variable["description"] = str(description)
        self._variables[word] = variable
        for field in ("type", "allowed_values", "required"):
            if field in about:
                self._note((*path, field), "refused", "a variable is not checked")

    def _wants(self, path: Path, word: str, about: Any) -> None:
        """What had to be given is a variable without a default, where a text uses it."""
        if word == AGENT:
            self._note(path, "adapted", "{{agent}} is always there")
        elif _is_word(word) and isinstance(about, str):
            self._wanted[word] = (path, about)
        else:
            self._refuse(path)

    def _declare(self) -> None:
        used = PLACEHOLDER.findall(self.made.get("prompt", ""))
        for word, (path, about) in self._wanted.items():
            if word in self._variables:
                continue
            if word in used:
                self._variables[word] = {"description": about} if about else {}
                self._note(path, "adapted", f"{word} is a variable that must be given")
            else:
                self._note(path, "refused", "no text uses it")
        if self._variables:
            self.made["variables"] = self._variables

    # ── settings ─────────────────────────────────────────────────────────────────────────────────────────────────────
    def _setting(self, path: Path, field: str, value: Any) -> None:
        match field, value:
            case "model", str():
                self._model(path, value)
            case "role", str():
                self._variables["role"] = {"default": value}
                self._note(path, "adapted", "it is the variable role")
            case (("tools" | "allowed_tools"), list()):
                for number, tool in enumerate(value):
                    self._tool((*path, number), tool)
            case "profile", str() if value in self._around.profiles:
                self._set(path, "permission", value)
            case "profile", str():
                self._note(path, "refused", f"there is no profile of rights {value!r}")
            case (word, str()) if word in WORDS:
                self._say(path, value, None)
            case (name, int() | float()) if name in MODEL:
                self._set(path, name, value)
            case _:
                self._refuse(path)

    def _model(self, path: Path, model: str) -> None:
        plain = model.rpartition("/")[2]
        self.made["model"] = plain
        if plain in CLAUDE:
            self.made["provider"] = "claude"
            self._note(path, "adapted", "the Claude CLI is the provider claude")
        else:
            self._note(path, "ported" if plain == model else "adapted")

    def _tool(self, path: Path, tool: Any) -> None:
        if isinstance(tool, str) and tool in self._around.events:
            if tool not in self.made.setdefault("tools", []):
                self.made["tools"].append(tool)
            self._note(path, "ported")
        elif ":" in str(tool):
            self._note(path, "refused", f"there is no event {tool}")
        else:
            self._note(path, "refused", f"{tool} is no event: give it as a tool of a server of MCP")

    # ── notes ────────────────────────────────────────────────────────────────────────────────────────────────────────
    def _leave_words_only(self) -> None:
        """A prompt has nothing of an agent."""
        for field in sorted(self.made.keys() & set(Profile.__struct_fields__) - set(ORDER)):
            del self.made[field]
            self.notes.append(Note(1, field, "refused", "a prompt has none: say it in the agent that mixes it in"))

    def _set(self, path: Path, field: str, value: Any) -> None:
        self.made[field] = value
        self._note(path, "ported" if path[-1] == field else "adapted", "" if path[-1] == field else f"it is `{field}`")

    def _refuse(self, path: Path) -> None:
        self._note(path, "refused", NOT_HERE.get(str(path[-1]), _UNKNOWN))

    def _note(self, path: Path, verdict: Verdict, message: str = "") -> None:
        place = self._read.error("", path)
        self.notes.append(Note(place.line, _shown(path), verdict, message))


def _is_word(word: str) -> bool:
    try:
        msgspec.convert(word, Word)
    except msgspec.ValidationError:
        return False
    return True


def _shown(path: Path) -> str:
    """As in ``components[0].inline.model``."""
    steps = (f"[{step}]" if isinstance(step, int) else f".{step}" for step in path)
    return "".join(steps).removeprefix(".")


class _Dumper(yaml.SafeDumper):
    """Texts of several lines stand as such."""


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.Node:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


_Dumper.add_representer(str, _text)


def _yaml(made: Mapping[str, Any], file: str) -> str:
    ordered = {field: made[field] for field in (*ORDER, *made) if field in made}
    text = yaml.dump(ordered, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=110)
    return f"# From {file} of the original.\n{text if ordered else ''}"
