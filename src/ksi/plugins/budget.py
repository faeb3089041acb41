"""Hard caps on tokens and money, taken out before the call and settled after it.

A budget belongs to a scope: ``all``, ``principal:uid:1000``, ``agent:ada``, ``conversation:c1``, ``provider:openai``. A
call takes an upper bound of what it may cost out of all its scopes in one commit, or is not made. The fact that ends
the completion gives back what was not used, where the provider says what was; one that a crash cut off counts as spent.
A model that has once used more than its bound is reserved that much more for from then on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from ksi.core.config import Config, Settings
from ksi.core.errors import BudgetExceededError, NotFoundError, UnsupportedError
from ksi.core.events import Filter, RecordedEvent, fact
from ksi.core.views import View, ViewWriter, all_records
from ksi.kernel.context import EventContext
from ksi.kernel.declare import event, query
from ksi.kernel.plugin import AsyncPlugin
from ksi.providers.base import Usage
from ksi.providers.budgets import OUTPUT_TOKENS_MAX, Budgets, PaidCall
from ksi.providers.prices import Price, dollars, price_of

KEY = "budget"
MARGIN_MAX = 32_768
"""Tokens that a model is reserved for beyond the bound of a call, whatever it once used."""
SCOPE = r"^(all|(principal|agent|conversation|provider):.+)$"
Scope = Annotated[str, Meta(pattern=SCOPE, max_length=300, description="all, or agent:ada, provider:openai, …")]
Tokens = Annotated[int, Meta(ge=0, description="tokens read and written, at most")]
Dollars = Annotated[float, Meta(ge=0, le=1e12, description="dollars, at most")]
Period = Literal["total", "day"]


@fact("budget:was_set")
class BudgetWasSet(msgspec.Struct, frozen=True, kw_only=True):
    """A scope may use so much from here on; None is no cap. Money in micro-dollars."""

    scope: str
    tokens: int | None
    cost: int | None
    period: Period


@fact("budget:was_removed")
class BudgetWasRemoved(msgspec.Struct, frozen=True):
    scope: str


@fact("budget:was_reserved")
class BudgetWasReserved(msgspec.Struct, frozen=True, kw_only=True):
    """A call is about to be made that costs at most this, and ``margin`` tokens if its model does as it once did."""

    completion: str
    scopes: list[str]
    provider: str
    model: str
    input_tokens: int
    output_tokens: int
    price: Price
    margin: int = 0


@fact("budget:was_settled")
class BudgetWasSettled(msgspec.Struct, frozen=True):
    """A call that is no completion has ended."""

    completion: str
    usage: Usage


@fact("budget:was_exceeded")
class BudgetWasExceeded(msgspec.Struct, frozen=True, kw_only=True):
    """A call was not made: it might have cost more than was left."""

    completion: str
    scope: str
    unit: str
    needed: int
    left: int


class Ended(msgspec.Struct, frozen=True):
    """What is read of the fact that ends a completion."""

    completion: str
    usage: Usage


class Account(msgspec.Struct, frozen=True, kw_only=True):
    """A scope's budget, or (``kind`` "call") what a call holds of those of its ``scopes``. Money in micro-dollars.

    Of ``kind`` "model": the ``margin`` of tokens that it has at most used beyond what was reserved.
    """

    kind: Literal["scope", "call", "model"]
    name: str
    tokens: int | None = None
    cost: int | None = None
    period: Period = "total"
    day: str = ""
    """That which is counted, where it counts by day (UTC); of a call that on which it was reserved."""
    tokens_spent: int = 0
    cost_spent: int = 0
    tokens_held: int = 0
    cost_held: int = 0
    scopes: tuple[str, ...] = ()
    model: str = ""
    margin: int = 0
    price: Price = Price(0, 0)


class AccountsView(View[Account]):
    """Budgets and what is held of them, folded from reservations and ends of completions."""

    name = "budgets"
    query = (Filter(names=("budget:*", "completion:finished", "completion:interrupted")),)
    record = Account
    version = 3
    key = ("kind", "name")

    def apply(self, writer: ViewWriter, event: RecordedEvent) -> None:
        match event.name:
            case "budget:was_set":
                self._set(writer, event.into(BudgetWasSet))
            case "budget:was_removed":
                writer.delete("scope", event.into(BudgetWasRemoved).scope)
            case "budget:was_reserved":
                self._hold(writer, event.into(BudgetWasReserved), _day(event))
            case "completion:finished" | "completion:interrupted" | "budget:was_settled":
                self._settle(writer, event.into(Ended), _day(event))

    def _set(self, writer: ViewWriter, said: BudgetWasSet) -> None:
        known = writer.get("scope", said.scope) or Account(kind="scope", name=said.scope)
        writer.put(msgspec.structs.replace(known, tokens=said.tokens, cost=said.cost, period=said.period))

    def _hold(self, writer: ViewWriter, said: BudgetWasReserved, day: str) -> None:
        output = said.output_tokens + said.margin
        tokens, cost = said.input_tokens + output, said.price.cost(input_tokens=said.input_tokens, output_tokens=output)
        for scope in said.scopes:
            account = _of_day(writer.get("scope", scope), day)
            if account is not None:
                held = (account.tokens_held + tokens, account.cost_held + cost)
                writer.put(msgspec.structs.replace(account, tokens_held=held[0], cost_held=held[1]))
        writer.put(
            Account(
                kind="call",
                name=said.completion,
                tokens_held=tokens,
                cost_held=cost,
                scopes=tuple(said.scopes),
                model=_model(said.provider, said.model),
                margin=said.margin,
                price=said.price,
                day=day,
            )
        )

    def _settle(self, writer: ViewWriter, ended: Ended, day: str) -> None:
        call: Account | None = writer.get("call", ended.completion)
        if call is None:
            return  # nothing of it was capped
        tokens, cost = _used(call, ended.usage)
        self._note_margin(writer, call, tokens)
        for scope in call.scopes:
            account = _of_day(writer.get("scope", scope), day)
            if account is not None and (account.period == "total" or call.day == day):
                writer.put(
                    msgspec.structs.replace(
                        account,
                        tokens_held=max(0, account.tokens_held - call.tokens_held),
                        cost_held=max(0, account.cost_held - call.cost_held),
                        tokens_spent=account.tokens_spent + tokens,
                        cost_spent=account.cost_spent + cost,
                    )
                )
        writer.delete("call", ended.completion)

    def _note_margin(self, writer: ViewWriter, call: Account, tokens: int) -> None:
        beyond = min(tokens - (call.tokens_held - call.margin), MARGIN_MAX)
        known = writer.get("model", call.model)
        if beyond > (known.margin if known else 0):
            writer.put(Account(kind="model", name=call.model, margin=beyond))


def _used(call: Account, usage: Usage) -> tuple[int, int]:
    """Tokens and money. Of a call whose provider did not say it, all that was reserved: nobody knows what was paid."""
    tokens = usage.input_tokens + usage.output_tokens
    cost = call.price.cost(input_tokens=usage.input_tokens, output_tokens=usage.output_tokens)
    return (max(tokens, call.tokens_held), max(cost, call.cost_held)) if usage.estimated else (tokens, cost)


def _model(provider: str, model: str) -> str:
    return f"{provider}/{model}"


def _day(event: RecordedEvent) -> str:
    return event.recorded_at.date().isoformat()


def _of_day(account: Account | None, day: str) -> Account | None:
    """The account as it stands on ``day``; a call counts for the day on which it was reserved."""
    if account is None or account.period == "total" or account.day == day:
        return account
    return msgspec.structs.replace(account, day=day, tokens_spent=0, cost_spent=0, tokens_held=0, cost_held=0)


# ── what clients see ─────────────────────────────────────────────────────────────────────────────────────────────────
class ShownBudget(msgspec.Struct, frozen=True, kw_only=True):
    """A budget. Money in dollars; ``held`` is taken out by calls under way, or that a crash cut off."""

    scope: str
    period: Period
    tokens: int | None
    tokens_spent: int
    tokens_held: int
    cost: float | None
    cost_spent: float
    cost_held: float


class ShownBudgets(msgspec.Struct, frozen=True):
    budgets: list[ShownBudget]


class Reservation(msgspec.Struct, frozen=True, kw_only=True):
    """``granted`` false: ``scope`` has only ``left`` of its ``unit`` where ``needed`` may be used.

    ``output_tokens`` may be written: what was asked for, or what there is room for.
    """

    granted: bool
    output_tokens: int = 0
    scope: str | None = None
    unit: str | None = None
    needed: int = 0
    left: int = 0


class Reserve(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A call that is about to be made. ``output_tokens`` null: what there is room for, of ``output_tokens_max``."""

    completion: str
    scopes: list[Scope]
    provider: str
    model: str
    input_tokens: int
    output_tokens: int | None
    output_tokens_max: int = OUTPUT_TOKENS_MAX
    price: Price


