"""Every error of KSI, in one tree, so that a client raises the very class that the daemon raised.

::

    KSIError
    ├─ RequestError                the request can not be served as it was sent
    │  ├─ ValidationError          ├─ UnknownEventError        ├─ NoHandlerError
    │  ├─ PermissionDeniedError    ├─ PayloadTooLargeError     ├─ InvalidFrameError
    │  ├─ NotFoundError            ├─ AmbiguousError           ├─ ConflictError
    │  ├─ HopLimitError            ├─ UnsupportedError         ├─ MisdirectedError
    │  ├─ UnauthorizedError        ├─ BeyondHeadError          └─ CompositionError
    ├─ HandlerError                a handler did not do what it declared
    │  ├─ NoAnswerError            ├─ InvalidResponseError     ├─ InternalError
    │  ├─ HandlersFailedError      ├─ PartitionDeadlockError   ├─ QueryWroteError
    │  └─ ContextClosedError
    ├─ LapseError                  time or patience ran out
    │  ├─ EventTimeoutError        ├─ DeadlineExceededError    └─ CancelledError
    ├─ OutcomeUnknownError         it may or may not have happened
    │  └─ InterruptedRunError     a completion was cut off; its tokens are kept
    ├─ ReplayError                 a run was not what it was when it was run once more
    │  ├─ ReplayDivergenceError    ├─ ReplayEscapeError        └─ ReplayUnhandledError
    ├─ CapacityError               not now
    │  ├─ OverloadedError          ├─ UnavailableError         ├─ ShuttingDownError
    │  ├─ BudgetExceededError
    │  └─ StreamStalledError
    ├─ DeclarationError            a plugin is wrong; found at registration
    │  ├─ DuplicateEventError      ├─ MissingServiceError      ├─ DependencyCycleError
    │  └─ PluginFailedError
    ├─ StoreError
    │  ├─ WrongExpectedVersionError  ├─ AppendConditionError     ├─ EventIdConflictError
    │  ├─ CheckpointConflictError    ├─ LogDamagedError          ├─ LogLockedError
    │  ├─ StoreClosedError           ├─ SubscriptionDroppedError ├─ ArchivedError
    │  └─ LogVersionError
    ├─ ProviderError               a language model's provider failed
    │  ├─ RateLimitedError         ├─ ProviderAuthError        ├─ ProviderInvalidRequestError
    │  ├─ ContextLengthError       ├─ ProviderOverloadedError  ├─ ProviderTimeoutError
    │  ├─ StreamInterruptedError   ├─ ProviderBugError         ├─ ModelUnavailableError
    │  └─ InvalidAnswerError
    ├─ ToolError                   a tool that a server of MCP offers gave no result
    │  ├─ ToolFailedError          └─ ToolServerError
    ├─ ConfigError                 the configuration is wrong
    ├─ ClientError                 the client's own
    │  ├─ KSIConnectionError       └─ KSITimeoutError
    └─ RemoteError                 a code this version does not know

``code`` is stable and goes on the wire; the attributes are the wire's ``details``; the remedy is the docstring.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar


class KSIError(Exception):
    """Base of every error that KSI raises."""

    code: ClassVar[str] = "error"
    retryable: ClassVar[bool] = False

    def details(self) -> dict[str, Any]:
        """The facts of this error: JSON-able values by name, in the order in which the log gives them back."""
        return {name: value for name, value in sorted(vars(self).items()) if not name.startswith("_")}

    @property
    def message(self) -> str:
        """One sentence for people."""
        return str(self.args[0]) if self.args else self.code

    def __reduce__(self) -> tuple[Any, ...]:
        return (from_wire, (self.code, self.message, self.details()))


def from_wire(code: str, message: str, details: Mapping[str, Any] | None = None) -> KSIError:
    """The error that ``code`` names, with its message and facts; an unknown code becomes :class:`RemoteError`."""
    kind = _by_code().get(code)
    if kind is None:
        return RemoteError(code, message, dict(details or {}))
    error = kind.__new__(kind)
    error.args = (message,)
    # A peer's fact must not hide a method or the code.
    vars(error).update({name: fact for name, fact in (details or {}).items() if not hasattr(KSIError, name)})
    return error


def _by_code() -> dict[str, type[KSIError]]:
    if not _CODES:
        _collect(KSIError)
    return _CODES


def _collect(kind: type[KSIError]) -> None:
    _CODES.setdefault(kind.code, kind)
    for child in kind.__subclasses__():
        if child.__module__ == __name__:
            _collect(child)


_CODES: dict[str, type[KSIError]] = {}


# ── the request ──────────────────────────────────────────────────────────────────────────────────────────────────────
class RequestError(KSIError):
    """The request can not be served as it was sent."""

    code = "request_error"


class ValidationError(RequestError):
    """The payload does not fit the event's schema.

    ``errors`` names each place and what is wrong there; ``ksi events NAME`` shows the schema.
    """

    code = "validation_error"

    def __init__(
        self, message: str, *, errors: Sequence[Mapping[str, Any]] = (), event_name: str | None = None
    ) -> None:
        super().__init__(message)
        self.event_name = event_name
        self.errors = [dict(error) for error in errors]


class UnknownEventError(RequestError):
    """No plugin declares this event; ``ksi events`` lists those that there are.

    ``suggestions`` are names that look like it, where there are some.
    """

    code = "unknown_event"

    def __init__(self, event_name: str, *, suggestions: Sequence[str] = ()) -> None:
        hint = f"; did you mean {' or '.join(suggestions)}?" if suggestions else ""
        super().__init__(f"unknown event {event_name!r}{hint}")
        self.event_name = event_name
        self.suggestions = list(suggestions)


class NoHandlerError(RequestError):
    """The event is declared, and nobody handles it: ``plugin`` did not start. ``ksi plugin list`` says why; load it."""

    code = "no_handler"

    def __init__(self, event_name: str, *, plugin: str | None = None) -> None:
        reason = f": plugin {plugin!r} did not start" if plugin else ""
        super().__init__(f"nobody handles {event_name!r}{reason}")
        self.event_name = event_name
        self.plugin = plugin


class UnauthorizedError(RequestError):
    """There is no token, or one that is wrong, has expired or was revoked. Send what ``ksi token`` prints."""

    code = "unauthorized"


class PermissionDeniedError(RequestError):
    """The principal's profile denies this event. ``rule`` names the line that decided."""

    code = "permission_denied"

    def __init__(self, event_name: str, *, principal: str, rule: str) -> None:
        super().__init__(f"{principal} may not {event_name}: rule {rule}")
        self.event_name = event_name
        self.principal = principal
        self.rule = rule


