"""One tree of errors: each goes over the wire and through pickle as what it was."""

import pickle
import re
from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from ksi.core import canonical, errors
from ksi.core.errors import KSIError, RemoteError, UnavailableError, from_wire

CALL = {"event_name": "system:pnig"}
ARGUMENTS: dict[str, tuple[tuple[Any, ...], Mapping[str, Any]]] = {
    "ValidationError": (("wrong",), {"errors": [{"at": "$.name", "what": "missing"}], **CALL}),
    "UnknownEventError": (("system:pnig",), {"suggestions": ["system:ping", "system:pong"]}),
    "NoHandlerError": (("a:b",), {}),
    "PermissionDeniedError": (("a:b",), {"principal": "agent/7", "rule": "deny a:*"}),
    "PayloadTooLargeError": (("the frame",), {"size": 12, "limit": 10}),
    "InvalidFrameError": (("not JSON",), {"id": 7}),
    "NotFoundError": (("run", "7f3a"), {"suggestions": ["7f3b"]}),
    "AmbiguousError": (("run", "7f", ["7f3a", "7f4b"]), {}),
    "ConflictError": (("used before",), {"event_id": "x"}),
    "MisdirectedError": (("host", "evil.example"), {}),
    "HopLimitError": (("a:b",), {"limit": 64}),
    "NoAnswerError": (("a:b",), {}),
    "InvalidResponseError": (("a:b", "an int is no str"), {}),
    "InternalError": (("a:b", "ZeroDivisionError"), {}),
    "HandlersFailedError": (("a:b", [{"code": "timeout", "message": "late"}]), {}),
    "PartitionDeadlockError": (("k", ["k", "l", "k"]), {}),
    "QueryWroteError": (("a:b", "append"), {}),
    "ContextClosedError": (("a:b",), {}),
    "EventTimeoutError": (("a:b",), {"seconds": 1.5}),
    "DeadlineExceededError": (("a:b",), {}),
    "CancelledError": (("a:b",), {"partial": {"text": "Once upon"}}),
    "OutcomeUnknownError": (("the effect",), {}),
    "InterruptedRunError": (("the completion",), {}),
    "ReplayDivergenceError": ((9,), {"recorded": {"kind": "fact", "name": "a:was"}, "requested": None}),
    "ReplayEscapeError": (("agent", "connect"), {}),
    "BeyondHeadError": ((99,), {"head": 9}),
    "ReplayUnhandledError": (("agent:ask", 9), {}),
    "CompositionError": (("no such key",), {"file": "ada.yaml", "line": 3}),
    "ArchivedError": ((), {"position": 9, "file": "old.archive", "archive": "0011223344556677"}),
    "BudgetExceededError": (("agent:ada",), {"unit": "tokens", "needed": 90, "left": 12}),
    "OverloadedError": (("the queue",), {"limit": 16, "retry_after": 0.5}),
    "UnavailableError": (("the log", "the disk is full"), {}),
    "StreamStalledError": ((), {"seconds": 60.0}),
    "DeclarationError": (("no hint",), {"where": "plugin.py:7"}),
    "DuplicateEventError": (("a:b", ["one", "two"]), {}),
    "MissingServiceError": (("Clock",), {"needed_by": "agent"}),
    "DependencyCycleError": ((["a", "b", "a"],), {}),
    "PluginFailedError": (("agent", "ZeroDivisionError"), {}),
    "WrongExpectedVersionError": (("state/a",), {"expected": 3, "actual": 4}),
    "AppendConditionError": ((17,), {}),
    "EventIdConflictError": (("0190",), {}),
    "CheckpointConflictError": (("s",), {"wanted": 3, "actual": 4}),
    "LogVersionError": (("the log",), {"found": 2, "known": 1}),
    "LogDamagedError": (("a hash is wrong",), {"position": 9}),
    "LogLockedError": (("/x/events.db", "pid 7"), {}),
    "StoreClosedError": ((), {}),
    "SubscriptionDroppedError": ((), {"resume_after": 9}),
    "RateLimitedError": (("slow down",), {"provider": "openai", "retry_after": 2.0}),
    "ProviderTimeoutError": (("silence",), {"provider": "openai", "seconds": 30.0}),
    "ToolError": (("it broke",), {"server": "files"}),
    "ToolFailedError": (("it broke",), {"server": "files", "tool": "read_file"}),
    "ToolServerError": (("it broke",), {"server": "files"}),
    "ConfigError": (("no number",), {"where": "KSI_PORT"}),
    "RemoteError": (("from_the_future", "what?", {"fact": 1}), {}),
}


