"""Schedules: events that are asked for once, every so often, or by a cron line; they outlive restarts.

Each due time is fired once: its request has an id that comes out of the schedule and the time, and records the time and
the event in one commit. What was due while nobody ran is fired as the schedule says: all, the latest only, or none.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime
from itertools import islice, takewhile
from typing import Annotated, Any, Literal

import msgspec
from cronsim import CronSim, CronSimError
from msgspec import Meta

from ksi.core import canonical, ids
from ksi.core.clock import Clock, microseconds, utc
from ksi.core.envelope import EventEnvelope
from ksi.core.errors import ConflictError, KSIError, NotFoundError, ValidationError
from ksi.core.events import Filter, RecordedEvent, fact
from ksi.core.views import View, ViewWriter, all_records
from ksi.kernel.context import EventContext, require_main
from ksi.kernel.declare import event, query
from ksi.kernel.door import Session
from ksi.kernel.plugin import AsyncPlugin
from ksi.kernel.router import Router

LOOK_S = 60.0
"""Seconds after which the wall clock is looked at again, for it may be set."""
TIME_MAX = microseconds(datetime(3000, 1, 1, tzinfo=UTC))
"""Of due times, in microseconds: each can be said, and the next one too."""
EVERY_MAX = 10 * 366 * 86_400
MISSED_MAX = 1_000
"""Due times that are made up for after a pause, the newest."""
Missed = Literal["all", "latest", "none"]
Name = Annotated[str, Meta(min_length=1, max_length=200, pattern=r"^[^/@*?\s]+$")]


@fact("schedule:was_added")
class ScheduleWasAdded(msgspec.Struct, frozen=True, kw_only=True):
    """From ``start`` on, ``event`` is asked for in the name of ``principal``. One of the three times is there."""

    name: str
    event: str
    data: dict[str, Any]
    principal: str
    start: int
    at: int | None
    every: int | None
    cron: str | None
    missed: Missed


@fact("schedule:was_removed")
class ScheduleWasRemoved(msgspec.Struct, frozen=True):
    name: str


@fact("schedule:was_fired")
class ScheduleWasFired(msgspec.Struct, frozen=True):
    """``due`` is the time that it was for, in microseconds."""

    name: str
    due: int


class Schedule(msgspec.Struct, frozen=True, kw_only=True):
    """A schedule as it stands; ``last`` is the newest due time that was fired. Times in microseconds."""

    name: str
    id: str
    event: str
    data: dict[str, Any]
    principal: str
    start: int
    at: int | None
    every: int | None
    cron: str | None
    missed: Missed
    last: int | None = None
    subject: str | None = None
    """Whose personal data the payload is."""

    def due_after(self, moment: int) -> int | None:
        """The first due time behind ``moment``; None: there is none."""
        if self.at is not None:
            return self.at if self.at > moment else None
        if self.every is not None:
            passed = max(0, moment - self.start)
            return self.start + (passed // self.every + 1) * self.every
        assert self.cron is not None
        return microseconds(next(CronSim(self.cron, utc(moment))))


class SchedulesView(View[Schedule]):
    name = "schedules"
    version = 2
    query = (Filter(names=("schedule:*",)),)
    record = Schedule
    key = ("name",)

    def apply(self, writer: ViewWriter, event: RecordedEvent) -> None:
        match event.name:
            case "schedule:was_added":
                added = msgspec.structs.asdict(event.into(ScheduleWasAdded))
                writer.put(Schedule(**added, id=str(event.event_id), subject=event.subject))
            case "schedule:was_removed":
                writer.delete(event.into(ScheduleWasRemoved).name)
            case "schedule:was_fired":
                fired = event.into(ScheduleWasFired)
                known = writer.get(fired.name)
                if known is not None:
                    writer.put(msgspec.structs.replace(known, last=fired.due))


class AddSchedule(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What shall be asked for, and when: ``at`` once, ``every`` so many seconds, or by a ``cron`` line (UTC)."""

    name: Name
    event: Annotated[str, Meta(description="the event to ask for")]
    data: Annotated[dict[str, Any], Meta(description="its payload")] = {}
    at: Annotated[datetime, Meta(tz=True, description="once, at this time")] | None = None
    every: Annotated[float, Meta(ge=0.001, le=EVERY_MAX, description="seconds between two times")] | None = None
    cron: (
        Annotated[str, Meta(max_length=200, description="minute hour day month weekday, as in */5 * * * *")] | None
    ) = None
    missed: Annotated[Missed, Meta(description="what is fired of the times while nobody ran")] = "latest"

    def __post_init__(self) -> None:
        if sum(time is not None for time in (self.at, self.every, self.cron)) != 1:
            raise ValueError("give one of at, every and cron")
        if self.at is not None and not 0 <= microseconds(self.at) < TIME_MAX:
            raise ValueError("at is not between 1970 and 3000")


