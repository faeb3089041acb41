"""What is installed: everything locked by hash, and a wheel that holds the package and nothing else."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path
from zipfile import ZipFile

import pytest

ROOT = Path(__file__).parents[2]
PINNED = re.compile(r"^([a-z0-9-]+)==\S+(?: ;[^\\]*)? \\\n((?: +--hash=sha256:[0-9a-f]{64}(?: \\)?\n)+)", re.MULTILINE)


def project() -> dict[str, list[str]]:
    with (ROOT / "pyproject.toml").open("rb") as file:
        metadata = tomllib.load(file)["project"]
    return {"core": metadata["dependencies"], **metadata["optional-dependencies"]}


def locked(lock: str) -> set[str]:
    return {match[1] for match in PINNED.finditer((ROOT / "requirements" / lock).read_text())}


def names(requirements: list[str]) -> set[str]:
    return {re.split(r"[^\w-]", requirement)[0] for requirement in requirements} - {"ksi"}


@pytest.mark.parametrize(
    ("lock", "extras"),
    [
        ("demo.txt", ["core", "local"]),
        ("dev.txt", ["core", "local", "testing", "dev"]),
        ("bench.txt", ["core", "bench"]),
    ],
)
def test_a_lock_pins_all_that_its_extras_declare(lock: str, extras: list[str]) -> None:
    declared = project()
    assert {name for extra in extras for name in names(declared[extra])} <= locked(lock)


@pytest.mark.parametrize("lock", ["demo.txt", "dev.txt", "bench.txt", "model.txt"])
def test_every_line_of_a_lock_is_pinned_by_hash(lock: str) -> None:
    text = (ROOT / "requirements" / lock).read_text()
    left = PINNED.sub("", text)
    assert [line for line in left.splitlines() if line.strip() and not line.lstrip().startswith("#")] == []


def test_the_wheel_holds_the_typed_package_its_licence_and_nothing_else(tmp_path: Path) -> None:
    build = ["-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--no-index", "--wheel-dir"]
    subprocess.run([sys.executable, *build, str(tmp_path), str(ROOT)], check=True, stdin=subprocess.DEVNULL)
    (wheel,) = tmp_path.glob("ksi-*.whl")
    with ZipFile(wheel) as archive:
        files = set(archive.namelist())
    assert {file.split("/")[0].removesuffix(".dist-info").split("-")[0] for file in files} == {"ksi"}
    assert "ksi/py.typed" in files
    assert any(file.endswith("/licenses/LICENSE") for file in files)
