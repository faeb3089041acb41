"""The form of an answer: a JSON schema that it must fit."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ksi.core import canonical
from ksi.core.errors import KSIError, ValidationError

RETRIES = 2
"""How often a model is told what is wrong with its answer."""
PROBLEM_MAX = 500
"""Characters of it that the model is told."""
_FENCE = "```"


class Form:
    """A schema. Raises ValidationError where it is none, or refers to what lies elsewhere: nothing is fetched."""

    def __init__(self, schema: Mapping[str, Any]) -> None:
        from jsonschema_rs import validator_for  # 15 MB, for turns that have a schema

        try:
            self._validator = validator_for(dict(schema), retriever=_fetch_nothing)
        except ValueError as error:
            raise ValidationError(f"response_schema is no JSON schema: {_first_line(error)}") from None

    def read(self, text: str) -> tuple[Any, str | None]:
        """The value that ``text`` says, and what is wrong with it; None: nothing."""
        try:
            value = canonical.decode(_without_fence(text).encode())
        except (KSIError, ValueError) as error:
            return None, f"it is no JSON: {_first_line(error)}"
        first = next(iter(self._validator.iter_errors(value)), None)
        if first is None:
            return value, None
        place = "/".join(map(str, first.instance_path))
        return value, (f"{place}: {first.message}" if place else first.message)[:PROBLEM_MAX]


def correction(problem: str) -> str:
    """What the model is told when its answer does not fit."""
    return f"Your answer does not fit the schema: {problem}. Answer again, with the whole JSON value and nothing else."


def _without_fence(text: str) -> str:
    """Models like to put JSON between fences, whatever they are told."""
    stripped = text.strip()
    if not (stripped.startswith(_FENCE) and stripped.endswith(_FENCE) and "\n" in stripped):
        return stripped
    return stripped.removesuffix(_FENCE).partition("\n")[2]


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0][:PROBLEM_MAX]


def _fetch_nothing(uri: str) -> Any:
    raise ValueError(f"{uri} is not fetched")
