"""Where the program ``ksi`` begins: before anything is imported, so that Ctrl-C is quiet from the first moment on."""

import gc
import os
import signal
from typing import NoReturn

EXIT_INTERRUPTED = 130


def main() -> NoReturn:
    """Run ``ksi`` and exit."""
    # An import makes many objects and no garbage: looking for some would cost a fifth of a short command.
    gc.disable()
    is_ours = signal.getsignal(signal.SIGINT) is signal.default_int_handler  # in a shell's background it is ignored
    if is_ours:
        signal.signal(signal.SIGINT, _leave)
    # Here, and not at the top: it takes most of a short command's time, and an interrupted import is a traceback.
    from ksi.cli.main import main as run

    if is_ours:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    run()


def _leave(*_: object) -> NoReturn:
    os._exit(EXIT_INTERRUPTED)


if __name__ == "__main__":
    main()
