"""What every event log promises, as tests: inherit :class:`EventLogContract` and give the fixture ``store``."""

from __future__ import annotations

from ksi.testing.journal_contracts import JournalContract, ViewContract
from ksi.testing.log_contracts import AppendContract, ConditionContract, IdempotenceContract, ReadContract
from ksi.testing.projection_contracts import ProjectionContract
from ksi.testing.subscriber_contracts import DeliveryContract, SubscriberContract


class EventLogContract(
    AppendContract,
    IdempotenceContract,
    ConditionContract,
    ReadContract,
    JournalContract,
    ViewContract,
    SubscriberContract,
    DeliveryContract,
    ProjectionContract,
):
    """All of it."""