CALL: Mapping[str, Any] = {
    "completion": "01JD8Z", "scopes": ["agent:ada"], "provider": "script", "model": "script", "input_tokens": 12,
    "output_tokens": 64, "price": {"input": 0, "output": 0},
}  # fmt: skip


class Budget(AsyncPlugin):
    """Keeps caps, and is asked before every call of a model."""

    name = "budget"
    views = (AccountsView,)
    provides = (Budgets,)

    async def initialize(self) -> None:
        services = self.host.services
        settings: Settings = services.get(Config) if services.provider_of(Config) else Settings()
        self._prices = {
            model: Price(dollars(said.input), dollars(said.output)) for model, said in settings.prices.items()
        }

    def services(self) -> Mapping[type, Any]:
        return {Budgets: self}

    # ── caps ─────────────────────────────────────────────────────────────────────────────────────────────────────────
    @event("budget:set", key=lambda _: KEY, examples=[{"scope": "agent:ada", "tokens": 500, "cost": 0.1}])
    async def set_budget(
        self,
        scope: Scope,
        context: EventContext,
        tokens: Tokens | None = None,
        cost: Dollars | None = None,
        period: Annotated[Period, Meta(description="counted from now on, or anew each day (UTC)")] = "total",
        if_absent: Annotated[bool, Meta(description="leave a cap as it is that is there already")] = False,
    ) -> ShownBudget:
        """Cap what a scope may use. What it has used since its first cap counts on."""
        known = await context.view(AccountsView).get("scope", scope)
        if if_absent and known is not None:
            return _shown(_today(known, context))
        money = None if cost is None else dollars(cost)
        said = BudgetWasSet(scope=scope, tokens=tokens, cost=money, period=period)
        context.append(f"budget/{scope}", said)
        known = known or Account(kind="scope", name=scope)
        return _shown(msgspec.structs.replace(known, tokens=tokens, cost=money, period=period))

    @event("budget:remove", key=lambda _: KEY, errors=["not_found"], examples=[{"scope": "agent:ada"}])
    async def remove(self, scope: Scope, context: EventContext) -> ShownBudget:
        """Cap a scope no more."""
        known = await context.view(AccountsView).get("scope", scope)
        if known is None:
            raise NotFoundError("budget", scope)
        context.append(f"budget/{scope}", BudgetWasRemoved(scope))
        return _shown(known)

    @query("budget:list", examples=[{}])
    async def list_budgets(self, context: EventContext) -> ShownBudgets:
        """List the caps, and how much of each is spent and held."""
        accounts = await all_records(context.view(AccountsView), None, "scope")
        return ShownBudgets([_shown(_today(account, context)) for account in accounts])

    # ── calls ────────────────────────────────────────────────────────────────────────────────────────────────────────
    async def reserve(self, context: EventContext, call: PaidCall) -> int | None:
        """See :class:`ksi.providers.budgets.Budgets`."""
        capped = [scope for scope in call.scopes if await self._is_capped(context, scope)]
        if not capped:
            return None
        price = price_of(call.provider, call.model, self._prices)
        if price is None and await self._is_money_capped(context, capped):
            raise UnsupportedError(f"nobody knows what {call.model!r} costs: set [prices] in ksi.toml")
        asked = Reserve(
            completion=call.call,
            scopes=capped,
            provider=call.provider,
            model=call.model,
            input_tokens=call.input_tokens,
            output_tokens=call.output_tokens,
            output_tokens_max=call.output_tokens_max,
            price=price or Price(0, 0),
        )
        answer = msgspec.convert(await context.request("budget:reserve", asked), Reservation)
        if not answer.granted:
            raise BudgetExceededError(
                answer.scope or "", unit=answer.unit or "", needed=answer.needed, left=answer.left
            )
        return answer.output_tokens

    def settle(self, context: EventContext, call: str, usage: Usage) -> None:
        """See :class:`ksi.providers.budgets.Budgets`."""
        context.append(f"reservation/{call}", BudgetWasSettled(call, usage))

    @event("budget:reserve", key=lambda _: KEY, examples=[CALL])
    async def take(self, request: Reserve, context: EventContext) -> Reservation:
        """Take a call out of the budgets of its scopes, or say which has not enough left."""
        found = [await context.view(AccountsView).get("scope", scope) for scope in request.scopes]
        accounts = [_today(account, context) for account in found if account is not None]
        known = await context.view(AccountsView).get("model", _model(request.provider, request.model))
        margin, output = known.margin if known else 0, request.output_tokens
        if output is None:
            output = min([request.output_tokens_max, *(_room(account, request, margin) for account in accounts)])
        tokens = request.input_tokens + output + margin
        cost = request.price.cost(input_tokens=request.input_tokens, output_tokens=output + margin)
        for account in accounts:
            scope, short = account.name, _short_of(account, tokens, cost)
            if short is not None:
                unit, needed, left = short
                exceeded = BudgetWasExceeded(
                    completion=request.completion, scope=scope, unit=unit, needed=needed, left=left
                )
                context.append(f"budget/{scope}", exceeded)
                return Reservation(granted=False, scope=scope, unit=unit, needed=needed, left=left)
        reserved = BudgetWasReserved(
            completion=request.completion,
            scopes=list(request.scopes),
            provider=request.provider,
            model=request.model,
            input_tokens=request.input_tokens,
            output_tokens=output,
            price=request.price,
            margin=margin,
        )
        context.append(f"reservation/{request.completion}", reserved)
        return Reservation(granted=True, output_tokens=output)

    async def _is_capped(self, context: EventContext, scope: str) -> bool:
        return await context.view(AccountsView).get("scope", scope) is not None

    async def _is_money_capped(self, context: EventContext, scopes: Sequence[str]) -> bool:
        accounts = [await context.view(AccountsView).get("scope", scope) for scope in scopes]
        return any(account is not None and account.cost is not None for account in accounts)