class ShownSchedule(msgspec.Struct, frozen=True, kw_only=True):
    """``next`` is null where nothing is due any more."""

    name: str
    event: str
    principal: str
    when: str
    missed: Missed
    last: datetime | None
    next: datetime | None


class ShownSchedules(msgspec.Struct, frozen=True):
    schedules: list[ShownSchedule]


class Scheduler(AsyncPlugin):
    """Fires schedules when they are due."""

    name = "schedule"
    views = (SchedulesView,)

    async def initialize(self) -> None:
        services = self.host.services
        self._router: Router = services.get(Router)
        self._now: Callable[[], int] = services.get(Clock).time_us
        self._changed = asyncio.Event()
        self.host.spawn(self._run())

    # ── events ───────────────────────────────────────────────────────────────────────────────────────────────────────
    @event(
        "schedule:add",
        key=lambda request: f"schedule/{request.name}",
        errors=["conflict", "unsupported"],
        examples=[{"name": "tick", "event": "state:set", "data": {"key": "a", "value": 1}, "every": 60}],
    )
    async def add(self, request: AddSchedule, context: EventContext) -> ShownSchedule:
        """Ask for an event at a time, every so often, or by a cron line, in the name of who adds it."""
        require_main(context, "schedules")
        if await context.view(SchedulesView).get(request.name) is not None:
            raise ConflictError(f"there is a schedule {request.name!r} already", name=request.name)
        if request.event not in self._router.table:
            raise self._router.unknown(request.event)
        _check_cron(request.cron)
        added = ScheduleWasAdded(
            name=request.name,
            event=request.event,
            data=request.data,
            principal=context.principal,
            start=microseconds(context.now()),
            at=None if request.at is None else microseconds(request.at),
            every=None if request.every is None else round(request.every * 1_000_000),
            cron=request.cron,
            missed=request.missed,
        )
        context.append(f"schedule/{request.name}", added)
        await context.commit()
        self._changed.set()
        return _shown(Schedule(**msgspec.structs.asdict(added), id=""), added.start)

    @event(
        "schedule:remove",
        key=lambda request: f"schedule/{request.name}",
        errors=["not_found", "unsupported"],
        examples=[{"name": "tick"}],
    )
    async def remove(self, name: Name, context: EventContext) -> ShownSchedule:
        """Fire a schedule no more."""
        require_main(context, "schedules")
        known = await context.view(SchedulesView).get(name)
        if known is None:
            raise NotFoundError("schedule", name)
        context.append(f"schedule/{name}", ScheduleWasRemoved(name))
        return _shown(known, microseconds(context.now()))

    @query("schedule:list", examples=[{}])
    async def list_schedules(self, context: EventContext) -> ShownSchedules:
        """List schedules, with the last time that was fired and the next one that is due."""
        now = self._now()
        return ShownSchedules([_shown(each, now) for each in await all_records(context.view(SchedulesView))])

    @event(
        "schedule:fire",
        key=lambda request: f"schedule/{request.name}",
        permission="schedule:add",
        examples=[{"name": "nightly", "due": 1_764_000_000_000_000}],
    )
    async def fire(
        self,
        name: Name,
        due: Annotated[int, Meta(ge=0, lt=TIME_MAX, description="microseconds")],
        context: EventContext,
    ) -> None:
        """Record that a time was due, and ask for the event; the scheduler's own request."""
        schedule = await context.view(SchedulesView).get(name)
        if schedule is None or (schedule.last is not None and due <= schedule.last):
            return
        context.append(f"schedule/{name}", ScheduleWasFired(name, due))
        context.emit(schedule.event, schedule.data)

    # ── the task ─────────────────────────────────────────────────────────────────────────────────────────────────────
    async def _run(self) -> None:
        await self.host.up()
        while True:
            self._changed.clear()
            waiting = await self._fire_all()
            try:
                async with asyncio.timeout(waiting):
                    await self._changed.wait()
            except TimeoutError:
                pass

    async def _fire_all(self) -> float:
        """Fire what is due; seconds until something else is."""
        now = self._now()
        soonest = now + int(LOOK_S * 1_000_000)
        for schedule in await all_records(self._router.journal.view(SchedulesView)):
            for due in due_times(schedule, now):
                await self._fire(schedule, due)
            following = schedule.due_after(max(now, schedule.last or 0))
            soonest = soonest if following is None else min(soonest, following)
        return max(0.0, (soonest - self._now()) / 1e6)

    async def _fire(self, schedule: Schedule, due: int) -> None:
        session = Session(principal=schedule.principal, source="schedule")
        envelope = EventEnvelope(
            name="schedule:fire",
            raw=canonical.encode({"name": schedule.name, "due": due}),
            principal=session.principal,
            source=session.source,
            id=ids.derived(ids.parse(schedule.id), "due", due),
            subject=schedule.subject,
        )
        ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def done(_: Any, raw: bytes | None, error: KSIError | None) -> None:
            if error is not None:
                self.host.logger.warning("schedule %s could not be fired: %s", schedule.name, error)
            if not ended.done():
                ended.set_result(None)

        self._router.dispatch(envelope, session, done, None)
        await ended


