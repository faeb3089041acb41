"""What all tests share. PostgreSQL is for those that ask for it: they are skipped where it is not installed."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest
from hypothesis import settings

from ksi.testing.postgres import ABSENT, PostgresServer, binaries, postgres_server

settings.register_profile("every run", max_examples=50)  # of those that say no number: the suite has minutes, not hours
settings.load_profile("every run")


def pytest_configure() -> None:
    """A shell's background job ignores SIGINT, and so would every process that a test starts and interrupts."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """A server for all of them."""
    yield from _running()


@pytest.fixture
def own_postgres() -> Iterator[PostgresServer]:
    """A server that may be stopped."""
    yield from _running()


def _running() -> Iterator[PostgresServer]:
    if binaries() is None:
        pytest.skip(ABSENT)
    with postgres_server() as server:
        yield server


@pytest.fixture
def url(postgres: PostgresServer) -> Iterator[str]:
    """A database without a log; the same for all tests, because it takes longer to make one than most of them do."""
    yield postgres.url("postgres")
    postgres.execute("DROP SCHEMA IF EXISTS ksi CASCADE")