class PayloadTooLargeError(RequestError):
    """More bytes than ``limit`` allows. Split it, or stream it."""

    code = "payload_too_large"

    def __init__(self, what: str, *, size: int | None, limit: int) -> None:
        super().__init__(f"{what} is larger than {limit} bytes" + (f" ({size})" if size is not None else ""))
        self.what = what
        self.size = size
        self.limit = limit


class InvalidFrameError(RequestError):
    """A frame of the wire that is no request: not JSON, not an object, a wrong type, an id that is in flight."""

    code = "invalid_frame"

    def __init__(self, message: str, **facts: Any) -> None:
        super().__init__(message)
        vars(self).update(facts)


class NotFoundError(RequestError):
    """Nothing has this name or id.

    ``suggestions`` are the names that look like it, where they were looked for.
    """

    code = "not_found"

    def __init__(self, what: str, name: str, *, suggestions: Sequence[str] = ()) -> None:
        hint = f"; did you mean {' or '.join(suggestions)}?" if suggestions else ""
        super().__init__(f"no {what} {name!r}{hint}")
        self.what = what
        self.name = name
        self.suggestions = list(suggestions)


class BeyondHeadError(RequestError):
    """The log has not come to this ``position``: its last one is ``head``. Leave the position out for the present."""

    code = "beyond_head"

    def __init__(self, position: int, *, head: int) -> None:
        super().__init__(f"there is no @{position}: the log ends at @{head}")
        self.position = position
        self.head = head


