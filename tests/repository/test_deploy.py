"""The files of deploy/ say what systemd and KSI understand."""

from __future__ import annotations

import configparser
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from ksi.core.config import LimitsSection
from tests.docs.pages import ROOT

UNIT = ROOT / "deploy" / "ksi.service"
CONTAINER = ROOT / "deploy" / "Containerfile"


def service() -> configparser.SectionProxy:
    unit = configparser.ConfigParser(strict=False, interpolation=None)
    unit.optionxform = str  # type: ignore[assignment,method-assign]  # systemd's names have capitals
    unit.read(UNIT)
    return unit["Service"]


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd here that could read the unit")
def test_systemd_understands_the_unit(tmp_path: Path) -> None:
    copy = tmp_path / UNIT.name
    text = UNIT.read_text().replace("/usr/local/lib/ksi/bin/ksi", sys.executable)  # what it starts must be there
    copy.write_text(re.sub(r"(User|Group)=ksi", r"\1=root", text))
    said = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(copy)], capture_output=True, text=True, timeout=60, check=False
    )
    assert (said.returncode, [line for line in said.stderr.splitlines() if copy.name in line]) == (0, [])


def test_the_daemon_has_the_time_to_drain_before_systemd_kills_it() -> None:
    seconds = int(service()["TimeoutStopSec"].removesuffix("s"))
    assert seconds >= LimitsSection().stop_timeout + 15
    assert service()["KillMode"] == "mixed"


def test_the_unit_and_the_container_serve_in_the_foreground_as_a_user_of_their_own() -> None:
    assert service()["ExecStart"].endswith("/ksi serve")
    assert service()["User"] == "ksi"
    container = CONTAINER.read_text()
    assert 'CMD ["ksi", "serve"]' in container
    assert re.search(r"^USER ksi$", container, re.MULTILINE)


def test_what_the_container_copies_is_there() -> None:
    copied = re.findall(r"^COPY (?!--)(.+) \S+$", CONTAINER.read_text(), re.MULTILINE)
    files = [file for line in copied for file in line.split()]
    assert [file for file in files if not (ROOT / file).exists()] == []
    assert len(files) >= 5
