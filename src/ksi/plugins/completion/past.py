"""What the log holds of completions: which one is meant, what it was asked, and what it has written."""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

import msgspec

from ksi.core import ids
from ksi.core.envelope import EventEnvelope
from ksi.core.errors import AmbiguousError, ConflictError, KSIError, NotFoundError
from ksi.core.events import Filter
from ksi.core.ports import EventLog, Known
from ksi.core.views import Page
from ksi.kernel.context import EventContext
from ksi.kernel.router import Router
from ksi.plugins.completion.shapes import CreateCompletion, Status
from ksi.plugins.completion.view import CompletionRecord, CompletionsView, stream_of
from ksi.providers.base import CompletionRequest

ALIKE_MAX = 100
"""Completions that are looked at where ids begin alike; a beginning that fits more is too short to mean one."""
EFFECT = "llm:stream"
REQUESTS = "$requests"


class Asked(msgspec.Struct, frozen=True, kw_only=True):
    """The canonical request of the effect: what was sent, and to whom."""

    provider: str
    request: CompletionRequest


class Chain(msgspec.Struct, frozen=True, kw_only=True):
    """A completion with those that went on with it: ``last`` is the newest, ``text`` what all wrote together."""

    payload: CreateCompletion
    last: str
    text: str
    pieces: int
    asked: Asked | None


class Past:
    """Reads completions back, in the name of the request of ``context``."""

    def __init__(self, router: Router, log: EventLog, context: EventContext) -> None:
        self._router = router
        self._log = log
        self._context = context
        self.branch = context.branch
        self._view = context.view(CompletionsView)

    async def find(self, reference: str) -> CompletionRecord | None:
        """The completion that a client means: by its id, its run, the beginning of one of these, or ``last``.

        Of a run it is the newest that is not done, else the newest.

        Raises:
            AmbiguousError: Several runs begin so.
        """
        if reference == "last":
            return next(iter((await self.newest(1)).records), None)
        if (record := await self._view.get(reference)) is not None:
            return record
        of_run = (await self._view.scan("by_run", reference, backwards=True)).records
        of_run = of_run or await self._beginning(reference)
        return next((record for record in of_run if record.status != "done"), of_run[0] if of_run else None)

    async def _beginning(self, reference: str) -> list[CompletionRecord]:
        """Those whose id, or that of their run, begins so, the newest first. Raises AmbiguousError."""
        by_run = await self._view.scan("by_run", begins=reference, limit=ALIKE_MAX)
        by_id = await self._view.scan(begins=reference, limit=ALIKE_MAX)
        found = {record.completion: record for record in (*by_run.records, *by_id.records)}
        if len(runs := {record.run for record in found.values()}) > 1:
            raise AmbiguousError("run", reference, sorted(runs))
        return sorted(found.values(), key=lambda record: record.started, reverse=True)

    async def newest(self, limit: int, after: str | None = None) -> Page[CompletionRecord]:
        """The newest first, a page at a time."""
        return await self._view.scan("by_start", backwards=True, limit=limit, after=after)

    async def root_of(self, reference: str) -> str:
        """The ``completion:create`` that all the resumes of this one go back to. Raises NotFoundError."""
        record = await self.find(reference)
        if record is None:
            return await self._unstarted(reference)
        root = record.completion
        while record is not None and record.resumes is not None:
            root = record.resumes
            record = await self._view.get(root)
        return root

    async def subject_of(self, root: str) -> str | None:
        """For whom it was recorded."""
        return (await self._known(root)).request.subject

    async def chain(self, root: str) -> Chain:
        """What is needed to go on with ``root``. Raises ConflictError where its answer is whole."""
        completions = await self.completions_of(root)
        if await self.status(completions[-1]) == "done":
            raise ConflictError(f"completion {root} is whole: there is nothing to go on with", completion=root)
        texts = await self.texts(completions)
        request = (await self._known(root)).request
        return Chain(
            payload=msgspec.json.decode(request.raw, type=CreateCompletion),
            last=completions[-1],
            text="".join(texts),
            pieces=len(texts),
            asked=await self._asked(root),
        )

    async def completions_of(self, root: str) -> list[str]:
        """``root`` and those that went on with it, in order."""
        completions = [root]
        while following := (await self._view.scan("by_resumed", completions[-1], backwards=True, limit=1)).records:
            completions.append(following[0].completion)
        return completions

    async def texts(self, completions: Sequence[str]) -> list[str]:
        """The chunks that they wrote."""
        return [
            event.data["text"]
            for completion in completions
            async for event in self._context.read_stream(stream_of(completion))
            if event.kind == "chunk" and not event.is_erased
        ]

    async def status(self, completion: str) -> Status:
        """How it ended, as far as the log knows; ``running`` where it has no end yet."""
        record = await self._view.get(completion)
        if record is not None and record.status != "running":
            return record.status
        known = await self._known(completion)
        if known.request.branch != self.branch:
            return await self._status_at_the_cut(completion)
        if known.outcome is None:
            return "running"
        return "done" if known.outcome.ok else _status_of(msgspec.json.decode(known.outcome.data)["code"])

    async def is_of_here(self, completion: str) -> bool:
        """Whether it was asked for on this branch, and not seen from it."""
        return (await self._known(completion)).request.branch == self.branch

    async def _status_at_the_cut(self, completion: str) -> Status:
        """How one ended that this branch has seen begin elsewhere: if not before the cut, then by it."""
        query = (Filter(streams=(REQUESTS,), kinds=("outcome",), causation_id=UUID(completion)),)
        async for event in self._log.read_all(query, branch=self.branch):
            error = None if event.is_erased else event.data.get("error")
            return "done" if error is None else _status_of(error["code"])
        return "interrupted"

    async def _asked(self, completion: str) -> Asked | None:
        """What was sent to the provider that was asked last; None where none was called."""
        query = (Filter(names=("effect:requested",), kinds=("request",), causation_id=UUID(completion)),)
        asked = [event async for event in self._log.read_all(query, branch=self._context.branch)]
        return msgspec.convert(asked[-1].data["request"], Asked) if asked and not asked[-1].is_erased else None

    async def _unstarted(self, reference: str) -> str:
        """One that a crash cut off while it waited is known by its request only."""
        request = await self._request(reference)
        match request.name:
            case "completion:create":
                return ids.text(request.event_id)
            case "completion:resume":
                return await self.root_of(request.data["run"])
        raise NotFoundError("completion", reference)

    async def _request(self, reference: str) -> EventEnvelope:
        try:
            return (await self._known(reference)).request
        except KSIError:
            raise NotFoundError("completion", reference) from None

    async def _known(self, completion: str) -> Known:
        return await self._router.known_request(ids.parse(completion))


def _status_of(code: str) -> Status:
    match code:
        case "cancelled" | "interrupted":
            return code
    return "failed"
