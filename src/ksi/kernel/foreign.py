"""What code that is not the kernel's may raise, for the doors that answer it.

``sys.exit()`` in a handler or a plugin's module, or a library's own ``BaseException``, is the fault of that code, not
the end of the daemon: it leaves no request without an answer and no key taken. (The daemon's own end comes by signals,
which raise nothing here.)
"""

from __future__ import annotations

FOREIGN = (Exception, SystemExit, KeyboardInterrupt)
"""Of code that is awaited on the way: a cancel of that way passes."""
ENDS = BaseException
"""All ways in which a handler may end without an answer; its own cancel is one of them."""


def said_of(error: BaseException) -> str:
    """The kind and the text of ``error``, as text that JSON takes, whatever its ``__str__`` gives or raises."""
    try:
        text = str(error)
    except FOREIGN:
        text = "(it has no text)"
    return f"{type(error).__name__}: {text}".encode(errors="backslashreplace").decode()
