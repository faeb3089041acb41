"""Permission profiles: which events a principal may ask for. Pure; the plugin ``permission`` enforces them."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from ksi.core.config import OPEN_PROFILE, PermissionSection, ProfileSection
from ksi.core.errors import ConfigError
from ksi.core.patterns import matches
from ksi.core.ports import Tokens

READING = (
    "system:health", "system:metrics", "system:discover", "system:help", "system:describe", "describe:*",
    "permission:list_profiles", "permission:check", "permission:show",
    "state:get", "state:list", "conversation:get", "conversation:list",
    "completion:models", "completion:status", "agent:list",
)  # fmt: skip
"""What looks at shared things and changes nothing."""
WATCHING = (
    "log:*", "event:subscribe", "monitor:*", "correlation:*", "entity:*", "plugin:list",
    "projection:list", "projection:status", "projection:parked",
)  # fmt: skip
"""What looks at the log: all that anybody ever said is in it."""
RULING = ("plugin:load", "plugin:unload", "plugin:reload", "system:shutdown")
"""What changes the daemon itself: whoever loads code may do all that the daemon may."""

BUILT_IN: Mapping[str, ProfileSection] = {
    OPEN_PROFILE: ProfileSection(allow=("*",)),
    "restricted": ProfileSection(allow=READING),
    "standard": ProfileSection(allow=(*READING, "state:*", "completion:*", "conversation:*", "agent:*")),
    "researcher": ProfileSection(allow=(*READING, *WATCHING, "completion:*", "conversation:*")),
    "trusted": ProfileSection(allow=("*",), deny=RULING),
}
DAEMON = "daemon"
"""The principal of tasks of the daemon's own; it is not limited."""


class Verdict(msgspec.Struct, frozen=True):
    """``rule`` names the line that decided: ``standard: allow state:*``."""

    allowed: bool
    profile: str
    rule: str


class Policy:
    """Who has which profile, and what the profiles say."""

    def __init__(self, section: PermissionSection, tokens: Tokens | None = None) -> None:
        """``tokens`` know the profiles that came with them; what the configuration says of a principal counts more."""
        self.profiles = {**BUILT_IN, **section.profiles}
        self._tokens = tokens
        self._principals = {DAEMON: OPEN_PROFILE, **section.principals}
        self._default = section.default_profile

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
        return self._principals.get(principal) or granted or self._default

    def decide(self, principal: str, event: str) -> Verdict:
        """Deny wins; what no pattern names is denied."""
        name = self.profile_of(principal)
        profile = self.profiles.get(name)
        if profile is None:
            return Verdict(False, name, f"{name}: no such profile")
        for allowed, word, patterns in ((False, "deny", profile.deny), (True, "allow", profile.allow)):
            for pattern in patterns:
                if matches(pattern, event):
                    return Verdict(allowed, name, f"{name}: {word} {pattern}")
        return Verdict(False, name, f"{name}: nothing allows it")
