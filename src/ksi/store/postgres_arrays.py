"""Columns of a batch as PostgreSQL's arrays, binary and always of one type: so one statement stays prepared."""

from __future__ import annotations

import struct
from typing import Any

import psycopg
from psycopg.adapt import Dumper
from psycopg.pq import Format

BIGINT, BYTEA = 20, 17  # object ids of the types of the elements
_HEAD = struct.Struct(">iiIii")  # dimensions, whether there are nulls, type of the elements, their number, first index
_EMPTY = struct.Struct(">iiI")


class Bigints(list[int]):
    """``bigint[]``."""


class Byteas(list[bytes]):
    """``bytea[]``."""


class BigintsDumper(Dumper):
    format = Format.BINARY
    oid = 1016

    def dump(self, obj: Bigints) -> bytes:
        elements = struct.pack(">" + "iq" * len(obj), *[part for number in obj for part in (8, number)])
        return _head(len(obj), BIGINT) + elements


class ByteasDumper(Dumper):
    format = Format.BINARY
    oid = 1001

    def dump(self, obj: Byteas) -> bytes:
        return _head(len(obj), BYTEA) + b"".join([part for raw in obj for part in (len(raw).to_bytes(4, "big"), raw)])


def _head(count: int, element: int) -> bytes:
    return _HEAD.pack(1, 0, element, count, 1) if count else _EMPTY.pack(0, 0, element)


def register(connection: psycopg.Connection[Any]) -> None:
    """Let ``connection`` take both."""
    connection.adapters.register_dumper(Bigints, BigintsDumper)
    connection.adapters.register_dumper(Byteas, ByteasDumper)
