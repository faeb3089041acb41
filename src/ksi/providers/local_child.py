"""The child process that runs the embedded model: llama.cpp's own server on a free loopback port.

Started by :mod:`ksi.providers.model_process`, which writes :class:`Orders` as one line to stdin and reads one line of
:class:`Report` from stdout. It ends with its parent: by a death signal where the system has one, and at stdin's end.
"""

from __future__ import annotations

import os
import sys
from typing import Any

import msgspec

from ksi.core.parent import die_with


class Serving(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What to serve and how; ``context_window`` (tokens) is that of each of the ``slots``, answers at the same time."""

    model_path: str
    model_name: str
    slots: int
    threads: int
    context_window: int


class Orders(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``parent`` is the process to die with; who does not know ``api_key`` gets no answer."""

    parent: int
    api_key: str
    serving: Serving


class Report(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where the server listens, or why it does not."""

    address: str | None = None
    error: str | None = None


def main() -> None:
    report_to = _keep_stdout()
    orders = msgspec.json.decode(sys.stdin.buffer.readline(), type=Orders)
    die_with(orders.parent)
    try:
        server = _serve(orders)
    except Exception as error:  # noqa: BLE001 - the door of this process: the parent raises what it reads
        _report(report_to, Report(error=f"{type(error).__name__}: {error}"))
        os._exit(1)
    _report(report_to, Report(address=server.listening_address))
    sys.stdin.buffer.read()
    os._exit(0)  # the server's own shutdown would wait for answers that nobody reads


def _keep_stdout() -> int:
    """A private descriptor for the report; native code that prints is sent to stderr."""
    report_to = os.dup(1)
    os.dup2(2, 1)
    return report_to


def _report(descriptor: int, report: Report) -> None:
    os.write(descriptor, msgspec.json.encode(report) + b"\n")
    os.close(descriptor)


def _serve(orders: Orders) -> Any:
    import xllamacpp  # the extra `local`; needed in this process only

    params = xllamacpp.CommonParams()
    params.api_keys = [orders.api_key]
    return xllamacpp.Server(_serving(params, orders.serving))


def _serving(params: Any, serving: Serving) -> Any:
    params.model.path = serving.model_path
    params.model_alias = {serving.model_name}
    params.hostnames, params.port = ["127.0.0.1"], 0
    params.ui, params.cors_origins, params.endpoint_metrics = False, "", True
    params.n_parallel, params.n_ctx = serving.slots, serving.slots * serving.context_window
    for pool in (params.cpuparams, params.cpuparams_batch):
        # Threads that poll cut the speed to a tenth as soon as another process is busy.
        pool.n_threads, pool.poll = serving.threads, 0
    # A cancel is seen between batches: small ones stop a long prompt within a second or two.
    params.n_batch = params.n_ubatch = 64
    params.cache_ram_mib = 0  # its default may grow to 8 GiB
    params.cache_idle_slots = False
    params.verbosity = 1
    return params


if __name__ == "__main__":
    main()
