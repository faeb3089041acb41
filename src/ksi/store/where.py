"""The expressions of ``ksi bisect --where``: a predicate over a state, in a language that can do nothing else.

::

    expression = conjunction {"or" conjunction}
    conjunction = negation {"and" negation}
    negation = "not" negation | comparison
    comparison = value [("==" | "!=" | "<" | "<=" | ">" | ">=" | "contains") value]
    value = path | text | number | "true" | "false" | "null" | "(" expression ")"

A path that leads nowhere is null. ``contains`` looks for a text in a text and in all that is below a value. Values that
have no order are not less than each other. What stands alone counts as true unless it is false, null, 0 or empty.
"""

from __future__ import annotations

import ast
import operator
import re
from collections.abc import Callable, Mapping
from typing import Any

from ksi.core.errors import ValidationError
from ksi.store.structure import MISSING, STEPS, parse_path, plain, value_at

Value = Callable[[Any], Any]
"""Takes a state."""
_TOKEN = re.compile(
    rf"""\s*(?:(?P<text>"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*')|(?P<number>-?\d+(?:\.\d+)?)"""
    rf"""|(?P<symbol>==|!=|<=|>=|<|>|\(|\))|(?P<word>[A-Za-z_][\w-]*{STEPS}*))\s*"""
)
_CONSTANTS = {"true": True, "false": False, "null": None}
_DEPTH_MAX = 64


def compile_where(text: str) -> Callable[[Any], bool]:
    """The predicate that ``text`` stands for.

    Raises:
        ValidationError: It is none; the message says where.
    """
    parser = _Parser(text)
    value = parser.expression()
    parser.expect_end()
    return lambda state: bool(value(state))


class _Parser:
    def __init__(self, text: str) -> None:
        self._text = text
        self._end = 0
        self._depth = 0
        self._token: tuple[str, str] = ("end", "")
        self._next()

    def expression(self) -> Value:
        return self._joined("or", any, lambda: self._joined("and", all, self._negation))

    def expect_end(self) -> None:
        if self._token[0] != "end":
            raise self._error(f"unexpected {self._token[1]!r}")

    def _joined(self, word: str, join: Callable[[Any], bool], part: Callable[[], Value]) -> Value:
        parts = [part()]
        while self._took(word):
            parts.append(part())
        return parts[0] if len(parts) == 1 else lambda state: join(value(state) for value in parts)

    def _negation(self) -> Value:
        if self._took("not"):
            negated = self._deeper(self._negation)
            return lambda state: not negated(state)
        return self._comparison()

    def _comparison(self) -> Value:
        left = self._value()
        compare = _OPERATORS.get(self._token[1]) if self._token[0] in ("symbol", "word") else None
        if compare is None:
            return left
        self._next()
        right = self._value()
        return lambda state: compare(left(state), right(state))

    def _value(self) -> Value:
        kind, token = self._token
        if self._took("("):
            value = self._deeper(self.expression)
            if not self._took(")"):
                raise self._error("a parenthesis is not closed")
            return value
        if kind in ("end", "symbol"):
            raise self._error(f"a value is missing before {token!r}" if token else "a value is missing at the end")
        self._next()
        if kind == "word" and token not in _CONSTANTS:
            path = parse_path(token)
            return lambda state: _or_null(value_at(state, path))
        constant = _CONSTANTS[token] if kind == "word" else self._literal(token)
        return lambda state: constant

    def _literal(self, token: str) -> Any:
        try:
            return ast.literal_eval(token)
        except (ValueError, SyntaxError):  # an escape that Python has not
            raise self._error(f"{token} is no text") from None

    def _deeper(self, part: Callable[[], Value]) -> Value:
        self._depth += 1
        if self._depth > _DEPTH_MAX:
            raise self._error("it is nested too deep")
        value = part()
        self._depth -= 1
        return value

    def _took(self, token: str) -> bool:
        if self._token[1] != token or self._token[0] == "text":
            return False
        self._next()
        return True

    def _next(self) -> None:
        match = _TOKEN.match(self._text, self._end)
        if match is not None and match.lastgroup is not None:
            self._token = (match.lastgroup, match[match.lastgroup])
            self._end = match.end()
        elif self._end < len(self._text):
            raise self._error(f"{self._text[self._end]!r} is not understood")
        else:
            self._token = ("end", "")

    def _error(self, words: str) -> ValidationError:
        return ValidationError(f"{self._text!r}, up to character {self._end}: {words}")


def _or_null(value: Any) -> Any:
    return None if value is MISSING else plain(value)


def _contains(value: Any, part: Any) -> bool:
    if isinstance(value, str):
        return isinstance(part, str) and part in value
    below = value.values() if isinstance(value, Mapping) else value if isinstance(value, list) else ()
    return any(each == part or _contains(each, part) for each in below)


def _ordered(compare: Callable[[Any, Any], bool]) -> Callable[[Any, Any], bool]:
    def compared(left: Any, right: Any) -> bool:
        try:
            return compare(left, right)
        except TypeError:
            return False

    return compared


_OPERATORS: Mapping[str, Callable[[Any, Any], bool]] = {
    "==": operator.eq,
    "!=": operator.ne,
    "<": _ordered(operator.lt),
    "<=": _ordered(operator.le),
    ">": _ordered(operator.gt),
    ">=": _ordered(operator.ge),
    "contains": _contains,
}