class AmbiguousError(RequestError):
    """An id's prefix fits several. Give more of it. ``matches`` names some of them."""

    code = "ambiguous"
    matches_max: ClassVar[int] = 100

    def __init__(self, what: str, prefix: str, matches: Sequence[str]) -> None:
        super().__init__(f"{prefix!r} fits {len(matches)} {what}s: {', '.join(matches[:5])}")
        self.what = what
        self.prefix = prefix
        self.matches = list(matches[: self.matches_max])


class ConflictError(RequestError):
    """It is not as the request needs it, and the message says how it is.

    An event id was used before with other content, something exists already, or is under way, or is needed.
    """

    code = "conflict"

    def __init__(self, message: str, **facts: Any) -> None:
        super().__init__(message)
        vars(self).update(facts)


class HopLimitError(RequestError):
    """Events that cause each other in a loop: the chain is longer than ``limit``."""

    code = "hop_limit"

    def __init__(self, event_name: str, *, limit: int) -> None:
        super().__init__(f"{event_name!r} is more than {limit} events away from its origin: is it a loop?")
        self.event_name = event_name
        self.limit = limit


class UnsupportedError(RequestError):
    """The event, the provider or this version can not do that."""

    code = "unsupported"


class CompositionError(RequestError):
    """A composition is not what it should be: ``line`` and ``column`` of ``file``, from 1, are where.

    ``ksi composition check`` says it of all files, and of one before it is in its place.
    """

    code = "composition_error"

    def __init__(self, message: str, *, file: str, line: int, column: int = 1) -> None:
        super().__init__(f"{file}:{line}: {message}")
        self.file = file
        self.line = line
        self.column = column


class MisdirectedError(RequestError):
    """The request names a host that is not this daemon, or comes from a web page of another one.

    Name in ``http.hosts`` what the daemon is called where it is not ``localhost``.
    """

    code = "misdirected"

    def __init__(self, what: str, given: str) -> None:
        super().__init__(f"{what} {given!r} is not this daemon")
        self.what = what
        self.given = given


# ── the handler ──────────────────────────────────────────────────────────────────────────────────────────────────────
class HandlerError(KSIError):
    """A handler did not do what it declared."""

    code = "handler_error"


class NoAnswerError(HandlerError):
    """Every handler of the event said "not mine" (None). Return a value, or hint ``-> None``."""

    code = "no_answer"

    def __init__(self, event_name: str) -> None:
        super().__init__(f"no handler of {event_name!r} gave an answer")
        self.event_name = event_name


class InvalidResponseError(HandlerError):
    """The answer, or a chunk, is not of the declared type."""

    code = "invalid_response"

    def __init__(self, event_name: str, reason: str) -> None:
        super().__init__(f"the answer of {event_name!r} is not what it declares: {reason}")
        self.event_name = event_name
        self.reason = reason


class InternalError(HandlerError):
    """A handler raised something that is no :class:`KSIError`. The traceback is in the daemon's log."""

    code = "internal_error"

    def __init__(self, where: str, error: str) -> None:
        super().__init__(f"{where} failed: {error}")
        self.where = where
        self.error = error


class HandlersFailedError(HandlerError):
    """All handlers of an event failed. ``errors`` holds each one's code and message."""

    code = "handlers_failed"

    def __init__(self, event_name: str, errors: Sequence[Mapping[str, Any]]) -> None:
        codes = ", ".join(str(error["code"]) for error in errors)
        super().__init__(f"all {len(errors)} handlers of {event_name!r} failed: {codes}")
        self.event_name = event_name
        self.errors = [dict(error) for error in errors]


class PartitionDeadlockError(HandlerError):
    """The nested request would wait for a key that is held by one who waits for it. ``cycle`` names the keys."""

    code = "partition_deadlock"

    def __init__(self, key: str, cycle: Sequence[str]) -> None:
        super().__init__(f"waiting for key {key!r} would never end: {' -> '.join(cycle)}")
        self.key = key
        self.cycle = list(cycle)


