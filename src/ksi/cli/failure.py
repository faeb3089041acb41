"""How an error looks at the end of a command, and the exit code that it becomes."""

from __future__ import annotations

import inspect
import sys
from typing import Any

from ksi.core.errors import ConfigError, KSIConnectionError, KSIError, RemoteError

EXIT_EVENT_ERROR = 1
EXIT_USAGE = 2
EXIT_UNREACHABLE = 3
EXIT_INTERRUPTED = 130


def exit_code(error: KSIError) -> int:
    match error:
        case KSIConnectionError():
            return EXIT_UNREACHABLE
        case ConfigError():
            return EXIT_USAGE
        case _:
            return EXIT_EVENT_ERROR


def report(error: KSIError, *, as_json: bool) -> int:
    """Write ``error`` to stderr, as text or as an object; answers the exit code."""
    print(_object(error) if as_json else _text(error), file=sys.stderr)
    return exit_code(error)


def code_of(error: KSIError) -> str:
    """The code as the daemon sent it."""
    return str(vars(error)["remote_code"]) if isinstance(error, RemoteError) else error.code


def remedy(error: KSIError) -> str:
    """The first line of the class's docstring; nothing where the class is not known here."""
    if isinstance(error, RemoteError):
        return ""
    return inspect.cleandoc(type(error).__doc__ or "").partition("\n")[0].replace("``", "`").replace(":class:", "")


def facts(error: KSIError) -> dict[str, Any]:
    """Code, message, details and remedy."""
    return {"code": code_of(error), "message": error.message, "details": error.details(), "remedy": remedy(error)}


def _object(error: KSIError) -> str:
    import msgspec  # here, so that a text costs no encoder

    return msgspec.json.encode({"error": facts(error)}, enc_hook=str).decode()


def _text(error: KSIError) -> str:
    lines = [f"ksi: {error.message} [{code_of(error)}]"]
    if said := remedy(error):
        lines.append(f"     {said}")
    return "\n".join(lines)
