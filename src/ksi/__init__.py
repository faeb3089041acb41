"""KSI: an agent runtime that one can kill, rewind and rerun."""

from typing import TYPE_CHECKING

__version__ = "0.1.0"

_PUBLIC = {
    "AsyncPlugin": "ksi.kernel.plugin",
    "End": "ksi.kernel.declare",
    "EventClient": "ksi.client.client",
    "EventContext": "ksi.kernel.context",
    "EventEnvelope": "ksi.core.envelope",
    "EventMetadata": "ksi.core.envelope",
    "EventStore": "ksi.core.ports",
    "Failure": "ksi.core.result",
    "InMemoryEventStore": "ksi.store.memory",
    "KSIError": "ksi.core.errors",
    "NewEvent": "ksi.core.events",
    "Options": "ksi.client.client",
    "PostgresEventStore": "ksi.store.postgres_log",
    "RecordedEvent": "ksi.core.events",
    "Result": "ksi.core.result",
    "SqliteEventStore": "ksi.store.sqlite_log",
    "Success": "ksi.core.result",
    "SyncEventClient": "ksi.client.sync",
    "TimeTravelDebugger": "ksi.store.debugger",
    "View": "ksi.core.views",
    "bind_context": "ksi.core.context",
    "event": "ksi.kernel.declare",
    "event_context": "ksi.core.context",
    "fact": "ksi.core.events",
    "observer": "ksi.kernel.declare",
    "query": "ksi.kernel.declare",
    "stream": "ksi.kernel.declare",
}
__all__ = list(_PUBLIC)

if TYPE_CHECKING:
    from ksi.client.client import EventClient as EventClient
    from ksi.client.client import Options as Options
    from ksi.client.sync import SyncEventClient as SyncEventClient
    from ksi.core.context import bind_context as bind_context
    from ksi.core.context import event_context as event_context
    from ksi.core.envelope import EventEnvelope as EventEnvelope
    from ksi.core.envelope import EventMetadata as EventMetadata
    from ksi.core.errors import KSIError as KSIError
    from ksi.core.events import NewEvent as NewEvent
    from ksi.core.events import RecordedEvent as RecordedEvent
    from ksi.core.events import fact as fact
    from ksi.core.ports import EventStore as EventStore
    from ksi.core.result import Failure as Failure
    from ksi.core.result import Result as Result
    from ksi.core.result import Success as Success
    from ksi.core.views import View as View
    from ksi.kernel.context import EventContext as EventContext
    from ksi.kernel.declare import End as End
    from ksi.kernel.declare import event as event
    from ksi.kernel.declare import observer as observer
    from ksi.kernel.declare import query as query
    from ksi.kernel.declare import stream as stream
    from ksi.kernel.plugin import AsyncPlugin as AsyncPlugin
    from ksi.store.debugger import TimeTravelDebugger as TimeTravelDebugger
    from ksi.store.memory import InMemoryEventStore as InMemoryEventStore
    from ksi.store.postgres_log import PostgresEventStore as PostgresEventStore
    from ksi.store.sqlite_log import SqliteEventStore as SqliteEventStore
else:
    # Lazy, so that `import ksi.client` and the CLI stay light; hidden from mypy, which would take any name for good.
    def __getattr__(name: str) -> object:
        from importlib import import_module

        if name not in _PUBLIC:
            raise AttributeError(f"module 'ksi' has no attribute {name!r}")
        return getattr(import_module(_PUBLIC[name]), name)