class QueryWroteError(HandlerError):
    """A ``@query`` appended, emitted or made an effect. Declare it ``@event``."""

    code = "query_wrote"

    def __init__(self, event_name: str, what: str) -> None:
        super().__init__(f"{event_name!r} is a @query and may not {what}: declare it @event")
        self.event_name = event_name
        self.what = what


class ContextClosedError(HandlerError):
    """The request is answered already; nothing more can be done in its name."""

    code = "context_closed"

    def __init__(self, event_name: str) -> None:
        super().__init__(f"the request {event_name!r} has its answer already: its context is closed")
        self.event_name = event_name


# ── time ─────────────────────────────────────────────────────────────────────────────────────────────────────────────
class LapseError(KSIError):
    """Time, or the caller's patience, ran out."""

    code = "lapse"


class EventTimeoutError(LapseError):
    """The event's own limit passed: ``timeout``, or ``idle_timeout`` of a stream that said nothing (seconds)."""

    code = "timeout"
    retryable = True

    def __init__(self, event_name: str, *, seconds: float, is_silent: bool = False) -> None:
        did = "said nothing for" if is_silent else "took longer than"
        super().__init__(f"{event_name!r} {did} its limit of {seconds:g} s")
        self.event_name = event_name
        self.seconds = seconds


class DeadlineExceededError(LapseError):
    """The caller's own limit passed before there was an answer."""

    code = "deadline_exceeded"

    def __init__(self, event_name: str) -> None:
        super().__init__(f"the deadline of {event_name!r} passed before its answer")
        self.event_name = event_name


class CancelledError(LapseError):
    """The caller, or an operator, cancelled the request. ``partial`` is what there was of the answer."""

    code = "cancelled"

    def __init__(self, event_name: str, *, partial: Any = None) -> None:
        super().__init__(f"{event_name!r} was cancelled")
        self.event_name = event_name
        self.partial = partial


# ── unknown ──────────────────────────────────────────────────────────────────────────────────────────────────────────
class OutcomeUnknownError(KSIError):
    """The daemon died while this was under way and can not know whether it took effect.

    Look at the outside world, then send it again under a new id. Declare the event ``on_crash="rerun"``, or the
    effect ``idempotent=True``, when running it twice is harmless.
    """

    code = "outcome_unknown"

    def __init__(self, what: str) -> None:
        super().__init__(f"{what} was under way when the daemon stopped; its outcome is unknown")
        self.what = what


class InterruptedRunError(OutcomeUnknownError):
    """A completion was cut off by a crash. Its tokens are kept; ``ksi resume RUN`` goes on from the last one."""

    code = "interrupted"

    def __init__(self, what: str) -> None:
        super().__init__(what)
        self.args = (f"{what} was cut off when the daemon stopped; what there was of it is kept",)


# ── replay ───────────────────────────────────────────────────────────────────────────────────────────────────────────
class ReplayError(KSIError):
    """A run could not be repeated."""

    code = "replay_error"


class ReplayDivergenceError(ReplayError):
    """A handler did, or asked for, something else than when it was recorded: its code has changed, or it is not pure.

    ``position`` is that of the first difference in the log; ``recorded`` is what stands there, ``requested`` what came
    instead; null where one of them has nothing there.
    """

    code = "replay_divergence"

    def __init__(
        self, position: int, *, recorded: Mapping[str, Any] | None, requested: Mapping[str, Any] | None
    ) -> None:
        super().__init__(
            f"the replay diverges at @{position}: {_named(recorded)} is recorded, {_named(requested)} came"
        )
        self.position = position
        self.recorded = recorded
        self.requested = requested


def _named(what: Mapping[str, Any] | None) -> str:
    return "nothing" if what is None else f"{what['kind']} {what['name']}"


class ReplayEscapeError(ReplayError):
    """A plugin tried to act on the outside world in a replay, past ``context.effect``; it was refused.

    ``action`` is what it tried. Put it into an effect: a replay serves the recorded result.
    """

    code = "replay_escape"

    def __init__(self, plugin: str, action: str) -> None:
        super().__init__(f"plugin {plugin!r} tried to act in a replay: {action}")
        self.plugin = plugin
        self.action = action


