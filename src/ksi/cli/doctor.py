"""``ksi doctor``: what may be wrong here, and what to do about it."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import shutil
import stat
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from statistics import median
from time import perf_counter

import apsw
import click
import msgspec

from ksi import __version__
from ksi.cli import equipment
from ksi.cli.failure import EXIT_EVENT_ERROR, remedy
from ksi.cli.finding import Check, configured, health_of, unknown
from ksi.cli.invocation import Invocation, command
from ksi.cli.output import json_line, size, status
from ksi.cli.reach import LOOK, UnresponsiveError, ask
from ksi.core import config
from ksi.core.errors import ConfigError, KSIConnectionError, KSIError, ModelUnavailableError, UnavailableError
from ksi.core.events import LogSizes
from ksi.core.home import Home
from ksi.plugins.sandbox.confine import confinement, landlock_version
from ksi.providers.model import SMOLLM2, ModelStore
from ksi.store.aside import damaged_logs
from ksi.store.lock import holder_of, lock_of
from ksi.store.offline import sizes_of_file
from ksi.store.schema import APPLICATION, STEPS
from ksi.transport.unix import PATH_BYTES_MAX

PYTHON_MIN = (3, 11)
SQLITE_MIN = (3, 51, 3)  # older ones can corrupt a WAL under a concurrent checkpoint
DISK_FREE_MIN = 100 << 20
DISK_FREE_GOOD = 1 << 30
SQLITE_HEAD_BYTES, SQLITE_VERSION_AT, SQLITE_APPLICATION_AT = 100, 60, 68
FSYNCS = 20
FSYNC_SLOW_MS = 20.0
FSYNC_DOUBTFUL_MS = 0.05
_LIBRARIES = ("apsw", "click", "httpx", "msgspec", "pluggy", "pydantic", "uvloop")


@command()
@click.pass_obj
def doctor(invocation: Invocation) -> None:
    """Check this machine and this home. Exit code 1 where something fails; warnings are no failure."""
    checks = [check(invocation) for check in CHECKS]
    for check in checks:
        click.echo(json_line(check) if invocation.json else _line(check))
    if any(check.level == "fail" for check in checks):
        sys.exit(EXIT_EVENT_ERROR)


def _line(check: Check) -> str:
    line = f"{status(check.level, 4)}  {check.name:12}  {check.found}"
    return f"{line}\n{'':20}{check.todo}" if check.todo else line


def python(_: Invocation) -> Check:
    found = f"{sys.version.split()[0]} in {sys.prefix}"
    if sys.version_info < PYTHON_MIN:
        return Check("python", "fail", found, "KSI needs Python 3.11 or later")
    return Check("python", "ok", found)


def versions(_: Invocation) -> Check:
    libraries = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in _LIBRARIES)
    return Check("versions", "ok", f"ksi {__version__}, {libraries}")


def sqlite(_: Invocation) -> Check:
    found = apsw.sqlite_lib_version()
    if tuple(map(int, found.split("."))) < SQLITE_MIN:
        return Check("sqlite", "fail", found, "it can corrupt the log: pip install --upgrade apsw")
    return Check("sqlite", "ok", found)


def store(invocation: Invocation) -> Check:
    said = configured(invocation)
    if said is None:
        return unknown("store")
    url = said.store.url
    if url is None:
        return Check("store", "ok", f"SQLite, {invocation.home.log}")
    if importlib.util.find_spec("psycopg") is None:
        return Check("store", "fail", "PostgreSQL, but nothing that speaks to it", "pip install 'ksi[postgres]'")
    from ksi.store import postgres_schema  # an extra

    try:
        database = postgres_schema.look_at(url.reveal())
    except UnavailableError as error:
        return Check("store", "fail", error.message, "start the server, or correct store.url")
    found = f"PostgreSQL {database.version}, {database.place}"
    if not database.syncs:
        return Check("store", "warn", f"{found}, fsync off", "what is acknowledged does not survive a power loss")
    return Check("store", "ok", found)


def home(invocation: Invocation) -> Check:
    path = invocation.home.path
    try:
        found = path.stat()
    except FileNotFoundError:
        return Check("home", "ok", f"{path} (not there yet; `ksi start` makes it)")
    except OSError as error:
        return Check("home", "fail", f"{path}: {error.strerror}", "choose another with --home or KSI_HOME")
    if found.st_uid != os.getuid():
        return Check("home", "fail", f"{path} belongs to uid {found.st_uid}", f"chown -R {os.getuid()} {path}")
    if found.st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        return Check("home", "warn", f"{path} is open to others ({found.st_mode & 0o777:o})", f"chmod 700 {path}")
    return Check("home", "ok", str(path))


def configuration(invocation: Invocation) -> Check:
    file = invocation.home.config_file
    try:
        config.load(invocation.home, os.environ)
    except ConfigError as error:
        return Check("config", "fail", error.message, "the daemon will not start with it")
    return Check("config", "ok", str(file) if file.exists() else "defaults")


def socket_path(invocation: Invocation) -> Check:
    bytes_used = len(os.fsencode(invocation.home.socket))
    found = f"{invocation.home.socket} ({bytes_used} of {PATH_BYTES_MAX} bytes)"
    if bytes_used > PATH_BYTES_MAX:
        return Check("socket", "fail", found, "too long for the system: choose a shorter --home")
    return Check("socket", "ok", found)


def leftovers(invocation: Invocation) -> Check:
    """What a daemon that was killed leaves behind; the next start clears it away."""
    there = invocation.home
    if holder_of(lock_of(there.log)) is not None:
        return Check("leftovers", "ok", "none: a daemon runs")
    left = [path.name for path in (there.socket, there.pid_file, there.http_file) if path.exists()]
    if left:
        return Check("leftovers", "warn", f"{', '.join(left)} of a daemon that was killed", "ksi start  # takes over")
    return Check("leftovers", "ok", "none")


def secrets(invocation: Invocation) -> Check:
    """Files that say who somebody is, and configuration, which may hold keys of providers."""
    there = invocation.home
    files = (there.token_file, there.tokens, there.config_file, there.log.with_name(f"{there.log.name}-keys"))
    exposed = [path for path in files if path.exists() and path.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO)]
    if not exposed:
        return Check("secrets", "ok", "for the owner's eyes only")
    names = " ".join(map(str, exposed))
    return Check("secrets", "warn", f"others may read {names}, if they come into the home", f"chmod 600 {names}")


def log_format(invocation: Invocation) -> Check:
    """From the head of the file, which nothing has to open for that."""
    try:
        with invocation.home.log.open("rb") as file:
            head = file.read(SQLITE_HEAD_BYTES)
    except FileNotFoundError:
        return Check("format", "ok", "no log yet")
    except OSError as error:
        return Check("format", "fail", f"{invocation.home.log}: {error.strerror}", "check its owner and permissions")
    application, version = (
        int.from_bytes(head[at : at + 4], "big") for at in (SQLITE_APPLICATION_AT, SQLITE_VERSION_AT)
    )
    if not head.startswith(b"SQLite format 3\0") or (application and application != APPLICATION):
        return Check("format", "fail", f"{invocation.home.log} is no log of KSI", "ksi store restore BACKUP --home NEW")
    if version > len(STEPS):
        found = f"format {version}, this KSI knows up to {len(STEPS)}"
        return Check("format", "fail", found, "install the newer KSI that wrote it; nothing was changed")
    found = f"format {version} of {len(STEPS)}"
    return Check("format", "ok", found if version == len(STEPS) else f"{found}: the next start brings it up")


def daemon(invocation: Invocation) -> Check:
    match health := health_of(invocation):
        case UnresponsiveError():
            return Check(
                "daemon", "fail", health.message, f"kill -9 {health.pid}; ksi start  # nothing recorded is lost"
            )
        case KSIConnectionError():
            return Check("daemon", "warn", "does not run", "ksi start")
        case KSIError():
            return Check("daemon", "fail", health.message, remedy(health))
    found = f"{health['status']}, version {health['version']}, pid {health['pid']}"
    if health["version"] != __version__:
        return Check("daemon", "warn", found, f"this is ksi {__version__}: ksi restart")
    if health["log"]["read_only"]:
        return Check("daemon", "fail", f"{found}: {health['log']['reason']}", "free disk space; it goes on by itself")
    return Check("daemon", "ok", found)


def model(_: Invocation) -> Check:
    try:
        path = ModelStore().verify()
    except ModelUnavailableError as error:
        return Check("model", "warn", error.message, "ksi model install")
    if importlib.util.find_spec("xllamacpp") is None:
        return Check("model", "warn", f"{path}, but nothing that runs it", "pip install 'ksi[local]'")
    return Check("model", "ok", f"{SMOLLM2.name}, sha256 {SMOLLM2.sha256[:16]}…, {path}")


def sandbox(invocation: Invocation) -> Check:
    said = configured(invocation)
    if said is None:
        return unknown("sandbox")
    found, wanted = confinement(), said.sandbox.confinement
    if wanted == "none":
        return Check("sandbox", "warn", "commands of agents can do all that you can", "sandbox.confinement says so")
    if found == "none" or (found, wanted) == ("partial", "full"):
        todo = "a kernel from 6.12 on with Landlock, or less in sandbox.confinement"
        return Check("sandbox", "warn", f"agents run no commands: this kernel's confinement is {found!r}", todo)
    return Check("sandbox", "ok", f"commands of agents are confined by Landlock, version {landlock_version()}")


def disk(invocation: Invocation) -> Check:
    free = shutil.disk_usage(_standing(invocation.home)).free
    if free < DISK_FREE_MIN:
        return Check("disk", "fail", f"{size(free)} free", "free some: a full disk makes the log read-only")
    if free < DISK_FREE_GOOD:
        return Check("disk", "warn", f"{size(free)} free", "free some before the log fills it")
    return Check("disk", "ok", f"{size(free)} free")


def fsync(invocation: Invocation) -> Check:
    place = _standing(invocation.home)
    try:
        milliseconds = _fsync_ms(place)
    except OSError as error:
        return Check("fsync", "fail", f"no file can be written in {place}: {error.strerror}", "check its permissions")
    found = f"{milliseconds:.2f} ms, median of {FSYNCS}"
    if milliseconds > FSYNC_SLOW_MS:
        return Check("fsync", "warn", found, "each commit waits for it: a home on a local SSD is faster")
    if milliseconds < FSYNC_DOUBTFUL_MS:
        return Check("fsync", "warn", found, "no disk is so fast: what is here may not survive a power loss")
    return Check("fsync", "ok", found)


def log_size(invocation: Invocation) -> Check:
    files = [path for path in invocation.home.data.rglob("*") if path.is_file()]
    found = f"{size(sum(path.stat().st_size for path in files))} in {invocation.home.data}"
    try:
        parts = _sizes(invocation)
    except KSIError:  # said by others of these checks
        parts = None
    if parts is None:
        return Check("log", "ok", found)
    about = "about " if parts.is_estimate else ""
    named = [(name, getattr(parts, name)) for name in parts.__struct_fields__ if name != "is_estimate"]
    return Check("log", "ok", f"{found}: {about}{', '.join(f'{name} {size(part)}' for name, part in named if part)}")


def _sizes(invocation: Invocation) -> LogSizes | None:
    """What of the log is what, as its daemon says or as it lies; None where it is not there."""
    if isinstance(health_of(invocation), UnresponsiveError):
        return None
    try:
        return msgspec.convert(ask(invocation, "store:sizes", may_start=False, within=LOOK), LogSizes)
    except KSIConnectionError:
        return sizes_of_file(invocation.home.log) if invocation.home.log.exists() else None


def damaged(invocation: Invocation) -> Check:
    files = damaged_logs(invocation.home.log)
    if not files:
        return Check("damaged", "ok", "no damaged log was put aside")
    todo = f"once you need them no more: rm {' '.join(map(str, files))}  # an erasure does not reach them"
    return Check("damaged", "warn", f"{len(files)} files of damaged logs that were put aside", todo)


CHECKS: tuple[Callable[[Invocation], Check], ...] = (
    python,
    versions,
    sqlite,
    home,
    configuration,
    store,
    socket_path,
    leftovers,
    secrets,
    log_format,
    daemon,
    equipment.http,
    equipment.plugins,
    equipment.providers,
    model,
    equipment.compositions,
    equipment.servers,
    sandbox,
    disk,
    fsync,
    log_size,
    damaged,
)


def _standing(home: Home) -> Path:
    """The log's directory, or the nearest above it that exists."""
    return next(path for path in (home.data, *home.data.parents) if path.is_dir())


def _fsync_ms(directory: Path) -> float:
    with tempfile.TemporaryFile(dir=directory) as file:
        return median(_one_fsync(file.fileno()) for _ in range(FSYNCS)) * 1000


def _one_fsync(descriptor: int) -> float:
    began = perf_counter()
    os.write(descriptor, bytes(4096))
    os.fsync(descriptor)
    return perf_counter() - began
