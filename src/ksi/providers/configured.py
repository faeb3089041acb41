"""The providers that the configuration offers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import cycle
from pathlib import Path

import msgspec

from ksi.core.config import AnthropicSection, ClaudeSection, Config, OpenAISection, Secret
from ksi.core.errors import ConfigError
from ksi.providers.base import CompletionRequest, Provider
from ksi.providers.desk import Desk, Offer
from ksi.providers.model import SMOLLM2
from ksi.providers.prices import Price, dollars
from ksi.providers.timeouts import Timeouts

LOCAL, OPENAI, ANTHROPIC, CLAUDE = "local", "openai", "anthropic", "claude"
SCRIPT, REPLAY = "script", "replay"

CLI_TOKENS = 2_048
"""The Claude CLI tells its model of the machine, the day and itself: some 1,400 bytes of 2026-11."""


def desk_of(config: Config) -> Desk:
    """All providers of ``config``. None of them is imported before its first use: httpx alone is a third of a start.

    Raises:
        ConfigError: The default, or one of the chain, is none of them.
    """
    completion, default = config.completion, config.providers.default
    offers = [_local(config), _openai(config), _anthropic(config), _claude(config), *_rehearsed(config)]
    named = {"providers.default": [default], "completion.failover": completion.failover}
    for where, entries in named.items():
        _check(entries, [offer.name for offer in offers], where)
    return Desk(
        offers,
        default=default,
        queue_size_max=completion.queue_size_max,
        failover=completion.failover,
        retry_after_max=completion.retry_after_max,
        prices=prices_of(config),
        timeouts=Timeouts(first_token=completion.first_token_timeout, between_tokens=completion.between_tokens_timeout),
    )


def _check(entries: Iterable[str], names: Sequence[str], where: str) -> None:
    for entry in entries:
        if entry.partition("/")[0] not in names:
            raise ConfigError(f"no provider {entry!r}: there are {', '.join(names)}", where=where)


def prices_of(config: Config) -> dict[str, Price]:
    """What ``[prices]`` says."""
    return {model: Price(dollars(said.input), dollars(said.output)) for model, said in config.prices.items()}


def _local(config: Config) -> Offer:
    threads, slots = config.providers.local.threads, config.providers.local.slots

    def make() -> Provider:
        from ksi.providers.local import LocalProvider  # lazy, see desk_of

        return LocalProvider(threads=threads, slots=slots, log_path=config.home.logs / "model.log")

    # No more than the child has slots: who waits there would wait without its priority.
    return Offer(name=LOCAL, make=make, models=(SMOLLM2.name,), concurrent=min(slots, config.completion.per_provider))


def _openai(config: Config) -> Offer:
    section = config.providers.openai

    def make() -> Provider:
        from ksi.providers.openai import OpenAIProvider  # lazy, see desk_of

        return OpenAIProvider(base_url=section.base_url, api_key=_revealed(section.api_key))

    return _remote(config, OPENAI, section, make)


def _anthropic(config: Config) -> Offer:
    section = config.providers.anthropic

    def make() -> Provider:
        from ksi.providers.anthropic import AnthropicProvider  # lazy, see desk_of

        return AnthropicProvider(base_url=section.base_url, api_key=_revealed(section.api_key))

    return _remote(config, ANTHROPIC, section, make)


def _claude(config: Config) -> Offer:
    section = config.providers.claude

    def make() -> Provider:
        from ksi.providers.claude import ClaudeProvider  # lazy, see desk_of

        return ClaudeProvider(command=section.command, models=section.models, log_path=config.home.logs / "claude.log")

    return _remote(config, CLAUDE, section, make, overhead_tokens=CLI_TOKENS)


def _remote(
    config: Config,
    name: str,
    section: OpenAISection | AnthropicSection | ClaudeSection,
    make: Callable[[], Provider],
    **more: int,
) -> Offer:
    """Somebody else's models: others than those that are named may be there, and nobody may have set it up."""
    return Offer(
        name=name,
        make=make,
        models=section.models,
        concurrent=config.completion.per_provider,
        is_open=True,
        is_configured=section != type(section)(),
        **more,
    )


def _revealed(key: Secret | None) -> str | None:
    return None if key is None else key.reveal()


def _rehearsed(config: Config) -> Iterator[Offer]:
    """Those who only say what they were told: there where they were told something."""
    texts, recordings = config.providers.script, config.providers.replay
    if texts:
        yield Offer(name=SCRIPT, make=lambda: _script(texts), models=(SCRIPT,))
    if recordings is not None:
        yield Offer(name=REPLAY, make=lambda: _replay(Path(recordings)))


def _script(texts: tuple[str, ...]) -> Provider:
    from ksi.providers.script import ScriptProvider  # lazy, see desk_of

    turns = cycle(texts)

    def answer(request: CompletionRequest) -> str:
        begun = request.continue_text
        return next((text for text in texts if begun and text.startswith(begun)), None) or next(turns)

    return ScriptProvider(answer)


def _replay(path: Path) -> Provider:
    from ksi.providers.replay import ReplayProvider, read_recordings  # lazy, see desk_of

    try:
        recordings = read_recordings(path)
    except (OSError, msgspec.DecodeError) as error:
        raise ConfigError(f"no recordings: {error}", where="providers.replay") from None
    return ReplayProvider(recordings)
