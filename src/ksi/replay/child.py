"""``python -m ksi.replay.child``: repeats one run of a daemon's log, sealed.

It reads :class:`Orders` as its first line, loads the daemon's plugins, seals itself, and runs their handlers again on
the log as it was, which it reads through the same pipe. Its last line is the :class:`Report`.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Mapping, Sequence
from io import BufferedReader
from typing import Any, NoReturn, cast

import msgspec

from ksi.core.blobs import Blobs
from ksi.core.config import Config
from ksi.core.errors import InternalError, KSIError, ReplayUnhandledError
from ksi.core.parent import die_with
from ksi.core.ports import Journal, Shutdown
from ksi.core.threads import InlineThreads
from ksi.kernel.assemble import Kernel, Ports
from ksi.kernel.loader import Source
from ksi.kernel.replay import PastJournal, Replay, Replayed
from ksi.observe import logs
from ksi.plugins.timetravel.orders import Begins, Orders, Report, config_of, failure_of
from ksi.replay.loop import SkippingLoop
from ksi.replay.seal import Seal, root_of
from ksi.store.blobs import BlobStore
from ksi.store.past import PastLog
from ksi.store.piped import Answer, AnyQuestion, PipedLog, decode_answer, encode


class Pipe:
    """The two ends that lead to the daemon. Asking waits without the loop: nothing else goes on here meanwhile."""

    def __init__(self, incoming: BufferedReader, outgoing: int) -> None:
        self._incoming = incoming
        self._outgoing = outgoing

    def orders(self) -> Orders:
        return msgspec.json.decode(self._line(), type=Orders)

    def ask(self, question: AnyQuestion) -> Answer:
        self.tell(question)
        return decode_answer(self._line())

    def tell(self, what: Any) -> None:
        left = memoryview(encode(what) + b"\n")
        while left:
            left = left[os.write(self._outgoing, left) :]

    def _line(self) -> bytes:
        line = self._incoming.readline()
        if not line:
            os._exit(0)  # the daemon is gone
        return line


class NoShutdown:
    """Implements :class:`~ksi.core.ports.Shutdown`: the end of the daemon was recorded, and does not come again."""

    def request(self, reason: str) -> None: ...


def main() -> NoReturn:
    outgoing = os.dup(1)
    os.dup2(2, 1)  # what plugins print is no line of the protocol
    pipe = Pipe(open(os.dup(0), "rb"), outgoing)  # noqa: PTH123, SIM115  # a descriptor, open until the end
    orders = pipe.orders()
    die_with(orders.parent)
    logs.configure_plain("warning")
    plugins = _imported(orders.plugins)
    with asyncio.Runner(loop_factory=SkippingLoop) as runner:
        runner.run(_work(pipe, orders, plugins))
    raise AssertionError("a report ends the process")


def _imported(targets: Sequence[str]) -> list[Source]:
    """The plugins' classes; a module that fails is reported, as at the daemon's start."""
    found: list[Source] = []
    for target in targets:
        try:
            found += [Source(kind) for kind in Source(target).classes(1)]
        except KSIError as error:
            sys.stderr.write(f"{target}: {error.message}\n")
    return found


async def _work(pipe: Pipe, orders: Orders, plugins: Sequence[Source]) -> NoReturn:
    pipe.tell(await _report(pipe, orders, plugins))
    os._exit(0)  # tasks and threads of plugins, and what they would do at the end, are of no interest


async def _report(pipe: Pipe, orders: Orders, plugins: Sequence[Source]) -> Report:
    replay = Replay(cast(PastJournal, PastLog(PipedLog(pipe.ask))), lambda owner: pipe.tell(Begins(owner)))
    seal = Seal(_owners(plugins), lambda: replay.owner)
    seal.close()
    try:
        replayed = await _replayed(replay, seal, orders, plugins)
    except KSIError as error:
        escape = next(iter(seal.attempts), None)
        return Report(native=seal.is_native, failure=failure_of(escape or error))
    except Exception as error:  # noqa: BLE001  # the door of this process
        return Report(native=seal.is_native, failure=failure_of(InternalError("the replay", repr(error))))
    if seal.attempts:  # whatever the plugin made of its refusal
        return Report(native=seal.is_native, failure=failure_of(seal.attempts[0]))
    return Report(native=seal.is_native, replayed=replayed)


async def _replayed(replay: Replay, seal: Seal, orders: Orders, plugins: Sequence[Source]) -> Replayed:
    config = config_of(orders)
    # It stands for all of the journal that it does not speak of itself.
    ports = Ports(journal=cast(Journal, replay), threads=InlineThreads(), clock=replay, effects=replay)
    kernel = Kernel(ports, home=config.home.path, settings=config.plugin)
    kernel.services.register(Shutdown, NoShutdown())
    kernel.services.register(Config, config)
    kernel.services.register(Blobs, BlobStore(config.home.blobs, ports.threads))
    await kernel.start(plugins)
    # One that wants the outside world at its start does not run here; that matters to a run with its events only.
    at_start, seal.attempts[:] = list(seal.attempts), []
    try:
        return await replay.run(kernel.router, orders.run, branch=orders.branch)
    except ReplayUnhandledError as error:
        if at_start:
            raise at_start[0] from error
        raise


def _owners(plugins: Sequence[Source]) -> Mapping[str, Mapping[str, str]]:
    """Plugins by their classes, by what stands for their modules."""
    owners: dict[str, dict[str, str]] = {}
    for source in plugins:
        for kind in source.classes(1):
            owners.setdefault(root_of(kind.__module__), {})[kind.__qualname__] = kind.name
    return owners


if __name__ == "__main__":
    main()