def due_times(schedule: Schedule, now: int) -> list[int]:
    """The times of ``schedule`` that are due up to ``now`` and were not fired, as it wants those that were missed."""
    found = _times_between(schedule, schedule.start if schedule.last is None else schedule.last, now)
    match schedule.missed:
        case "all":
            return found
        case "latest":
            return found[-1:]
    return [time for time in found if now - time < LATE_US]


def _times_between(schedule: Schedule, after: int, upto: int) -> list[int]:
    """The newest :data:`MISSED_MAX` of its times, in order: a pause may have been long, and the period short."""
    if schedule.at is not None:
        return [schedule.at] if after < schedule.at <= upto else []
    if schedule.every is not None:
        first, last = ((moment - schedule.start) // schedule.every for moment in (after, upto))
        return [schedule.start + nth * schedule.every for nth in range(max(first + 1, last - MISSED_MAX + 1), last + 1)]
    assert schedule.cron is not None
    backwards = CronSim(schedule.cron, utc(upto + 1), reverse=True)
    newest = islice(map(microseconds, backwards), MISSED_MAX)
    return list(takewhile(lambda time: time > after, newest))[::-1]


LATE_US = 1_000_000
"""A time that is fired so much later was missed."""


def _check_cron(line: str | None) -> None:
    if line is not None:
        try:
            CronSim(line, utc(0))
        except CronSimError as error:
            raise ValidationError(f"no cron line: {line!r} ({error})") from None


def _shown(schedule: Schedule, now: int) -> ShownSchedule:
    following = schedule.due_after(max(now, schedule.last or 0))
    return ShownSchedule(
        name=schedule.name,
        event=schedule.event,
        principal=schedule.principal,
        when=_when(schedule),
        missed=schedule.missed,
        last=None if schedule.last is None else utc(schedule.last),
        next=None if following is None else utc(following),
    )


def _when(schedule: Schedule) -> str:
    if schedule.at is not None:
        return f"at {utc(schedule.at).isoformat()}"
    if schedule.every is not None:
        return f"every {schedule.every / 1e6:g} s"
    return f"cron {schedule.cron}"
