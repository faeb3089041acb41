"""The rows of the bench run."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import pytest

from ksi.bench import curve, dispatch, fanout, features, http, main, store
from ksi.bench.load import Load
from ksi.bench.measure import Contestant, Row, Sample, measure


@pytest.mark.parametrize("suite", [dispatch, store])
def test_the_rows_of_a_suite_run(suite: object, tmp_path: Path) -> None:
    with suite.rows(tmp_path, count=1280) as rows:  # type: ignore[attr-defined]  # a module of the bench
        results = [result for row in rows for result in measure(row, 1)]
    assert all(result.rate > 0 and result.cpu_us >= 0 for result in results)
    assert results[0].ratio == 1.0


@pytest.mark.soak
@pytest.mark.parametrize("suite", [http, fanout])
def test_the_rows_over_http_run(suite: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("orjson", reason="the floors need it")
    monkeypatch.setattr(fanout, "SUBSCRIBERS", (10,))
    with suite.rows(tmp_path, count=1920) as rows:  # type: ignore[attr-defined]  # as above
        results = [result for row in rows for result in measure(row, 1)]
    assert all(result.rate > 0 for result in results)


def test_the_curve_has_a_mark_for_each_step_and_finds_what_it_wrote(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(curve, "READS", 20)
    assert main.main(["curve", "--commands", "1500", "--json"]) == 0
    found = [msgspec.json.decode(text, type=curve.Mark) for text in capsys.readouterr().out.splitlines()]
    assert [mark.commands for mark in found] == [1000, 1500]
    assert all(
        mark.rate > 0 and mark.by_id > 0 and mark.by_state > 0 and mark.rss > 10**7 and mark.size > 100
        for mark in found
    )
    assert curve.marks(300_000) == [1000, 3000, 10_000, 30_000, 100_000, 300_000]


def test_an_unknown_suite_is_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main.main(["wires"])
    assert caught.value.code == 2
    assert "dispatch" in capsys.readouterr().err


@pytest.fixture
def echo(tmp_path: Path) -> Iterator[Path]:
    """A server that answers each line with ``{"ok":true}``, or, where it says "bad", with an error."""
    path = tmp_path / "echo.sock"
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(str(path))
    listening.listen()

    def serve() -> None:
        peer, _ = listening.accept()
        with peer:
            rest = b""
            while data := peer.recv(65536):
                *lines, rest = (rest + data).split(b"\n")
                answers = [b'{"ok":false}\n' if b"bad" in line else b'{"ok":true}\n' for line in lines]
                peer.sendall(b"".join(answers))

    thread = threading.Thread(target=serve)
    thread.start()
    yield path
    thread.join(timeout=10)
    listening.close()


@pytest.fixture(params=["C", "Python"])
def load(request: pytest.FixtureRequest, tmp_path: Path) -> Load:
    built = Load.build(tmp_path) if request.param == "C" else Load(None)
    if built.language != request.param:
        pytest.skip("no C compiler (cc) here")
    return built


def test_the_generator_counts_what_is_answered(load: Load, echo: Path, tmp_path: Path) -> None:
    lines = tmp_path / "lines"
    lines.write_bytes(b"".join(b'{"id":%d}\n' % number for number in range(7)))
    assert load.run(echo, lines, window=3, count=100) > 0


def test_an_error_among_the_answers_ends_the_measurement(load: Load, echo: Path, tmp_path: Path) -> None:
    lines = tmp_path / "lines"
    lines.write_bytes(b'{"id":1}\n{"id":2,"bad":1}\n')
    with pytest.raises(RuntimeError, match="error"):
        load.run(echo, lines, window=2, count=10)


def test_a_peer_that_is_not_installed_is_one_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    @contextmanager
    def rows(directory: Path, *, count: int) -> Iterator[list[Row]]:
        yield [Row("row", [Contestant("KSI", lambda: Sample(count, 1.0))], ["nats-py"])]

    monkeypatch.setitem(main.SUITES, "store", (rows, 100))
    assert main.main(["store"]) == 0
    assert capsys.readouterr().err == "row: nats-py is not installed (make bench installs it)\n"


def test_each_feature_has_a_line_with_what_it_adds(tmp_path: Path) -> None:
    found = list(features.features(tmp_path, count=64, repetitions=1))
    assert [feature.name for feature in found[:-1]] == [step.name for step in features.STEPS]
    assert all(feature.cpu_us > 0 for feature in found)
    first, second, *_ = found
    assert second.adds_us == pytest.approx(second.cpu_us - first.cpu_us)
