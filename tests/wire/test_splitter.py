"""The splitter: lines come out as they went in, however they were cut; memory is bounded."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from ksi.core.errors import PayloadTooLargeError
from ksi.wire.splitter import Splitter

lines = st.lists(st.binary(max_size=40).filter(lambda line: b"\n" not in line), max_size=20)


def cut(data: bytes, places: list[int]) -> list[bytes]:
    edges = [0, *sorted(place % (len(data) + 1) for place in places), len(data)]
    return [data[start:stop] for start, stop in pairwise(edges)]


@given(lines, st.lists(st.integers(0, 1000), max_size=30))
def test_any_cutting_of_the_bytes_gives_the_same_lines(sent: list[bytes], places: list[int]) -> None:
    splitter = Splitter(frame_bytes_max=40)
    received = [line for part in cut(b"".join(line + b"\n" for line in sent), places) for line in splitter.feed(part)]
    assert received == sent
    assert splitter.size == 0


@given(lines, st.lists(st.integers(0, 1000), max_size=30))
def test_a_line_is_refused_exactly_when_it_is_longer_than_the_limit(sent: list[bytes], places: list[int]) -> None:
    splitter = Splitter(frame_bytes_max=10)
    received = [line for part in cut(b"".join(line + b"\n" for line in sent), places) for line in splitter.feed(part)]
    assert [line if isinstance(line, bytes) else None for line in received] == [
        line if len(line) <= 10 else None for line in sent
    ]


def test_a_line_without_end_is_not_kept() -> None:
    splitter = Splitter(frame_bytes_max=1000)
    for _ in range(100):
        assert splitter.feed(b"x" * 300) == []
        assert splitter.size <= 1000
    [error, line] = splitter.feed(b"\nnext\n")
    assert isinstance(error, PayloadTooLargeError)
    assert error.limit == 1000
    assert line == b"next"


def test_a_line_that_comes_byte_by_byte_is_whole() -> None:
    splitter = Splitter()
    for _ in range(3000):
        assert splitter.feed(b"x") == []
    assert splitter.feed(b"\n") == [b"x" * 3000]
