"""Twenty agents at once on a provider that counts for itself: caps hold by its count, over a kill too."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from functools import partial
from itertools import pairwise
from pathlib import Path
from random import Random
from typing import Any

import pytest

from ksi.client.client import EventClient
from ksi.core.errors import BudgetExceededError, KSIError
from ksi.core.result import Failure
from ksi.testing.daemon_process import DaemonProcess
from tests.providers.faulty_server import STREAM_END, STREAM_HEAD, FaultyServer, Reply, answer, event, token, usage

AGENTS, PLACES = 20, 8
MAX_TOKENS = 400
CAP = 20_000
"""No call needs more than a twentieth of it."""


class Payee:
    """Answers each request, and counts what it would be paid for. Its usage is random, and known at the end only."""

    def __init__(self, server: FaultyServer) -> None:
        self.counted = 0
        self.in_flight = 0
        self.most_in_flight = 0
        self.is_honest = True
        self.full = asyncio.Event()
        """Set when every place is taken; until then nobody has an answer."""
        self._server = server
        self._random = Random(20)

    def pop(self, _: int) -> Reply:
        """The reply to the newest request: it stands where a server has a list of them."""
        body = self._server.bodies[-1]
        if "broken" in body["messages"][-1]["content"]:
            return answer(400, {"error": {"message": "broken"}})
        return partial(self._answer, body)

    def hold(self) -> None:
        """Let nobody go until every place is taken once more."""
        self.full.clear()

    async def _answer(self, body: dict[str, Any], reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        texts = [message["content"] for message in body["messages"]]
        read, written = sum(map(len, texts)) // 4, self._written(body["max_tokens"])
        self.counted += read + written
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        writer.write(STREAM_HEAD + token(f"re {texts[-1]}"))
        if self.in_flight == PLACES:
            self.full.set()
        try:
            await self.full.wait()
            is_said = self.is_honest or self._random.random() > 0.15
            writer.write(token("", finish="stop") + (usage(read, written) if is_said else b""))
            writer.write(event(b"[DONE]") + STREAM_END)
        finally:
            self.in_flight -= 1

    def _written(self, bound: int) -> int:
        if not self.is_honest and self._random.random() < 0.15:
            return bound + bound // 4
        return self._random.randint(1, bound)


@pytest.fixture
async def payee() -> AsyncIterator[Payee]:
    server = FaultyServer([])
    payee = Payee(server)
    server.replies = payee  # type: ignore[assignment]  # of a list it is asked for the next one only
    async with server.running():
        yield payee


@pytest.fixture
async def daemon(payee: Payee, tmp_path: Path) -> AsyncIterator[DaemonProcess]:
    settings = {
        "store.durability": "normal",
        "providers.default": "openai",
        "providers.openai.base_url": payee._server.address,
        "providers.openai.models": "m",
        "completion.per_provider": PLACES,
    }
    async with DaemonProcess(tmp_path / "home", settings=settings) as daemon:
        yield daemon


class Agents:
    """All of them, each asked by one who goes on until its budget is exceeded. The agent ``a0`` always fails."""

    def __init__(self, client: EventClient) -> None:
        self.ends: Counter[str] = Counter()
        self._client = client
        self._numbers = Counter[str]()

    async def spawn(self) -> None:
        for number in range(AGENTS):
            await self._client.request("agent:spawn", agent=f"a{number}", max_tokens=MAX_TOKENS)

    async def spend(self) -> None:
        """Until nobody can any more, also when nobody else holds something."""
        while any(await asyncio.gather(*(self._talk(f"a{number}") for number in range(AGENTS)))):
            pass

    async def _talk(self, agent: str) -> int:
        """How many answers it gave before it was refused."""
        answers = 0
        while True:
            self._numbers[agent] += 1
            text = f"{'broken' if agent == 'a0' else agent} {self._numbers[agent]}"
            said = await self._client.try_request("agent:send_message", agent=agent, text=text)
            if isinstance(said, Failure):
                self._note(agent, said.error)
                if agent == "a0" or isinstance(said.error, BudgetExceededError):
                    return answers
            else:
                answers += 1
                self.ends[agent] += 1

    def _note(self, agent: str, error: KSIError) -> None:
        self.ends[f"{'a0' if agent == 'a0' else 'others'} {error.code}"] += 1


async def spent(client: EventClient) -> int:
    """And held: what a kill cut off counts as spent."""
    (budget,) = (await client.request("budget:list"))["budgets"]
    return int(budget["tokens_spent"] + budget["tokens_held"])


async def assert_no_fork(client: EventClient, agent: str) -> None:
    """Each answer stands behind its question, and each question once, in order."""
    messages = (await client.request("conversation:get", conversation=f"agent-{agent}"))["messages"]
    said = [(message["role"], "".join(part["text"] for part in message["parts"])) for message in messages]
    asked = [int(text.split()[1]) for role, text in said if role == "user"]
    assert asked == sorted(set(asked))
    for (_, question), (role, text) in pairwise(said):
        assert role == "user" or text == f"re {question}"


async def test_caps_hold_by_the_providers_own_count_and_nearly_all_of_them_can_be_used(
    daemon: DaemonProcess, payee: Payee
) -> None:
    async with daemon.client() as client:
        agents = Agents(client)
        await agents.spawn()
        await client.request("budget:set", scope="all", tokens=CAP)
        await agents.spend()
        assert CAP * 0.95 <= payee.counted <= CAP
        assert payee.counted == await spent(client)
        assert set(agents.ends) == {
            *(f"a{n}" for n in range(1, AGENTS)),
            "a0 provider_invalid_request",
            "others budget_exceeded",
        }

        payee.is_honest = False
        payee.hold()
        await client.request("budget:set", scope="all", tokens=2 * CAP)
        spending = asyncio.create_task(agents.spend())
        await payee.full.wait()  # each of them has reserved, and none is settled
        await daemon.kill()
        await daemon.start()
        await spending
        assert payee.counted <= 2 * CAP
        assert 2 * CAP * 0.95 <= await spent(client) <= 2 * CAP
        assert payee.most_in_flight == PLACES
        for number in range(1, AGENTS):
            await assert_no_fork(client, f"a{number}")
