"""The home: the one directory that holds all of a daemon. Apart from ``config``, for a client needs nothing else."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import msgspec

from ksi.core.errors import ConfigError

ROOM_MIN = 65_536
"""Bytes with which even opening a log fails: it writes an index of what is not yet in its place."""


class Home(msgspec.Struct, frozen=True):
    """Where the parts of a daemon are."""

    path: Path

    @property
    def socket(self) -> Path:
        return self.path / "daemon.sock"

    @property
    def data(self) -> Path:
        """What must not be lost."""
        return self.path / "data"

    @property
    def log(self) -> Path:
        """The log, an SQLite database."""
        return self.data / "events.db"

    @property
    def blobs(self) -> Path:
        """Payloads that are too large for an event."""
        return self.data / "blobs"

    @property
    def archives(self) -> Path:
        """What has left the log because it was old."""
        return self.data / "archives"

    @property
    def logs(self) -> Path:
        """What the daemon and its children say of themselves."""
        return self.path / "logs"

    @property
    def sandboxes(self) -> Path:
        """A directory for each agent."""
        return self.path / "sandboxes"

    @property
    def plugins(self) -> Path:
        return self.path / "plugins"

    @property
    def config_file(self) -> Path:
        return self.path / "ksi.toml"

    @property
    def pid_file(self) -> Path:
        return self.path / "daemon.pid"

    @property
    def http_file(self) -> Path:
        """Where the daemon that runs is reached over HTTP: ``{"url": …, "pid": …}``."""
        return self.path / "http.json"

    @property
    def token_file(self) -> Path:
        """The token of whoever owns the home, for what does not come over the Unix socket."""
        return self.path / "token"

    @property
    def tokens(self) -> Path:
        """All tokens, as digests."""
        return self.data / "tokens.json"

    @property
    def event_list(self) -> Path:
        """The events that the daemon had when it was last asked, for the shell's completion."""
        return self.path / "events.json"

    def make(self) -> None:
        """Make it, with the place of its data and logs, for its owner's eyes alone; what is there stays as it is.

        Raises:
            ConfigError: It can not be made.
        """
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            for directory in (self.path, self.data, self.logs):  # a mode is not that of missing parents
                directory.mkdir(mode=0o700, exist_ok=True)
        except OSError as error:
            raise ConfigError(f"can not be made: {error.strerror}", where=str(self.path)) from None

    @classmethod
    def choose(cls, given: str | Path | None, environ: Mapping[str, str]) -> Home:
        """``given``, else ``KSI_HOME``, else ``ksi`` in the XDG data directory; absolute, for the daemon moves away."""
        if chosen := given or environ.get("KSI_HOME"):
            return cls(Path(chosen).expanduser().absolute())
        data = environ.get("XDG_DATA_HOME") or "~/.local/share"
        return cls(Path(data).expanduser().absolute() / "ksi")


def said_of_disk(path: Path) -> str:
    """What is to be added to an error about ``path`` where its disk is full; else nothing."""
    try:
        disk = os.statvfs(path.parent)
    except OSError:
        return ""
    free = disk.f_bavail * disk.f_frsize
    return f"; its disk is full ({free} bytes are free): make room, and start again" if free < ROOM_MIN else ""
