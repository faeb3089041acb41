"""Peers are measured with clients that count whole answers, and where a peer is missing the others still run."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ksi.bench import nats_server, peer_load, peer_servers, peers
from ksi.bench.measure import measure


def test_a_mark_is_counted_also_where_it_is_cut_in_two() -> None:
    stream = b"MSG answers 1 3\r\nabc\r\n" * 5
    for cut in range(1, 30):
        heard = peer_load.marks(b"MSG answers ")
        pieces = [stream[at : at + cut] for at in range(0, len(stream), cut)]
        assert sum(heard(piece) for piece in pieces) == 5


def http2(kind: int, flags: int, payload: bytes) -> bytes:
    return len(payload).to_bytes(3, "big") + bytes((kind, flags)) + (1).to_bytes(4, "big") + payload


def test_the_trailers_of_calls_are_counted_however_the_bytes_come() -> None:
    call = http2(1, 4, b"head") + http2(0, 0, b"message") + http2(1, 5, b"trailers")
    stream = http2(4, 0, b"") + call * 3
    for cut in range(1, 40):
        heard = peer_load.GrpcAnswers()
        assert sum(heard(stream[at : at + cut]) for at in range(0, len(stream), cut)) == 3


def test_a_call_that_ends_without_a_message_is_an_error() -> None:
    with pytest.raises(RuntimeError, match="error"):
        peer_load.GrpcAnswers()(http2(1, 5, b"trailers alone"))


def test_peers_give_back_what_fits_the_type_and_refuse_the_rest() -> None:
    body = b'{"key":"a","text":"b","count":1,"ratio":0.5,"tags":["c"]}'
    assert peer_servers.echo(body) == body
    with pytest.raises(ValueError, match="key"):
        peer_servers.echo(b"{}")


@pytest.mark.soak
def test_the_rows_run_with_those_peers_that_are_installed(tmp_path: Path) -> None:
    with peers.rows(tmp_path, count=1920) as rows:
        results = [result for row in rows for result in measure(row, 1)]
    assert all(result.rate > 0 for result in results)
    assert {row.name for row in rows} == {result.row for result in results}


@pytest.mark.skipif(bool(nats_server.missing()), reason="NATS is not installed: make bench")
def test_the_nats_server_of_the_bench_ends_with_its_block(tmp_path: Path) -> None:
    with nats_server.nats_server(tmp_path / "nats") as server:
        assert server.port > 0
        os.kill(server.pid, 0)
    with pytest.raises(ProcessLookupError):
        os.kill(server.pid, 0)
