"""Tables of views that change places in SQLite: a rename costs the same for any size, a drop does not.

What is no longer wanted is set aside first and dropped later; what a crash leaves aside goes with the next one.
"""

from __future__ import annotations

from collections.abc import Collection

import apsw

from ksi.store.shelf import SqliteShelf, quoted
from ksi.store.views import BESIDE

ASIDE = "~old"


def set_aside(name: str, connection: apsw.Connection) -> None:
    """Make that the view ``name`` has no records, and never had any."""
    drop_aside(name, connection)
    connection.execute("DELETE FROM views WHERE name = ?", (name,))
    table = f"view:{name}"
    if connection.execute("SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = ?", (table,)).get:
        connection.execute(f"ALTER TABLE {quoted(table)} RENAME TO {quoted(table + ASIDE)}")


def drop_aside(name: str, connection: apsw.Connection) -> None:
    """Drop what :func:`set_aside` has left."""
    connection.execute(f"DROP TABLE IF EXISTS {quoted(f'view:{name}{ASIDE}')}")


def drop_others(views: Collection[str], connection: apsw.Connection) -> None:
    """Drop the tables of all but ``views``, and what was set aside of these."""
    names = [str(name) for (name,) in connection.execute(_TABLES).fetchall()]
    for name in names:
        view = name.removeprefix("view:")
        if view.removesuffix(BESIDE) not in views:
            connection.execute(f"DROP TABLE {quoted(name)}")
            connection.execute("DELETE FROM views WHERE name = ?", (view,))


_TABLES = "SELECT name FROM sqlite_master WHERE type = 'table' AND name LIKE 'view:%'"


def put_in_place(name: str, shelf: SqliteShelf, connection: apsw.Connection) -> None:
    """Write what ``shelf`` has begun, and let its table be that of the view ``name``."""
    set_aside(name, connection)
    shelf.write(connection)
    connection.execute(f"ALTER TABLE {shelf.table} RENAME TO {quoted(f'view:{name}')}")
    connection.execute("UPDATE views SET name = ? WHERE name = ?", (name, shelf.name))
