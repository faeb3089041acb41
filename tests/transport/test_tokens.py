"""A token stands for a principal until it expires or is revoked, and is written down nowhere but where it is asked."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ksi.core.errors import ConfigError, ConflictError, NotFoundError, UnauthorizedError
from ksi.testing.loop import ManualClock
from ksi.transport.tokens import TokenStore


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def tokens(tmp_path: Path, clock: ManualClock) -> TokenStore:
    return TokenStore(tmp_path / "tokens.json", clock=clock)


def test_a_token_stands_for_its_principal_and_profile(tokens: TokenStore) -> None:
    identity = tokens.verify(tokens.create("agent:ada", "restricted"))
    assert (identity.principal, identity.profile) == ("agent:ada", "restricted")
    assert tokens.profile_of("agent:ada") == "restricted"
    assert tokens.profile_of("agent:ben") is None


def test_the_file_is_its_owners_alone_and_holds_no_token(tokens: TokenStore, tmp_path: Path) -> None:
    token = tokens.create("agent:ada")
    file = tmp_path / "tokens.json"
    assert file.stat().st_mode & 0o777 == 0o600
    assert token.rpartition("_")[2] not in file.read_text()
    assert [path.name for path in tmp_path.iterdir()] == ["tokens.json"]


@given(st.text(max_size=60))
def test_no_other_text_is_a_token(text: str) -> None:
    tokens = TokenStore(Path("/nowhere/tokens.json"))
    with pytest.raises(UnauthorizedError):
        tokens.verify(text)


def test_a_token_with_another_secret_is_refused(tokens: TokenStore) -> None:
    token = tokens.create("agent:ada")
    for wrong in (f"{token}x", token[:-1], token.replace("ksi_", "kis_"), ""):
        with pytest.raises(UnauthorizedError):
            tokens.verify(wrong)
    assert tokens.verify(token).principal == "agent:ada"


def test_a_token_expires(tokens: TokenStore, clock: ManualClock) -> None:
    token = tokens.create("agent:ada", ttl=60.0)
    clock.advance(59.0)
    assert tokens.verify(token).principal == "agent:ada"
    clock.advance(1.0)
    with pytest.raises(UnauthorizedError, match="expired"):
        tokens.verify(token)
    assert tokens.list() == []


def test_what_another_process_writes_counts_at_once(tokens: TokenStore, tmp_path: Path, clock: ManualClock) -> None:
    other = TokenStore(tmp_path / "tokens.json", clock=clock)
    first, second = tokens.create("agent:ada"), other.create("agent:ben")
    assert tokens.verify(second).principal == "agent:ben"
    other.revoke(other.verify(first).token_id)
    with pytest.raises(UnauthorizedError, match="revoked"):
        tokens.verify(first)
    assert [token.principal for token in tokens.list()] == ["agent:ben"]


def test_a_token_that_is_not_there_can_not_be_revoked(tokens: TokenStore) -> None:
    with pytest.raises(NotFoundError):
        tokens.revoke("0123abcd")


def test_one_that_is_rotated_has_the_same_rights_and_the_old_one_ends_with_its_grace(
    tokens: TokenStore, clock: ManualClock, tmp_path: Path
) -> None:
    old = tokens.create("agent:ada", "restricted", ttl=100)
    clock.advance(50)
    new = tokens.rotate(tokens.verify(old).token_id, grace=10)
    assert {tokens.verify(each).principal for each in (old, new)} == {"agent:ada"}
    assert tokens.verify(new).profile == "restricted"
    clock.advance(11)
    with pytest.raises(UnauthorizedError):
        tokens.verify(old)
    clock.advance(88)
    assert tokens.verify(new)
    clock.advance(2)
    with pytest.raises(UnauthorizedError):
        tokens.verify(new)
    own = tokens.default(tmp_path / "token", "uid:1")
    fresh = tokens.rotate_default(tmp_path / "token", "uid:1")
    assert (tokens.default(tmp_path / "token", "uid:1"), fresh != own) == (fresh, True)
    with pytest.raises(UnauthorizedError):
        tokens.verify(own)


def test_a_principal_has_one_profile(tokens: TokenStore) -> None:
    first = tokens.verify(tokens.create("agent:ada", "restricted"))
    with pytest.raises(ConflictError) as caught:
        tokens.create("agent:ada", "trusted")
    assert caught.value.details() == {"principal": "agent:ada", "profile": "restricted", "token": first.token_id}
    tokens.revoke(first.token_id)
    assert tokens.profile_of("agent:ada") == "restricted"
    assert tokens.verify(tokens.create("agent:ada", "trusted")).profile == "trusted"


def test_the_profile_of_a_user_of_the_machine_does_not_come_with_a_token(tokens: TokenStore) -> None:
    with pytest.raises(ConflictError, match=r"permission\.principals"):
        tokens.create("uid:1000", "restricted")
    assert tokens.verify(tokens.create("uid:1000")).profile is None


def test_the_default_token_stays_until_it_counts_no_more(tokens: TokenStore, tmp_path: Path) -> None:
    file = tmp_path / "token"
    token = tokens.default(file, "uid:1000")
    assert (file.read_text(), file.stat().st_mode & 0o777) == (f"{token}\n", 0o600)
    assert tokens.default(file, "uid:1000") == token
    tokens.revoke(tokens.verify(token).token_id)
    assert tokens.default(file, "uid:1000") != token


def test_a_file_that_is_spoiled_is_named(tokens: TokenStore, tmp_path: Path) -> None:
    (tmp_path / "tokens.json").write_text("{")
    with pytest.raises(ConfigError) as caught:
        tokens.list()
    assert caught.value.where == str(tmp_path / "tokens.json")