def tree(kind: type[KSIError] = KSIError) -> Iterator[type[KSIError]]:
    yield kind
    for child in kind.__subclasses__():
        if child.__module__ == errors.__name__:
            yield from tree(child)


def example(kind: type[KSIError]) -> KSIError:
    provider = {"provider": "openai"} if issubclass(kind, errors.ProviderError) else {}
    args, facts = ARGUMENTS.get(kind.__name__, (("it broke",), provider))
    return kind(*args, **facts)


def same(one: KSIError, other: KSIError) -> bool:
    return type(one) is type(other) and one.message == other.message and one.details() == other.details()


@pytest.mark.parametrize("kind", list(tree()), ids=lambda kind: kind.__name__)
def test_an_error_comes_over_the_wire_as_the_class_that_was_raised(kind: type[KSIError]) -> None:
    error = example(kind)
    sent = canonical.encode({"code": error.code, "message": error.message, "details": error.details()})
    back = from_wire(**canonical.decode(sent))
    assert str(back) == str(error)
    assert back.retryable is error.retryable
    assert same(back, error)


@pytest.mark.parametrize("kind", list(tree()), ids=lambda kind: kind.__name__)
def test_an_error_survives_pickle(kind: type[KSIError]) -> None:
    assert same(pickle.loads(pickle.dumps(example(kind))), example(kind))


def test_codes_are_unique() -> None:
    codes = [kind.code for kind in tree()]
    assert sorted(codes) == sorted(set(codes))


def test_the_drawing_in_the_docstring_is_the_tree() -> None:
    assert drawn(str(errors.__doc__)) == {kind.__name__: parent(kind) for kind in tree()}


def parent(kind: type[KSIError]) -> str:
    return kind.__bases__[0].__name__


def drawn(text: str) -> dict[str, str]:
    """Each class of the drawing with the class that it hangs on."""
    found = {"KSIError": "Exception"}
    branch = ""
    for line in text.splitlines():
        twigs = re.findall(r"─ (\w+)", line)
        if line.strip().startswith(("├", "└")):
            branch = twigs[0]
            found[branch] = "KSIError"
        else:
            found |= dict.fromkeys(twigs, branch)
    return found


def test_an_unknown_code_is_a_remote_error_that_keeps_all() -> None:
    error = from_wire("from_the_future", "what?", {"year": 2031})
    assert isinstance(error, RemoteError)
    assert (error.remote_code, error.message, error.details()["year"]) == ("from_the_future", "what?", 2031)


def test_a_plugins_own_error_is_not_known_elsewhere() -> None:
    class OursError(UnavailableError):
        code = "ours"

    assert isinstance(from_wire("ours", "it broke", {}), RemoteError)


def test_an_error_has_only_facts_as_details() -> None:
    error = UnavailableError("the log", "the disk is full")
    error.__cause__ = OSError(28, "no space")
    error.add_note("seen at night")
    assert error.details() == {"what": "the log", "reason": "the disk is full"}


def test_facts_of_a_peer_do_not_hide_what_an_error_is() -> None:
    hostile = {"details": 1, "message": 2, "code": "x", "retryable": 3, "args": 4, "__class__": 5, "what": "the log"}
    error = from_wire("unavailable", "no", hostile)
    assert error.details() == {"what": "the log"}
    assert (error.code, error.message, error.retryable) == ("unavailable", "no", True)
