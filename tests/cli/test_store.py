"""``ksi backup`` and ``ksi store``: a log that is copied, and what helps one that no daemon opens."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.processes import Cli


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Cli]:
    """A home of the test's own, whose daemon it may stop."""
    cli = Cli(tmp_path / "home")
    assert cli("start", "--set", "http.enabled=false").returncode == 0
    cli.records("send", "state:set", "key=colour", "value=red")
    yield cli
    cli("stop", "-q")


def test_a_backup_says_its_position_and_becomes_a_home_again(own: Cli, tmp_path: Path) -> None:
    copy, blobs = tmp_path / "copy.db", tmp_path / "blobs"
    (tmp_path / "report").write_bytes(b"large")
    (put,) = own.records("blob", "put", str(tmp_path / "report"))
    (made,) = own.records("backup", str(copy), "--blobs", str(blobs))
    assert (made["blobs"]["blobs"], made["blobs"]["copied"]) == (1, 1)
    assert made["sha256"] == hashlib.sha256(copy.read_bytes()).hexdigest()
    (fact,) = own.records("log", "store:was_backed_up")
    assert fact["data"]["position"] == made["position"]
    own.records("send", "state:set", "key=colour", "value=green")
    other = Cli(tmp_path / "other")
    assert f"up to @{made['position']}" in other.text("store", "restore", str(copy), "--blobs", str(blobs))
    try:
        (found,) = other.records("send", "--start", "state:get", "key=colour")
        assert found["value"] == "red"
        other.text("blob", "get", put["blob"], str(tmp_path / "again"))
        assert (tmp_path / "again").read_bytes() == b"large"
        assert other.text("verify").startswith("the log is whole")
    finally:
        other("stop", "-q")


def test_what_was_sent_for_a_subject_is_in_no_file_of_the_home_once_it_is_erased(own: Cli) -> None:
    secret = "lighthouse-keeper"
    sent = own.records("send", "state:set", "key=who", f"value={secret}", "--subject", "person/1")
    assert sent[0]["version"] == 1
    own.records("projection", "rebuild", "state")
    assert any(secret.encode() in file.read_bytes() for file in files_of(own))
    said = own.text("erase", "person/1")
    assert said.endswith("built again: state\n")
    assert [str(file) for file in files_of(own) if secret.encode() in file.read_bytes()] == []
    assert own.text("verify").startswith("the log is whole")
    (found,) = own.records("send", "state:get", "key=who")
    assert found["found"] is False
    *_, shown = own.records("log", "state:")
    assert (shown["data"], shown["metadata"]["erased"]) == (None, True)
    own("restart")
    assert [str(file) for file in files_of(own) if secret.encode() in file.read_bytes()] == []


def files_of(cli: Cli) -> list[Path]:
    return [file for file in cli.home.rglob("*") if file.is_file()]


def test_a_log_that_is_there_is_not_restored_over(own: Cli, tmp_path: Path) -> None:
    own.text("backup", str(tmp_path / "copy.db"))
    running = own("store", "restore", str(tmp_path / "copy.db"))
    assert (running.returncode, "log_locked" in running.stderr) == (1, True)
    own("stop")
    there = own("store", "restore", str(tmp_path / "copy.db"))
    assert (there.returncode, "conflict" in there.stderr) == (1, True)


def test_a_log_that_lost_its_end_goes_on_when_somebody_says_so(own: Cli) -> None:
    own("stop")
    (verified,) = own.records("verify")
    head, log = verified["head"], own.home / "data" / "events.db"
    before = log.read_bytes()
    own.records("send", "--start", "state:set", "key=colour", "value=green")
    own("stop")
    log.write_bytes(before)
    refused = own("start")
    assert refused.returncode != 0
    assert f"but the log ends at @{head}" in refused.stderr
    said = own.text("store", "accept-loss", "--at", f"@{head}")
    assert said.startswith(f"The log ends at @{head}: @{head + 1} to @")
    (found,) = own.records("send", "--start", "state:get", "key=colour")
    assert found["value"] == "red"
    (loss,) = own.records("log", "store:")
    assert loss["data"]["at"] == head


def test_what_is_archived_is_named_by_who_reads_it_and_comes_back(ksi: Cli, tmp_path: Path) -> None:
    file = tmp_path / "old.archive"
    ksi.records("backup", str(tmp_path / "copy.db"))
    assert "there is nothing that can leave" in ksi.text("store", "archive", str(file), "--before", "1d")
    *_, effect = ksi.records("log", "--kind", "request", "effect:")
    (made,) = ksi.records("store", "archive", str(file), "--before", f"@{effect['position'] + 3}")
    assert made["rows"] >= 2
    assert made["sha256"] == hashlib.sha256(file.read_bytes()).hexdigest()
    away = ksi("show", f"@{effect['position']}")
    assert (away.returncode, f"ksi store attach {file}" in away.stderr) == (1, True)
    (size,) = [each for each in ksi.records("doctor") if each["name"] == "log"]
    assert "archived" in size["found"]
    assert "are in the log again" in ksi.text("store", "attach", str(file))
    assert ksi("show", f"@{effect['position']}").returncode == 0
    assert ksi("store", "archive", str(file)).returncode == 2


def test_upcasters_are_tried_on_all_that_is_stored(ksi: Cli) -> None:
    assert ksi.text("store", "check-upcasters") == "0 facts of older versions, all of them readable\n"


def test_a_large_payload_goes_there_and_comes_back(ksi: Cli, tmp_path: Path) -> None:
    content = os.urandom(700_000)
    (tmp_path / "report").write_bytes(content)
    shown = ksi.text("blob", "put", str(tmp_path / "report"), "--subject", "person/1")
    blob = hashlib.sha256(content).hexdigest()
    assert shown == f"{blob}  683.6 KiB\n"
    ksi.text("blob", "get", blob, str(tmp_path / "copy"))
    assert (tmp_path / "copy").read_bytes() == content
    (erased,) = ksi.records("erase", "person/1")
    assert erased["blobs"] == 1
    gone = ksi("blob", "get", blob, str(tmp_path / "another"))
    assert (gone.returncode, "not_found" in gone.stderr) == (1, True)
    assert not list(tmp_path.glob("another*"))


def test_an_empty_file_is_a_blob_too(ksi: Cli, tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    (made,) = ksi.records("blob", "put", str(tmp_path / "empty"))
    ksi.text("blob", "get", made["blob"], str(tmp_path / "copy"))
    assert (tmp_path / "copy").read_bytes() == b""