def _room(account: Account, request: Reserve, margin: int) -> int:
    """How many tokens a call that bounds nothing itself may write; at least one, so that an empty budget refuses it."""
    room = request.output_tokens_max
    if account.tokens is not None:
        room = min(room, account.tokens - account.tokens_spent - account.tokens_held - request.input_tokens)
    if account.cost is not None and request.price.output:
        left = (
            account.cost
            - account.cost_spent
            - account.cost_held
            - request.price.cost(input_tokens=request.input_tokens, output_tokens=0)
        )
        room = min(room, left * 1_000_000 // request.price.output)
    return max(1, room - margin)


def _short_of(account: Account, tokens: int, cost: int) -> tuple[str, int, int] | None:
    """Unit, what is needed and what is left, where it is not enough."""
    if account.tokens is not None:
        left = account.tokens - account.tokens_spent - account.tokens_held
        if tokens > left:
            return "tokens", tokens, max(0, left)
    if account.cost is not None:
        left = account.cost - account.cost_spent - account.cost_held
        if cost > left:
            return "micro-dollars", cost, max(0, left)
    return None


def _today(account: Account, context: EventContext) -> Account:
    return _of_day(account, context.now().date().isoformat()) or account


def _shown(account: Account) -> ShownBudget:
    return ShownBudget(
        scope=account.name,
        period=account.period,
        tokens=account.tokens,
        tokens_spent=account.tokens_spent,
        tokens_held=account.tokens_held,
        cost=None if account.cost is None else account.cost / 1e6,
        cost_spent=account.cost_spent / 1e6,
        cost_held=account.cost_held / 1e6,
    )
