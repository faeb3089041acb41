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
def url(postgres: PostgresServer) -> Iterator[str]:
    """A database without a log; the same for all tests, because it takes longer to make one than most of them do."""
    yield postgres.url("postgres")
    postgres.execute("DROP SCHEMA IF EXISTS ksi CASCADE")