class ReplayUnhandledError(ReplayError):
    """The run has an event that no loaded plugin handles: load the one that did, and replay again.

    ``position`` is that of the request in the log.
    """

    code = "replay_unhandled"

    def __init__(self, event_name: str, position: int) -> None:
        super().__init__(f"no handler of {event_name!r} is loaded, which the run asks for @{position}")
        self.event_name = event_name
        self.position = position


# ── capacity ─────────────────────────────────────────────────────────────────────────────────────────────────────────
class CapacityError(KSIError):
    """Not now."""

    code = "capacity"
    retryable = True


class OverloadedError(CapacityError):
    """A bound is reached: ``what`` holds ``limit``. Try again after ``retry_after`` seconds."""

    code = "overloaded"

    def __init__(self, what: str, *, limit: float, retry_after: float | None = None) -> None:
        super().__init__(f"{what} is at its limit of {limit:g}")
        self.what = what
        self.limit = limit
        self.retry_after = retry_after


class BudgetExceededError(CapacityError):
    """The next call of a model might use more than is left of a budget; it was not made.

    Raise the cap with ``ksi budget set``, ask for fewer ``max_tokens``, or wait a day where it counts by day.
    """

    code = "budget_exceeded"
    retryable = False

    def __init__(self, scope: str, *, unit: str, needed: int, left: int) -> None:
        super().__init__(
            f"budget of {scope}: the next call reserves {needed} {unit}, {left} left; the model is not called"
        )
        self.scope = scope
        self.unit = unit
        self.needed = needed
        self.left = left


class UnavailableError(CapacityError):
    """A part that this needs does not work now, for example a log whose disk is full. Queries go on."""

    code = "unavailable"

    def __init__(self, what: str, reason: str) -> None:
        super().__init__(f"{what} is unavailable: {reason}")
        self.what = what
        self.reason = reason


class ShuttingDownError(CapacityError):
    """The daemon is stopping. Connect again when it is back."""

    code = "shutting_down"

    def __init__(self, what: str = "the daemon") -> None:
        super().__init__(f"{what} is shutting down")
        self.what = what


class StreamStalledError(CapacityError):
    """The reader gave no credit for ``seconds``. Resume after the last address seen."""

    code = "stream_stalled"

    def __init__(self, *, seconds: float) -> None:
        super().__init__(f"no credit for {seconds:g} s")
        self.seconds = seconds


# ── declarations ─────────────────────────────────────────────────────────────────────────────────────────────────────
class DeclarationError(KSIError):
    """A plugin declares something wrong. The message says where and what to write instead."""

    code = "declaration_error"

    def __init__(self, message: str, *, where: str | None = None) -> None:
        super().__init__(f"{where}: {message}" if where else message)
        self.where = where


class DuplicateEventError(DeclarationError):
    """Two owners of one event name, or two schemas. ``places`` names both."""

    code = "duplicate_event"

    def __init__(self, event_name: str, places: Sequence[str], *, reason: str = "is declared twice") -> None:
        super().__init__(f"{event_name!r} {reason}: {' and '.join(places)}")
        self.event_name = event_name
        self.places = list(places)


class MissingServiceError(DeclarationError):
    """Nobody provides a service that is needed. Load the plugin that does, or drop the requirement."""

    code = "missing_service"

    def __init__(self, service: str, *, needed_by: str | None = None) -> None:
        super().__init__(f"no plugin provides {service}" + (f", which {needed_by} needs" if needed_by else ""))
        self.service = service
        self.needed_by = needed_by


class DependencyCycleError(DeclarationError):
    """Plugins need each other in a circle."""

    code = "dependency_cycle"

    def __init__(self, cycle: Sequence[str]) -> None:
        super().__init__(f"plugins need each other in a circle: {' -> '.join(cycle)}")
        self.cycle = list(cycle)


class PluginFailedError(DeclarationError):
    """A plugin raised while it was loaded or started. Its traceback is in the daemon's log and in ``plugin list``."""

    code = "plugin_failed"

    def __init__(self, plugin: str, error: str) -> None:
        super().__init__(f"plugin {plugin!r} failed: {error}")
        self.plugin = plugin
        self.error = error


