"""Permission profiles: which events a principal may ask for. Pure; the plugin ``permission`` enforces them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

import msgspec

from ksi.core.config import OPEN_PROFILE, PermissionSection, ProfileSection
from ksi.core.errors import ConfigError
from ksi.core.patterns import matches
from ksi.core.ports import Tokens

READING = (
    "system:health", "system:metrics", "system:discover", "system:help", "system:describe", "describe:*",
    "permission:list_profiles", "permission:check", "permission:show", "mcp:tools", "mcp:servers",
    "state:get", "state:list",
    "conversation:get", "conversation:list", "conversation:search", "conversation:export",
    "completion:models", "completion:status", "agent:list",
    "composition:list", "composition:get", "composition:compose", "composition:validate",
)  # fmt: skip
"""What looks at shared things and changes nothing."""
WATCHING = (
    "log:*", "event:subscribe", "monitor:*", "correlation:*", "entity:*", "plugin:list",
    "projection:list", "projection:status", "projection:parked",
)  # fmt: skip
"""What looks at the log: all that anybody ever said is in it."""
RULING = (
    "plugin:load", "plugin:unload", "plugin:reload", "system:shutdown",
    "permission:grant", "permission:revoke", "permission:assign", "permission:approve", "permission:deny",
    "budget:set", "budget:remove",
)  # fmt: skip
"""What changes the daemon itself, or what others may: whoever loads code may do all that the daemon may."""

BUILT_IN: Mapping[str, ProfileSection] = {
    OPEN_PROFILE: ProfileSection(allow=("*",)),
    "restricted": ProfileSection(allow=READING),
    "standard": ProfileSection(allow=(*READING, "state:*", "completion:*", "conversation:*", "agent:*", "message:*")),
    "researcher": ProfileSection(allow=(*READING, *WATCHING, "completion:*", "conversation:*")),
    "trusted": ProfileSection(allow=("*",), deny=RULING),
}
DAEMON = "daemon"
"""The principal of tasks of the daemon's own; it is not limited."""


Word = Literal["deny", "ask", "allow"]


class Verdict(msgspec.Struct, frozen=True):
    """``rule`` names the line that decided: ``standard: allow state:*``. What must be asked for is not denied."""

    word: Word
    profile: str
    rule: str

    @property
    def allowed(self) -> bool:
        return self.word == "allow"


class Grant(msgspec.Struct, frozen=True):
    """What a principal was given at run time, beside its profile."""

    allow: tuple[str, ...] = ()
    deny: tuple[str, ...] = ()
    ask: tuple[str, ...] = ()


class Policy:
    """Who has which profile, and what the profiles say."""

    def __init__(self, section: PermissionSection, tokens: Tokens | None = None) -> None:
        """``tokens`` know the profiles that came with them; what the configuration says of a principal counts more."""
        self.profiles = {**BUILT_IN, **section.profiles}
        self._tokens = tokens
        self._principals = {DAEMON: OPEN_PROFILE, **section.principals}
        self._default = section.default_profile
        self._grants: dict[str, Grant] = {}
        self._assigned: dict[str, str] = {}
        self.generation = object()
        """Another one whenever a verdict may have changed."""

    def granted(self, principal: str) -> Grant:
        return self._grants.get(principal, _NOTHING)

    def give(self, principal: str, grant: Grant | None) -> None:
        """Count ``grant`` in from now on, in place of an earlier one; None takes it back."""
        if grant is None:
            self._grants.pop(principal, None)
        else:
            self._grants[principal] = grant
        self.generation = object()

    def assign(self, principal: str, profile: str | None) -> None:
        """Give a principal a profile, or take back the one that it was given. The configuration counts more."""
        if profile is None:
            self._assigned.pop(principal, None)
        else:
            self._assigned[principal] = profile
        self.generation = object()

    def exceeding(self, profile: str, principal: str, events: Iterable[str]) -> str | None:
        """An event that ``profile`` allows, or lets ask for, where ``principal`` may do less; None: there is none."""
        for event in events:
            ours = _WORDS.index(self.decide(principal, event).word)
            if _WORDS.index(self._decided(profile, event, _NOTHING).word) > ours:
                return event
        return None

    def patterns(self, profile: str, principal: str, prefix: str) -> set[str]:
        """All patterns that begin with ``prefix`` and decide what ``profile`` allows, or what ``principal`` may do."""
        ruling: list[ProfileSection | Grant] = [self.granted(principal)]
        ruling += (self.profiles.get(name, ProfileSection()) for name in (profile, self.profile_of(principal)))
        lists = [each for found in ruling for each in (found.allow, found.deny, found.ask)]
        return {pattern for each in lists for pattern in each if pattern.startswith(prefix)}

    def refuse_unknown(self) -> None:
        """Raises ConfigError where a principal, or everybody, has a profile that does not exist."""
        used = {"permission.default_profile": self._default}
        used |= {f"permission.principals.{principal}": name for principal, name in self._principals.items()}
        for place, name in used.items():
            if name not in self.profiles and (place, name) != ("permission.principals.daemon", OPEN_PROFILE):
                raise ConfigError(f"no profile {name!r}: choose of {', '.join(sorted(self.profiles))}", where=place)

    def profile_of(self, principal: str) -> str:
        """The name of the principal's profile."""
        granted = None if self._tokens is None else self._tokens.profile_of(principal)
        return self._principals.get(principal) or granted or self._assigned.get(principal) or self._default

    def decide(self, principal: str, event: str) -> Verdict:
        """Deny wins, then ask; what no pattern names is denied. Grants count before the profile."""
        return self._decided(self.profile_of(principal), event, self._grants.get(principal, _NOTHING))

    def _decided(self, name: str, event: str, granted: Grant) -> Verdict:
        profile = self.profiles.get(name)
        if profile is None:
            return Verdict("deny", name, f"{name}: no such profile")
        return (
            _first(event, name, "deny", (("grant", granted.deny), (name, profile.deny)))
            or _first(event, name, "allow", (("grant", granted.allow),))
            or _first(event, name, "ask", (("grant", granted.ask), (name, profile.ask)))
            or _first(event, name, "allow", ((name, profile.allow),))
            or Verdict("deny", name, f"{name}: nothing allows it")
        )


_NOTHING = Grant()
_WORDS: Sequence[Word] = ("deny", "ask", "allow")


def _first(event: str, profile: str, word: Word, lists: Iterable[tuple[str, Sequence[str]]]) -> Verdict | None:
    for source, patterns in lists:
        for pattern in patterns:
            if matches(pattern, event):
                return Verdict(word, profile, f"{source}: {word} {pattern}")
    return None
