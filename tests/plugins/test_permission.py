"""Permissions and rates, enforced around real handlers."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ksi.core.config import Config, LimitsSection, PermissionSection, ProfileSection
from ksi.core.envelope import EventEnvelope
from ksi.core.errors import ConfigError, KSIError, OverloadedError, PermissionDeniedError
from ksi.core.home import Home
from ksi.core.ports import Tokens
from ksi.kernel.context import EventContext
from ksi.kernel.declare import event, query
from ksi.kernel.door import Session
from ksi.kernel.plugin import AsyncPlugin
from ksi.plugins.permission import Permission
from ksi.plugins.profiles import BUILT_IN, Policy
from ksi.plugins.state import State
from ksi.transport.tokens import TokenStore
from tests.plugins.running import OWNER, running


class Work(AsyncPlugin):
    """Events to be allowed and denied."""

    name = "work"

    @query("work:look", inline=True)
    def look(self) -> str:
        return "seen"

    @query("work:wait")
    async def wait(self) -> str:
        return "seen"

    @event("work:do")
    async def do(self) -> str:
        return "done"

    @event("work:delegate")
    async def delegate(self, context: EventContext) -> Any:
        return await context.request("work:do")

    @query("work:hidden", inline=True, permission="secret:read")
    def hidden(self) -> str:
        return "secret"

    @query("work:many", inline=False)
    async def many(self, context: EventContext, times: int) -> int:
        for _ in range(times):
            await context.request("work:look")
        return times


def config(*, limits: LimitsSection | None = None, **profiles: ProfileSection) -> dict[type, Any]:
    """A configuration in which the owner has the profile ``mine``, and all others may do all."""
    permission = PermissionSection(profiles=profiles, principals={OWNER: "mine"} if "mine" in profiles else {})
    return {Config: Config(home=Home(Path("/")), permission=permission, limits=limits or LimitsSection())}


@pytest.mark.parametrize("name", ["work:look", "work:wait", "work:do"], ids=["inline", "async", "command"])
async def test_what_no_pattern_allows_is_denied(name: str) -> None:
    async with running(Permission, Work, services=config(mine=ProfileSection(allow=("state:*",)))) as daemon:
        with pytest.raises(PermissionDeniedError) as caught:
            await daemon.ask(name)
        assert (caught.value.principal, caught.value.event_name) == (OWNER, name)
        assert caught.value.rule == "mine: nothing allows it"
        assert await daemon.ask(name, principal="uid:2000") in ("seen", "done")


async def test_deny_wins_over_allow_and_names_its_line() -> None:
    mine = ProfileSection(allow=("*",), deny=("work:do",))
    async with running(Permission, Work, services=config(mine=mine)) as daemon:
        assert await daemon.ask("work:look") == "seen"
        with pytest.raises(PermissionDeniedError) as caught:
            await daemon.ask("work:do")
        assert caught.value.rule == "mine: deny work:do"


async def test_a_nested_request_needs_permission_too() -> None:
    mine = ProfileSection(allow=("work:delegate",))
    async with running(Permission, Work, services=config(mine=mine)) as daemon:
        with pytest.raises(PermissionDeniedError) as caught:
            await daemon.ask("work:delegate")
        assert caught.value.event_name == "work:do"


async def test_a_denial_is_a_fact_before_it_is_answered() -> None:
    async with running(Permission, Work, services=config(mine=ProfileSection())) as daemon:
        with pytest.raises(PermissionDeniedError):
            await daemon.ask("work:do")
        (denied,) = [event async for event in daemon.log.read_stream(f"permission/{OWNER}")]
        assert (denied.name, denied.data["event"]) == ("permission:denied", "work:do")


async def test_the_rule_that_allowed_is_recorded_with_the_request() -> None:
    async with running(Permission, Work, services=config(mine=ProfileSection(allow=("work:*",)))) as daemon:
        await daemon.ask("work:do")
        recorded = await daemon.log.at(1)  # type: ignore[arg-type]  # a position
        assert recorded is not None
        assert recorded.metadata["rule"] == "mine: allow work:*"


async def test_rules_see_the_name_that_an_event_declares() -> None:
    async with running(Permission, Work, services=config(mine=ProfileSection(allow=("work:*",)))) as daemon:
        with pytest.raises(PermissionDeniedError):
            await daemon.ask("work:hidden")
    async with running(Permission, Work, services=config(mine=ProfileSection(allow=("secret:*",)))) as daemon:
        assert await daemon.ask("work:hidden") == "secret"


async def test_who_asks_faster_than_allowed_is_told_when_to_come_back() -> None:
    limits = LimitsSection(rate_per_second=0.001, burst=2)
    async with running(Permission, Work, services=config(limits=limits)) as daemon:
        assert [await daemon.ask("work:look"), await daemon.ask("work:wait")] == ["seen", "seen"]
        with pytest.raises(OverloadedError) as caught:
            await daemon.ask("work:look")
        assert caught.value.retry_after == pytest.approx(1000, rel=0.01)
        assert await daemon.ask("work:look", principal="uid:2000") == "seen"


async def test_nested_requests_and_the_daemon_itself_are_admitted_already() -> None:
    limits = LimitsSection(rate_per_second=0.001, burst=1)
    async with running(Permission, Work, services=config(limits=limits)) as daemon:
        assert await daemon.ask("work:many", times=20) == 20
        for _ in range(20):
            await daemon.ask("work:look", principal="daemon")


async def test_a_profile_comes_with_a_token_unless_the_configuration_has_another(tmp_path: Path) -> None:
    tokens = TokenStore(tmp_path / "tokens.json")
    tokens.create("agent:ada", "looking")
    tokens.create(OWNER)
    looking = ProfileSection(allow=("work:delegate", "work:look"))
    services = config(mine=ProfileSection(allow=("work:do",)), looking=looking) | {Tokens: tokens}
    async with running(Permission, Work, services=services) as daemon:
        assert await daemon.ask("work:look", principal="agent:ada") == "seen"
        with pytest.raises(PermissionDeniedError) as caught:
            await daemon.ask("work:delegate", principal="agent:ada")
        assert (caught.value.event_name, caught.value.rule) == ("work:do", "looking: nothing allows it")
        assert await daemon.ask("work:do", principal=OWNER) == "done"


async def test_a_session_remembers_what_it_may() -> None:
    async with running(Permission, Work) as daemon:
        session = Session(principal=OWNER, source="test")
        for _ in range(2):
            daemon.kernel.router.dispatch(EventEnvelope.create("work:look"), session, lambda *_: None, None)
        assert session.cache["permission work:look"][1] == "open: allow *"


async def test_profiles_are_listed_as_the_original_clients_read_them() -> None:
    async with running(Permission) as daemon:
        listed = await daemon.ask("permission:list_profiles")
    assert {"restricted", "standard", "trusted", "researcher"} <= listed["profiles"].keys()
    for profile in listed["profiles"].values():
        assert isinstance(profile["tools"]["allowed"], list)
        assert isinstance(profile["tools"]["disallowed"], list)


async def test_a_check_says_what_would_happen_and_why() -> None:
    async with running(Permission, services=config(careful=BUILT_IN["restricted"])) as daemon:
        mine = await daemon.ask("permission:check", event="state:set")
        assert (mine["allowed"], mine["principal"], mine["rule"]) == (True, OWNER, "open: allow *")
        assert (await daemon.ask("permission:show"))["profile"] == "open"
        assert (await daemon.ask("permission:show", principal="daemon"))["limits"] is None


@pytest.mark.parametrize(
    ("profile", "allowed", "denied"),
    [
        ("restricted", "state:get", "state:set"),
        ("standard", "completion:create", "log:read"),
        ("researcher", "log:read", "state:set"),
        ("trusted", "log:read", "plugin:load"),
    ],
)
def test_the_built_in_profiles_differ_where_they_should(profile: str, allowed: str, denied: str) -> None:
    policy = Policy(PermissionSection(default_profile=profile))
    assert policy.decide(OWNER, allowed).allowed
    assert not policy.decide(OWNER, denied).allowed


@pytest.mark.parametrize(
    ("section", "place"),
    [
        (PermissionSection(default_profile="gone"), "permission.default_profile"),
        (PermissionSection(default_profile="trusted", principals={"uid:7": "gone"}), "permission.principals.uid:7"),
    ],
)
def test_a_profile_that_does_not_exist_is_named_with_its_place(section: PermissionSection, place: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Policy(section).refuse_unknown()
    assert caught.value.where == place
    assert "restricted" in str(caught.value)


def test_built_in_profiles_may_be_given_to_anybody() -> None:
    Policy(PermissionSection(default_profile="restricted", principals={"uid:7": "researcher"})).refuse_unknown()


def test_a_profile_that_does_not_exist_allows_nothing() -> None:
    verdict = Policy(PermissionSection(default_profile="gone")).decide(OWNER, "system:health")
    assert (verdict.allowed, verdict.rule) == (False, "gone: no such profile")


names = st.sampled_from(["a:x", "a:y", "b:x", "b:y"])
patterns = st.lists(st.sampled_from(["*", "a:*", "b:", "*:x", "a:y"]), max_size=3).map(tuple)


@given(names, patterns, patterns)
def test_an_event_is_allowed_where_a_pattern_allows_it_and_none_denies_it(
    name: str, allow: tuple[str, ...], deny: tuple[str, ...]
) -> None:
    fits = {
        "*": True, "a:*": name[0] == "a", "b:": name[0] == "b", "*:x": name[-1] == "x", "a:y": name == "a:y",
    }  # fmt: skip
    section = PermissionSection(default_profile="p", profiles={"p": ProfileSection(allow, deny)})
    expected = any(fits[one] for one in allow) and not any(fits[one] for one in deny)
    assert Policy(section).decide(OWNER, name).allowed is expected


async def test_a_stream_of_another_can_be_resumed_only_by_who_may_ask_for_it() -> None:
    async with running(Permission, State, Work, services=config(mine=ProfileSection(allow=("work:look",)))) as daemon:
        await daemon.ask("work:do", principal="uid:2000")
        first = await daemon.log.at(1)  # type: ignore[arg-type]  # a position
        assert first is not None
        ended: asyncio.Future[KSIError | None] = asyncio.get_running_loop().create_future()
        sink = EndSink(ended)
        daemon.kernel.router.resume(f"work/{first.event_id}@0", Session(principal=OWNER, source="test"), sink, 10)
        assert isinstance(await ended, PermissionDeniedError)


class EndSink:
    """Wants only the end."""

    def __init__(self, ended: asyncio.Future[KSIError | None]) -> None:
        self._ended = ended

    def chunk(self, at: str | None, raw: bytes) -> None: ...
    def opened(self, at: str) -> None: ...
    def gap(self, info: Any) -> None: ...

    def end(self, raw: bytes | None, error: KSIError | None) -> None:
        self._ended.set_result(error)