# ── the store ────────────────────────────────────────────────────────────────────────────────────────────────────────
class StoreError(KSIError):
    """The log refused something."""

    code = "store_error"


class WrongExpectedVersionError(StoreError):
    """Another writer appended first.

    Read the stream again and decide again: the same append can not succeed.
    """

    code = "wrong_expected_version"

    def __init__(self, stream: str, *, expected: int | str, actual: int) -> None:
        super().__init__(f"stream {stream!r} is at version {actual}, not {expected}")
        self.stream = stream
        self.expected = expected
        self.actual = actual


class AppendConditionError(StoreError):
    """An event that the condition forbids is there: ``conflicting`` is its position. Read again and decide again."""

    code = "append_condition"

    def __init__(self, conflicting: int) -> None:
        super().__init__(f"the event @{conflicting} matches the condition of the append")
        self.conflicting = conflicting


class EventIdConflictError(StoreError):
    """The same event id was stored before with other content, or only part of the batch was. Use new ids."""

    code = "event_id_conflict"

    def __init__(self, event_id: str) -> None:
        super().__init__(f"event id {event_id} was stored before with other content")
        self.event_id = event_id


class CheckpointConflictError(StoreError):
    """The subscriber's checkpoint is already at ``actual``: another instance of it was faster."""

    code = "checkpoint_conflict"

    def __init__(self, subscriber: str, *, wanted: int, actual: int) -> None:
        super().__init__(f"checkpoint of {subscriber!r} is at @{actual}, not before @{wanted}")
        self.subscriber = subscriber
        self.wanted = wanted
        self.actual = actual


class LogDamagedError(StoreError):
    """What is on disk is not what was written: restore a backup, or ``ksi store accept-loss --at @N``.

    ``position`` is the last that is known to be whole. Nothing is changed, and the daemon does not start on it.
    """

    code = "log_damaged"

    def __init__(self, reason: str, *, position: int) -> None:
        super().__init__(f"the log is damaged after @{position}: {reason}")
        self.reason = reason
        self.position = position


class LogVersionError(StoreError):
    """The log was written by a newer KSI: install that one, or restore a backup. Nothing is changed.

    ``found`` is the version of what is there, ``known`` the newest that this KSI reads.
    """

    code = "log_version"

    def __init__(self, place: str, *, found: int, known: int) -> None:
        super().__init__(f"{place} has format {found}, and this KSI knows formats up to {known}: it is too old for it")
        self.place = place
        self.found = found
        self.known = known


class LogLockedError(StoreError):
    """Another daemon owns this log. ``holder`` is what it wrote into the lock file."""

    code = "log_locked"

    def __init__(self, path: str, holder: str) -> None:
        super().__init__(f"{path} is owned by {holder}")
        self.path = path
        self.holder = holder


class StoreClosedError(StoreError):
    """The store was closed."""

    code = "store_closed"

    def __init__(self) -> None:
        super().__init__("the store is closed")


class SubscriptionDroppedError(StoreError):
    """The subscriber was too slow and chose to be disconnected. Subscribe again after ``resume_after``."""

    code = "subscription_dropped"

    def __init__(self, *, resume_after: int) -> None:
        super().__init__(f"too slow: subscribe again after @{resume_after}")
        self.resume_after = resume_after


class ArchivedError(StoreError):
    """What was asked for has left the log: it is in the archive ``file``. ``ksi store attach FILE`` brings it back.

    ``position`` is that of the first event that is not here. The file may have been moved since; ``archive`` is its id.
    """

    code = "archived"

    def __init__(self, *, position: int, file: str, archive: str) -> None:
        super().__init__(f"the event @{position} is in the archive {file}: ksi store attach {file}")
        self.position = position
        self.file = file
        self.archive = archive


# ── providers ────────────────────────────────────────────────────────────────────────────────────────────────────────
class ProviderError(KSIError):
    """A language model's provider failed. ``provider`` names it; ``partial`` is what there was of an answer."""

    code = "provider_error"
    partial: Any = None

    def __init__(self, message: str, *, provider: str) -> None:
        super().__init__(f"{provider}: {message}")
        self.provider = provider


