"""Tokens from the command line: made, used, listed and revoked, with a daemon and without."""

import os
import re
from pathlib import Path

import msgspec
import pytest

from tests.cli.processes import Cli


def test_your_own_token_is_printed_as_text_and_stays_the_same(nowhere: Cli) -> None:
    first, again = nowhere("token"), nowhere("token")
    assert re.fullmatch(r"ksi_[0-9a-f]{8}_\S{43}\n", first.stdout)
    assert first.stdout == again.stdout == (nowhere.home / "token").read_text()
    (listed,) = nowhere.records("token", "list")
    assert (listed["principal"], listed["profile"], listed["expires_at"]) == (f"uid:{os.getuid()}", None, None)


def test_whoever_has_a_token_is_its_principal_until_it_is_revoked(ksi: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    token = ksi("token", "create", "--principal", "agent:ada", "--profile", "restricted", "--ttl", "1h").stdout.strip()
    monkeypatch.setenv("KSI_TOKEN", token)
    (rights,) = ksi.records("send", "permission:show")
    assert (rights["principal"], rights["profile"]) == ("agent:ada", "restricted")
    denied = ksi("send", "state:set", "key=a", "value=1", "--json")
    assert msgspec.json.decode(denied.stderr)["error"]["code"] == "permission_denied"
    (listed,) = [each for each in ksi.records("token", "list") if each["principal"] == "agent:ada"]
    assert ksi.text("token", "revoke", listed["id"]) == f"revoked {listed['id']} of agent:ada\n"
    refused = ksi("send", "system:health", "--json")
    assert (refused.returncode, msgspec.json.decode(refused.stderr)["error"]["code"]) == (1, "unauthorized")


@pytest.mark.parametrize(
    "arguments",
    [
        ("--principal", "agent:ada", "--profile", "nothing"),
        ("--principal", "agent:ben", "--profile", "restricted"),
        ("--ttl", "soon"),
        ("--ttl", "0s"),
        ("--ttl", "9" * 400 + "d"),
    ],
)
def test_a_token_that_would_not_do_what_it_says_is_a_usage_error(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    (tmp_path / "ksi.toml").write_text('[permission.principals]\n"agent:ben" = "trusted"\n')
    assert Cli(tmp_path)("token", "create", *arguments).returncode == 2
    assert Cli(tmp_path).records("token", "list") == []


def test_a_token_that_is_not_there_can_not_be_revoked(tmp_path: Path) -> None:
    done = Cli(tmp_path)("token", "revoke", "0123abcd")
    assert (done.returncode, "[not_found]" in done.stderr) == (1, True)
