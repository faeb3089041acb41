"""A PostgreSQL server for all tests of the session that ask for one."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from ksi.testing.postgres import ABSENT, PostgresServer, binaries, postgres_server


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    if binaries() is None:
        pytest.skip(ABSENT)
    with postgres_server() as server:
        yield server


@pytest.fixture
def database(postgres: PostgresServer) -> Iterator[str]:
    """Name of a fresh database."""
    with postgres.database() as name:
        yield name


@pytest.fixture
def url(postgres: PostgresServer, database: str) -> str:
    """A fresh database."""
    return postgres.url(database)
