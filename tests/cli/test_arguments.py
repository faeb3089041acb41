"""What stands on a command line becomes what was meant, or a usage error that says how to write it."""

from pathlib import Path

import click
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ksi.cli.arguments import MOMENT, POSITION, MomentType, payload
from ksi.cli.schema import as_command, schema_lines


class StoppedClock:
    def time_us(self) -> int:
        return 1_000_000_000_000

    def monotonic(self) -> float:
        return 0.0


def test_a_text_stays_a_text_and_json_becomes_its_value() -> None:
    assert payload(["key=1", 'value:={"x":[1,true,null]}', "empty=", "sum=a=b"]) == {
        "key": "1",
        "value": {"x": [1, True, None]},
        "empty": "",
        "sum": "a=b",
    }


def test_a_value_comes_from_a_file(tmp_path: Path) -> None:
    text, data = tmp_path / "text", tmp_path / "data"
    text.write_text("one\ntwo\n")
    data.write_text("[1, 2]")
    assert payload([f"text=@{text}", f"data:=@{data}"]) == {"text": "one\ntwo\n", "data": [1, 2]}


def test_a_position_is_a_text_where_no_file_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "2").write_text("a file")
    assert payload(["id=@1", "text=@2"]) == {"id": "@1", "text": "a file"}


@pytest.mark.parametrize(
    "arguments", [["key"], ["=x"], ["1a=x"], ["a:={x}"], ["a=1", "a=2"], ["a=@/nowhere/at/all"], ["a:=" + "[" * 5000]]
)
def test_what_is_no_field_is_a_usage_error(arguments: list[str]) -> None:
    with pytest.raises(click.UsageError):
        payload(arguments)


@given(st.dictionaries(st.from_regex(r"[A-Za-z_][\w.-]{0,8}", fullmatch=True), st.text(max_size=20)))
def test_every_json_value_can_be_typed(fields: dict[str, str]) -> None:
    assert payload([f"{key}:={msgspec.json.encode(value).decode()}" for key, value in fields.items()]) == fields


@pytest.mark.parametrize(("text", "position"), [("@1234", 1234), ("7", 7)])
def test_a_position_is_written_with_its_sign(text: str, position: int) -> None:
    assert POSITION.convert(text, None, None) == position


@pytest.mark.parametrize("text", ["@", "@-1", "@1.5", "@²", "last"])
def test_what_is_no_position_is_a_usage_error(text: str) -> None:
    with pytest.raises(click.BadParameter):
        POSITION.convert(text, None, None)


@pytest.mark.parametrize(
    ("text", "time_us"),
    [
        ("5m", 1_000_000_000_000 - 300_000_000),
        ("1.5s", 1_000_000_000_000 - 1_500_000),
        ("99999999999d", 0),
        ("1970-01-02T00:00:00+00:00", 86_400_000_000),
    ],
)
def test_a_time_is_an_age_or_a_moment(text: str, time_us: int) -> None:
    assert MomentType(StoppedClock()).convert(text, None, None) == time_us


@pytest.mark.parametrize("text", ["5", "m", "5 minutes", "yesterday", "9" * 400 + "d"])
def test_what_is_no_time_is_a_usage_error(text: str) -> None:
    with pytest.raises(click.BadParameter):
        MOMENT.convert(text, None, None)


class Point(msgspec.Struct):
    x: int


class Shape(msgspec.Struct):
    """A shape."""

    name: str
    origin: Point
    tags: list[str] = []
    colour: str | None = None


def test_a_schema_is_read_as_fields_with_their_types() -> None:
    assert list(schema_lines(msgspec.json.schema(Shape))) == [
        "name    string         required",
        "origin  Point          required",
        "tags    [string]       default []",
        "colour  string | null  default null",
    ]


def test_an_example_is_a_command_line_that_a_shell_takes() -> None:
    line = as_command("state:set", {"key": "a b", "value": {"x": 1}, "text": "@home"})
    assert line == """ksi send state:set 'key=a b' 'value:={"x":1}' 'text:="@home"'"""
