"""What a completion takes out of the budgets that it counts for."""

from __future__ import annotations

from ksi.kernel.context import EventContext
from ksi.plugins.completion.choosing import Chosen, Plan
from ksi.providers.base import CompletionRequest, Usage
from ksi.providers.budgets import Budgets, PaidCall, input_tokens_max, scopes_of


class Paying:
    """The reservation of one completion. The fact that ends the completion settles it."""

    def __init__(self, context: EventContext, completion: str) -> None:
        self._context = context
        self._completion = completion
        self.is_reserved = False

    async def reserve(self, plan: Plan, choice: Chosen, request: CompletionRequest) -> int:
        """Take what it may cost out of every budget that it counts for.

        Returns:
            How many tokens it may write.

        Raises:
            BudgetExceededError: It might cost more than is left.
        """
        services = self._context.services
        if services.provider_of(Budgets) is None:
            return plan.max_tokens
        call = PaidCall(
            call=self._completion,
            scopes=self._scopes(plan, choice),
            provider=choice.provider,
            model=choice.model,
            input_tokens=input_tokens_max(request) + choice.overhead_tokens,
            output_tokens=plan.max_tokens if plan.is_bounded else None,
            output_tokens_max=plan.max_tokens,
        )
        granted = await services.get(Budgets).reserve(self._context, call)
        self.is_reserved = granted is not None
        return plan.max_tokens if granted is None else granted

    def give_back(self, usage: Usage) -> None:
        """It was ``usage``, and another provider is asked: with the next commit."""
        if self.is_reserved:
            self._context.services.get(Budgets).settle(self._context, self._completion, usage)
        self.is_reserved = False

    def _scopes(self, plan: Plan, choice: Chosen) -> tuple[str, ...]:
        said = plan.payload
        principal = self._context.principal
        return scopes_of(principal, choice.provider, conversation=said.conversation, agent=said.agent)