class RateLimitedError(ProviderError):
    """Too many requests for the provider; ``retry_after`` seconds, where it said so."""

    code = "rate_limited"
    retryable = True

    def __init__(self, message: str, *, provider: str, retry_after: float | None = None) -> None:
        super().__init__(message, provider=provider)
        self.retry_after = retry_after


class ProviderAuthError(ProviderError):
    """The key is missing, wrong or not allowed to do this."""

    code = "provider_auth"


class ProviderInvalidRequestError(ProviderError):
    """The provider does not accept the request as it is."""

    code = "provider_invalid_request"


class ContextLengthError(ProviderError):
    """The prompt does not fit the model's window. Trim the conversation, or take a larger model."""

    code = "context_length"


class ProviderOverloadedError(ProviderError):
    """The provider has no room now, or can not be reached; ``retry_after`` seconds, where it said so."""

    code = "provider_overloaded"
    retryable = True

    def __init__(self, message: str, *, provider: str, retry_after: float | None = None) -> None:
        super().__init__(message, provider=provider)
        self.retry_after = retry_after


class ProviderTimeoutError(ProviderError):
    """No token came for ``seconds``."""

    code = "provider_timeout"
    retryable = True

    def __init__(self, message: str, *, provider: str, seconds: float) -> None:
        super().__init__(message, provider=provider)
        self.seconds = seconds


class StreamInterruptedError(ProviderError):
    """The answer was cut off in the middle. The tokens so far are kept; resume goes on from the last one."""

    code = "stream_interrupted"
    retryable = True


class ProviderBugError(ProviderError):
    """The provider sent something that its protocol does not allow."""

    code = "provider_bug"


class InvalidAnswerError(ProviderError):
    """The model's answer did not fit the schema that was asked for, also when it was told what is wrong: ``problem``.

    ``partial`` is the answer. Make the schema simpler, give more ``max_tokens``, or take another model.
    """

    code = "invalid_answer"

    def __init__(self, problem: str, *, provider: str) -> None:
        super().__init__(f"the answer does not fit its schema: {problem}", provider=provider)
        self.problem = problem


class ModelUnavailableError(ProviderError):
    """The model's file or runtime is not here, or not what it should be. ``ksi model install`` gets it."""

    code = "model_unavailable"


# ── tools of servers ─────────────────────────────────────────────────────────────────────────────────────────────────
class ToolError(KSIError):
    """A tool that a server of MCP offers gave no result. ``server`` names it."""

    code = "tool_error"

    def __init__(self, message: str, *, server: str) -> None:
        super().__init__(f"{server}: {message}")
        self.server = server


class ToolFailedError(ToolError):
    """The server answered that ``tool`` failed, and with what words: other arguments may help."""

    code = "tool_failed"

    def __init__(self, message: str, *, server: str, tool: str) -> None:
        super().__init__(f"{tool}: {message}", server=server)
        self.tool = tool


class ToolServerError(ToolError):
    """The server did not start, ended, can not be reached, or does not speak the protocol.

    The next call starts it, or connects, again. What it says on stderr is in the daemon's log.
    """

    code = "tool_server_failed"


# ── configuration, client ────────────────────────────────────────────────────────────────────────────────────────────
class ConfigError(KSIError):
    """The configuration is wrong: ``where`` names the file, variable or flag."""

    code = "config_error"

    def __init__(self, message: str, *, where: str) -> None:
        super().__init__(f"{where}: {message}")
        self.where = where


class ClientError(KSIError):
    """The client's own."""

    code = "client_error"


class KSIConnectionError(ClientError):
    """The daemon can not be reached, or the connection was lost. Start it with ``ksi start``."""

    code = "connection_error"
    retryable = True


class KSITimeoutError(ClientError):
    """No answer within the client's own limit."""

    code = "client_timeout"
    retryable = True


class RemoteError(KSIError):
    """A code that this version does not know: ``remote_code``."""

    code = "remote_error"

    def __init__(self, code: str, message: str, facts: Mapping[str, Any]) -> None:
        super().__init__(message)
        vars(self).update(facts)
        self.remote_code = code
